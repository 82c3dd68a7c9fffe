"""The published benchmarks: one small file each, on the protocol of `evaluation.protocol`. Imports no torch.

A file says how its folder looks, reads it, asks with the paper's prompt, and names the ways to score. They are added
here by name.
"""

from __future__ import annotations

from collections.abc import Mapping

from vlmablate.errors import unknown_name
from vlmablate.evaluation.behaviour.safety import SAFETY_PROBES
from vlmablate.evaluation.protocol import Benchmark
from vlmablate.evaluation.tasks import (
    ai2d,
    coco_objects,
    gqa,
    ocid_ref,
    pope,
    refcoco,
    tallyqa,
    textvqa,
    vizwiz,
    vqav2,
    vsr,
)
from vlmablate.evaluation.tasks.loading import load, slimmed
from vlmablate.evaluation.tasks.task import Task

__all__ = ["TASKS", "Task", "load", "slimmed", "task_named"]

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        vqav2.TASK,
        gqa.TASK,
        vizwiz.TASK,
        textvqa.TASK,
        textvqa.TASK_OCR,
        *refcoco.TASKS,
        ocid_ref.TASK,
        vsr.TASK,
        tallyqa.TASK,
        pope.TASK,
        ai2d.TASK,
        coco_objects.TASK,
        Task(SAFETY_PROBES.name, lambda variant: SAFETY_PROBES, ("words",)),
    )
}


def task_named(name: str, variant: str | None = None, frame: str | None = None) -> Benchmark:
    """The published benchmark of that exact name, scored as `variant` says, boxes read in `frame`.

    Without them the defaults hold: what the paper's evaluation does, except that boxes are read in the frame of the
    square that the model saw.

    Raises UserError that lists what exists for a task, a variant or a frame that does not.
    """
    if name not in TASKS:
        raise unknown_name("published benchmark", name, TASKS)
    return TASKS[name](variant, frame)
