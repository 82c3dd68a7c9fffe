"""What an accelerator can do, as its maker states it: dense bfloat16 operations per second, and memory.

Model FLOPs utilisation (MFU) is the share of this peak that a training reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlmablate.errors import unknown_name


@dataclass(frozen=True)
class Accelerator:
    """`peak`: dense bfloat16 operations per second, without sparsity. `memory`: bytes."""

    name: str
    peak: float
    memory: float


# Makers' data sheets (SXM modules where there are several forms).
ACCELERATORS = {
    each.name: each
    for each in (
        Accelerator("a100-40gb", 312e12, 40e9),
        Accelerator("a100-80gb", 312e12, 80e9),
        Accelerator("h100", 989.4e12, 80e9),
        Accelerator("h200", 989.4e12, 141e9),
        Accelerator("l40s", 362e12, 48e9),
    )
}


def accelerator(name: str) -> Accelerator:
    """The accelerator of that name. Raises UserError that lists those there are."""
    if name not in ACCELERATORS:
        raise unknown_name("accelerator", name, ACCELERATORS, "gpu=")
    return ACCELERATORS[name]
