"""How many floating-point operations a step takes, for the kinds whose configuration tells. Pure, and rough: it sizes
a plan where nothing has been measured, and enters no identity.

A language model of N weights takes 2 N operations for each token that goes through it, 4 N more for each token that
it learns from, and 2 N of these when it is frozen and only hands the gradient on (Kaplan et al. 2020, section 2.1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORWARD = 2
THROUGH_FROZEN = 4
TRAINING = 6

Config = Mapping[str, Any]


def flops(kind: str, config: Config, needs: Mapping[str, Config]) -> float | None:
    """Operations of a step, or None for a kind that does not know its size.

    Args:
        kind: the step's kind.
        config: its config.
        needs: role -> config of the steps before it in its run; ``pretrain`` and ``scenes`` are looked at.
    """
    try:
        if kind == "pretrain":
            return _pretrain(config)
        if kind in ("align", "finetune"):
            stage = config["stages"][kind]
            scenes = float(stage["epochs"]) * float(needs["scenes"]["data"]["train_scenes"])
            per_scene = _tokens(needs["pretrain"], stage.get("questions_per_visit", 1))
            each = TRAINING if kind == "finetune" else THROUGH_FROZEN
            return each * weights(needs["pretrain"]["llm"]) * scenes * per_scene
    except (KeyError, TypeError, ValueError):
        return None
    return None


def _pretrain(config: Config) -> float:
    training = config["llm"]["pretrain"]
    scenes = float(training["steps"]) * float(training["batch_scenes"])
    return TRAINING * weights(config["llm"]) * scenes * _tokens(config, training["questions_per_visit"])


def _tokens(language: Config, questions: Any) -> float:
    """Tokens of a scene with its questions: the cells of the grid, and a segment for each question."""
    return float(language["grid"]) ** 2 + float(questions) * float(language["llm"]["segment"])


def weights(llm: Config) -> float:
    """Weights of a language model without its vocabulary: as declared (``parameters``), else 12 layers width^2.

    Raises KeyError when the configuration gives neither.
    """
    declared = llm.get("parameters")
    if declared is not None:
        return float(declared)
    return 12.0 * float(llm["layers"]) * float(llm["width"]) ** 2
