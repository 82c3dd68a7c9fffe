"""What a training gets done, and where its time goes. Measured in the process, written to its own files.

Every figure is of the present attempt, from its first step on: a training that goes on from a checkpoint starts anew,
perhaps on another machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch

from vlmablate.design.accelerators import ACCELERATORS
from vlmablate.orchestration.provenance import peak_memory_mb

DEVICES: Mapping[str, str] = MappingProxyType(
    {
        "NVIDIA A100-PCIE-40GB": "a100-40gb",
        "NVIDIA A100-SXM4-40GB": "a100-40gb",
        "NVIDIA A100 80GB PCIe": "a100-80gb",
        "NVIDIA A100-SXM4-80GB": "a100-80gb",
        "NVIDIA H100 80GB HBM3": "h100",
        "NVIDIA H200": "h200",
        "NVIDIA L40S": "l40s",
    }
)
"""What a driver calls a device -> its row in `design.accelerators`. Other forms of a chip have other peaks."""


def peak_of(device: torch.device) -> float | None:
    """Dense bfloat16 operations per second that a device can do; None for a CPU, and for what is not in `DEVICES`."""
    if device.type != "cuda":
        return None
    name = DEVICES.get(torch.cuda.get_device_name(device))
    return None if name is None else ACCELERATORS[name].peak


class Meter:
    """Counts the work of all ranks, and the time of this one.

    Args:
        device: that of this rank.
        ranks: how many devices share the work.
        peak: operations per second of one of them, for MFU.
        clock: seconds.
    """

    def __init__(
        self,
        device: torch.device,
        ranks: int,
        peak: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._device, self._ranks, self._peak, self._clock = device, ranks, peak, clock
        self._began = clock()
        self._tokens = self._positions = 0
        self._operations: float | None = 0.0
        self._waited = {"data": 0.0, "saving": 0.0}

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A stretch in which training stands still: for ``data``, or for ``saving``."""
        began = self._clock()
        try:
            yield
        finally:
            self._waited[what] += self._clock() - began

    def count(self, tokens: int, positions: int, operations: float | None) -> None:
        """An optimiser step is done.

        Args:
            tokens: text tokens of the global batch. positions: the same with padding, which costs as much.
            operations: floating-point operations of its forward and backward pass over all positions as the model needs
                them (no second forward of activation checkpointing); None: unknown, and then so is MFU.
        """
        self._tokens += tokens
        self._positions += positions
        known = self._operations is not None and operations is not None
        self._operations = self._operations + operations if known else None  # type: ignore[operator]

    def figures(self) -> dict[str, float]:
        """What is known of:

        * ``tokens_per_s``;
        * ``real_share``: tokens over positions;
        * ``data_wait_share``, ``saving_share``: of the wall time;
        * ``mfu``: model FLOPs utilisation, operations over what the devices could have done in the time (Chowdhery et
          al. 2022, appendix B);
        * ``peak_memory_mb``: of the device (as its allocator counts), or of this process on a CPU.
        """
        seconds = max(1e-9, self._clock() - self._began)
        found = {
            "tokens_per_s": round(self._tokens / seconds, 1),
            "real_share": round(self._tokens / max(1, self._positions), 4),
            "data_wait_share": round(self._waited["data"] / seconds, 4),
            "saving_share": round(self._waited["saving"] / seconds, 4),
            "peak_memory_mb": self._peak_memory(),
        }
        if self._operations and self._peak:
            found["mfu"] = round(self._operations / (seconds * self._peak * self._ranks), 4)
        return found

    def _peak_memory(self) -> float:
        if self._device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self._device) / 2**20, 1)
        return peak_memory_mb()
