"""The processes that train one model together, and what they tell each other.

How a model is laid out over them is in :mod:`vlmablate.training.parallelize`. Alone, a :class:`Ranks` costs nothing and
changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmablate.orchestration.context import StepContext

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Longer than rank 0 takes to write a large model; a rank that dies is noticed at once, by other means.
_PATIENCE = timedelta(minutes=60)


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together, and the device it computes on.

    `group` is the process group that carries what they say (None: the default one), `side` the one for `beside`.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)
    group: ProcessGroup | None = None
    side: ProcessGroup | None = None

    def share(self, value: Any) -> list[Any]:
        """What every rank gives, in the order of ranks; returns when all have called."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value, group=self.group)
        return values

    def total(self, *values: float) -> list[float]:
        """The sums of numbers over all ranks, in float64: the same bits on every rank."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(numbers, group=self.group)
        return numbers.tolist()

    def any_true(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return self.total(float(flag))[0] > 0

    def beside(self) -> Ranks:
        """The same ranks for a thread beside training, whose exchanges never meet those of training."""
        return replace(self, group=self.side)

    def full_state(self, module: nn.Module) -> dict[str, Tensor]:
        """Name -> whole tensor on rank 0, on the CPU; empty on the others. Call it on all ranks."""
        if self.size == 1:
            return {name: tensor.cpu() for name, tensor in module.state_dict().items()}
        from torch.distributed.tensor import DTensor

        state = {}
        for name, tensor in module.state_dict().items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.rank == 0:
                state[name] = whole.cpu()
        return state


ALONE = Ranks()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be sharded; shares its memory."""
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


def place_whole(whole: Tensor, target: Tensor) -> None:
    """Copy a tensor into one that may be sharded; then it is collective, and `whole` is that of rank 0."""
    if type(target) is not Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        whole = distribute_tensor(whole.to(target.device), target.device_mesh, target.placements)
    target.copy_(whole)


@contextmanager
def ranks_of(context: StepContext) -> Iterator[Ranks]:
    """The ranks of a step, connected while the block lasts.

    With more than one, the environment says where to meet (``MASTER_ADDR``, ``MASTER_PORT``, ``RANK``,
    ``WORLD_SIZE``). GPUs are used when ``execution.device`` is ``cuda``: each rank the one of its local rank.
    """
    device = torch.device("cpu")
    if context.execution.get("device") == "cuda":
        device = torch.device("cuda", context.local_rank)
        torch.cuda.set_device(device)
    if context.world_size == 1:
        yield Ranks(device=device)
        return
    # The gloo side carries what is no tensor of a GPU: decisions, hashes, the sum of losses.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        side: Any = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
        yield Ranks(context.rank, context.world_size, device, side=side)
    finally:
        torch.distributed.destroy_process_group()
