"""The registry of step kinds: where the function of each kind lives. Only a worker imports one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlmablate.design.spec import StepSpec
from vlmablate.errors import unknown_name
from vlmablate.orchestration.context import StepContext

StepFunction = Callable[[dict[str, Any], dict[str, Path], Path, StepContext], dict[str, Any]]

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "scenes": "vlmablate.data.scenes_step:run",
        "pretrain": "vlmablate.training.text_steps:run_pretrain",
        "posttrain": "vlmablate.training.text_steps:run_posttrain",
        "features": "vlmablate.vlm.features_step:run",
        "align": "vlmablate.training.steps:run_align",
        "trunk": "vlmablate.training.steps:run_trunk",
        "finetune": "vlmablate.training.steps:run_finetune",
        "evaluate": "vlmablate.evaluation.step:run",
    }
)
"""kind -> ``module:function``. A job manifest carries its own copy, so a frozen job never depends on later
edits.
"""

TRAINING = frozenset({"pretrain", "posttrain", "align", "trunk", "finetune"})
"""Kinds of steps that train."""


def is_collective(step: StepSpec) -> bool:
    """Whether every rank of a job works on a step; others run on rank 0 alone. Published benchmarks are asked by all,
    each rank about its own pictures; questions about scenes are few.
    """
    return step.kind in TRAINING or "digests" in (step.config.get("benchmark") or {})


def resolve(kind: str, kinds: Mapping[str, str]) -> StepFunction:
    """Import the function of a kind.

    Raises:
        UserError: for a kind that ``kinds`` does not list.
        ImportError, AttributeError: when its module or function cannot be had.
    """
    if kind not in kinds:
        raise unknown_name("step kind", kind, kinds)
    module, _, function = kinds[kind].partition(":")
    loaded: StepFunction = getattr(importlib.import_module(module), function)
    return loaded
