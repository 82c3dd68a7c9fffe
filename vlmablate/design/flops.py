"""How many floating-point operations a step takes, for the kinds whose configuration tells. Pure, and rough: it sizes
a plan where nothing has been measured, and enters no identity.

A language model of N weights takes 2 N operations for each token that goes through it, 4 N more for each token that
it learns from, and 2 N of these when it is frozen and only hands the gradient on (Kaplan et al. 2020, section 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmablate.design.step_table import stage_of

FORWARD = 2
THROUGH_FROZEN = 4
TRAINING = 6

Config = Mapping[str, Any]


def flops(kind: str, config: Config, needs: Mapping[str, Config]) -> float | None:
    """Operations of a step, or None for a kind that does not know its size. Of a piece of a training (`trunks`) they
    are those of the whole.

    Args:
        kind: the step's kind.
        config: its config.
        needs: role -> config of the steps before it in its run; ``pretrain``, ``scenes`` and the tiles of
            ``features0`` are looked at.
    """
    try:
        if kind == "pretrain":
            return _text(config["llm"]["pretrain"], config)
        if kind == "posttrain":
            return _text(config["posttrain"], needs["pretrain"])
        if kind in ("align", "trunk", "finetune"):
            if (
                config.get("live") is not None
            ):  # towers that train cost more than the rest, at a speed of their own
                return None
            stage = config["stages"][stage_of(kind)]
            mixture = stage.get("mixture") or {}
            rows = float(stage["epochs"]) * float(needs["scenes"]["data"]["train_scenes"])
            scenes = rows / (1.0 - float(mixture.get("text_only", 0.0)))
            added = sum(float(count) for name, count in mixture.items() if name != "text_only")
            questions = float(stage.get("questions_per_visit", 1)) + added
            per_scene = _tokens(needs["pretrain"], questions, tiles_of(needs.get("features0") or {}))
            all_train = kind != "align" and stage.get("language", "full") == "full"
            each = TRAINING if all_train else THROUGH_FROZEN
            return each * weights(needs["pretrain"]["llm"]) * scenes * per_scene
    except (KeyError, TypeError, ValueError):
        return None
    return None


def _text(training: Config, language: Config) -> float:
    """Training on text, for a language model as `pretrain` configures it."""
    scenes = float(training["steps"]) * float(training["batch_scenes"])
    return TRAINING * weights(language["llm"]) * scenes * _tokens(language, training["questions_per_visit"])


def tiles_of(features: Config) -> int:
    """Grids of cells that a picture has; a projector that joins cells is not looked at."""
    tiles = (features.get("image") or {}).get("tiles")
    return 1 if tiles is None else int(tiles["side"]) ** 2 + bool(tiles["thumbnail"])


def _tokens(language: Config, questions: Any, tiles: int = 1) -> float:
    """Tokens of a scene with its questions: the cells of every tile, and a segment for each question."""
    return tiles * float(language["grid"]) ** 2 + float(questions) * float(language["llm"]["segment"])


def weights(llm: Config) -> float:
    """Weights of a language model without its vocabulary: as declared (``parameters``), else 12 layers width^2.

    Raises KeyError when the configuration gives neither.
    """
    declared = llm.get("parameters")
    if declared is not None:
        return float(declared)
    return 12.0 * float(llm["layers"]) * float(llm["width"]) ** 2
