"""Which part of a configuration enters which step: one table. Data.

A step's config holds exactly the subtrees that can change its result. The placement of work (threads, workers, device,
launcher, folders) and the words for people (axis, study, label, paper) appear in no row, so they cannot enter an id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

TRAINING_SEED = "$training_seed"

FEATURES = "features*"
"""In a row's ``deps``: one dependency per tower, with the roles features0, features1, …; none behind live towers."""

SCENES = "scenes"
"""In a row's ``deps``: the step that composes pictures. Where the data are published there is none: a stage learns from
its ``records``, looked at through live towers even while these stay frozen, and the benchmarks are published too."""

VALIDATION = "validation_scenes"
"""Role of the scenes that a trial of a tuning is evaluated on: a step of the kind ``scenes`` whose field ``validation``
says how many, and which makes no training pictures. None in the step that trainings learn from."""

TRUNK = "trunk"
"""In a row's ``deps``: the piece of a trunk that a step goes on from (`design.trunks`); none for one that begins."""

LEARNED = "learned_2d"
"""``position.name`` of a language model that adds learned codes; all others are rotary."""

SEQUENCE = "rope_1d"
"""``position.name`` of the language models of others: each brings its own code, and a picture counts on in it."""

FROZEN = "frozen"
"""``stages.finetune.vision`` of a run whose towers stay as they are. Their features are extracted once and read from
disk. Otherwise towers are live: finetuning looks at the pictures through them, its ``live`` says which towers and which
transform these are, and what it trains brings its own towers along for the evaluation."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        version: raise it when the meaning of the kind changes; every stored result of the kind is then
            retired.
        fields: config field of the step -> dotted path in the composed configuration, or ``$name`` for a
            value that the graph supplies (tower, weights, assets, seeds). Fields with seeds have no dots.
        deps: role -> role of the step in the run that fills it.
        added: fields that joined after ids had been given out, with the defaults at which they are left out.
    """

    version: int
    fields: Mapping[str, str]
    deps: Mapping[str, str]
    added: Mapping[str, Any] = field(default_factory=dict)


_PROJECTOR = {"projector.norm": True, "projector.hidden": 2}


def _finetuning(stage: str) -> Row:
    """A step that finetunes; stage: what supplies its settings."""
    return Row(
        1,
        {
            "projector": "projector",
            "position": "position",
            "stages.finetune": stage,
            "records": "$finetune_records",
            "live": "$live",
            "llm": "$causal",
            "seed": TRAINING_SEED,
            "precision": "precision",
        },
        {FEATURES: FEATURES, "init": "$init", "scenes": SCENES, "trunk": TRUNK},
        added={
            **_PROJECTOR,
            "llm": None,
            "records": None,
            "stages.finetune.language": "full",
            "stages.finetune.learning_rate_factors": {},
            "stages.finetune.schedule": "cosine",
            "stages.finetune.mixture": {"detailed": 0, "negative": 0, "text_only": 0.0},
            "stages.finetune.vision": FROZEN,
            "stages.finetune.vision_learning_rate": None,
            "live": None,
        },
    )


TABLE: Mapping[str, Row] = MappingProxyType(
    {
        "scenes": Row(
            1,
            {"data": "$data", "assets": "$assets", "validation": "$validation"},
            {},
            added={"validation": None},
        ),
        "pretrain": Row(
            1,
            {
                "llm": "$llm",
                "grid": "vision.grid",
                "rotary": "$rotary",
                "language": "$language",
                "precision": "precision",
            },
            {"scenes": SCENES},
            added={"llm.pretrain.text_only": 0.0, "rotary": None},
        ),
        "posttrain": Row(
            1,
            {"posttrain": "llm.posttrain", "precision": "precision"},
            {"language": "pretrain", "scenes": SCENES},
        ),
        "features": Row(
            1,
            {
                "tower": "$tower",
                "grid": "vision.grid",
                "image": "image",
                "precision": "precision",
                "weights": "$weights",
            },
            {"scenes": SCENES},
        ),
        "align": Row(
            1,
            {
                "projector": "projector",
                "position": "position",
                "stages.align": "stages.align",
                "records": "$align_records",
                "live": "$align_live",
                "llm": "$causal",
                "seed": TRAINING_SEED,
                "precision": "precision",
            },
            {FEATURES: FEATURES, "language": "$language_model", "scenes": SCENES},
            added={
                **_PROJECTOR,
                "llm": None,
                "records": None,
                "live": None,
                "stages.align.schedule": "cosine",
                "stages.align.learning_rate_factors": {},
            },
        ),
        "trunk": _finetuning("$piece"),
        "finetune": _finetuning("$finetune"),
        "evaluate": Row(
            1,
            {"benchmark": "$benchmark", "seed": "$evaluation_seed", "precision": "precision"},
            {"model": "finetune", FEATURES: FEATURES, "scenes": SCENES},
        ),
    }
)

LANGUAGE_FIELDS = ("name", "pictures")
"""The fields of ``data`` that decide the words of the language model."""


def seed_field(kind: str) -> str:
    """The field of a kind's config that holds the seed of training; empty without one."""
    return next((name for name, source in TABLE[kind].fields.items() if source == TRAINING_SEED), "")


def stage_of(kind: str) -> str:
    """The stage whose settings a kind of training step has, under ``stages``: a trunk is a piece of a finetuning."""
    return "finetune" if kind == "trunk" else kind
