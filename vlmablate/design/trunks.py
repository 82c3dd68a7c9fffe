"""Trainings of different length on one trunk: where they branch off, and into which pieces that cuts them. Pure.

``stages.finetune.branches`` lists lengths in epochs, rising, the same list in every arm. Under a ``wsd`` schedule whose
warm-up is a number of steps, a training of each of these lengths is the same as any longer one until it decays
(`Schedule.trunk`): that is its branch point. The way to the last branch point is cut at all of them into steps of the
kind ``trunk``, each of which goes on from the one before. A training is the ``finetune`` step that goes on from the
piece at its own branch point and only decays. Lengths 1, 1.25, 1.5, 2 and 3 with a decay of 0.1 take 2.7 epochs of
trunk and 0.875 of decays, in the place of 8.75.

A piece knows the length whose branch point it ends at and nothing of the arm that asks for it, so arms share it; and a
longer list of branches leaves the pieces of the shorter ones as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from vlmablate.design.mixture import Mixture
from vlmablate.design.schedule import Schedule
from vlmablate.errors import UserError

SETTING = "branches"
KIND = "trunk"

Stage = Mapping[str, Any]
"""The settings of a stage."""


def lengths(stage: Stage) -> list[float]:
    """The branches that a training passes or ends on, in epochs; none for one that stands alone."""
    listed = stage.get(SETTING)
    return [] if listed is None else [float(epochs) for epochs in listed if epochs <= stage["epochs"]]


def alone(stage: Stage) -> dict[str, Any]:
    """The settings of a training without its branches, which its ``finetune`` step need not know beside its trunk."""
    return {key: value for key, value in stage.items() if key != SETTING}


def piece(stage: Stage, epochs: float) -> dict[str, Any]:
    """The settings of the piece that ends where a training of `epochs` begins to decay. How it decays is not its."""
    schedule = Schedule.read(stage["schedule"])
    kept = {"name": schedule.name, "decay": schedule.decay, "warmup_steps": schedule.warmup_steps}
    return {**alone(stage), "epochs": epochs, "schedule": kept}


def share(kind: str, stage: Stage, before: Stage | None) -> float:
    """How much of its whole training a step does, 0 to 1; but for the rounding to steps.

    Args:
        kind: ``trunk`` or ``finetune``.
        stage: its settings.
        before: those of the piece that it goes on from; None: it starts from the beginning.
    """
    first = 0.0 if before is None else _stable(before) / float(stage["epochs"])
    last = _stable(stage) / float(stage["epochs"]) if kind == KIND else 1.0
    return last - first


def check_branches(stage: Stage, where: str, most_rows: Fraction | None = None) -> None:
    """Whether the settings of a stage can be trained on a trunk; nothing for a stage that has no branches.

    Args:
        where: the stage in words (``stages.finetune``).
        most_rows: rows of an epoch, or more; None: not known here. Then `training.trunks` judges the warm-up.

    Raises:
        UserError: for branches that are no rising list of epochs, a schedule other than wsd with ``warmup_steps``,
            epochs that are none of the branches, a warm-up longer than the first piece, and a piece without a step.
    """
    listed = stage.get(SETTING)
    if listed is None:
        return
    rising = isinstance(listed, list) and len(listed) > 0 and all(_number(epochs) for epochs in listed)
    if not rising or any(one >= other for one, other in zip([0, *listed], listed, strict=False)):
        raise UserError(
            f"{where}.{SETTING} is a rising list of epochs above 0, as in [1, 1.5, 2], or null, not {listed!r}"
        )
    schedule = Schedule.read(stage.get("schedule") or "cosine", f"{where}.schedule")
    if schedule.name != "wsd":
        raise UserError(
            f"{where}.{SETTING}: under {where}.schedule={schedule.name} trainings of different length share no "
            "trunk. Use {name: wsd, decay: 0.1, warmup_steps: 20}, or "
            f"{where}.{SETTING}=null"
        )
    if schedule.warmup_steps is None:
        raise UserError(
            f"{where}.{SETTING}: a warm-up that is a share of the steps is another one in every length. Set "
            f"{where}.schedule.warmup_steps, the same for all"
        )
    if stage["epochs"] not in listed:
        raise UserError(
            f"{where}.epochs={stage['epochs']} is none of {where}.{SETTING}={listed}: add it there in all arms"
        )
    if most_rows is not None:
        _check_points(listed, schedule, schedule.warmup_steps, most_rows / stage["batch_scenes"], where)


def most_rows(config: Mapping[str, Any]) -> Fraction | None:
    """Rows of a finetuning epoch on embedded scenes, or a few more: pictures without a question are none. None where
    the data do not say it."""
    scenes = (config.get("data") or {}).get("train_scenes")
    stage = (config.get("stages") or {}).get("finetune") or {}
    if not isinstance(scenes, int) or not isinstance(stage.get("batch_scenes"), int):
        return None
    return Fraction(scenes) / (1 - Mixture.read(stage.get("mixture")).text_only)


def _check_points(listed: list[float], schedule: Schedule, warm: int, batches: Fraction, where: str) -> None:
    """batches: of an epoch, or more."""
    before = 0
    for epochs in listed:
        steps = max(1, round(Fraction(str(epochs)) * batches))
        point = schedule.trunk(0.0, steps)
        if warm > steps - schedule.decay_steps(steps):
            raise UserError(
                f"{where}.schedule.warmup_steps={warm} is longer than the trunk of {epochs} epochs, {steps} steps with "
                f"the decay: warm up for fewer, or leave that length out of {where}.{SETTING}"
            )
        if point <= before:
            raise UserError(
                f"{where}.{SETTING}: the branch point of {epochs} epochs, step {point}, is not behind the one before, "
                f"step {before}: leave one of them out"
            )
        before = point


def _stable(stage: Stage) -> float:
    """Epochs before the decay."""
    return float(stage["epochs"]) * (1.0 - Schedule.read(stage["schedule"]).decay)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
