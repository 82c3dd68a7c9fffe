"""A published benchmark before its ways of scoring are chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlmablate.errors import UserError, unknown_name
from vlmablate.evaluation.protocol import Benchmark


@dataclass(frozen=True)
class Task:
    """Called with the names of a variant and a frame, or without, it gives the benchmark.

    Attributes:
        name: of the task and of its benchmark.
        make: (variant) -> benchmark, or (variant, frame) -> benchmark where answers are boxes.
        variants: ways to read and score an answer; the first is the default.
        frames: what the numbers of a box are shares of; the first is the default. None where no answer is a box.
    """

    name: str
    make: Callable[..., Benchmark]
    variants: tuple[str, ...]
    frames: tuple[str, ...] = ()

    def __call__(self, variant: str | None = None, frame: str | None = None) -> Benchmark:
        """Raises UserError for a variant or a frame that this task has not."""
        if variant is not None and variant not in self.variants:
            raise unknown_name(f"variant of {self.name}", variant, self.variants)
        chosen = variant or self.variants[0]
        if not self.frames:
            if frame is not None:
                raise UserError(f"{self.name} has no frame to choose ({frame!r}): its answers are no boxes")
            return self.make(chosen)
        if frame is not None and frame not in self.frames:
            raise unknown_name(f"frame of {self.name}", frame, self.frames)
        return self.make(chosen, frame)
