"""What a training step saves and goes on from: trained weights, optimiser, random states, and how far it is.
:mod:`vlmablate.training.saver` says when it is written.

One rank alone writes one file; several write the shards of torch.distributed.checkpoint (whose import would cost a
lone rank a second). Either can be gone on from by any number of ranks. What makes the files count, and how all ranks
choose the same ones, is :mod:`vlmablate.orchestration.checkpoint_folder`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmablate import files
from vlmablate.errors import UserError
from vlmablate.orchestration import checkpoint_folder
from vlmablate.orchestration.checkpoint_folder import Checkpoint
from vlmablate.training.ranks import Ranks, place_whole

WHOLE = "state.pt"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def state_of(module: nn.Module, optimiser: torch.optim.Optimizer, ranks: Ranks) -> dict[str, Tensor]:
    """What `load` needs, as it is now: its tensors are those of the training itself, and change with it.

    The schedule and the order of the data are functions of the step, which the note of a checkpoint holds.
    """
    return {
        **_weights(module),
        **_moments(module, optimiser),
        **{f"random.{ranks.rank}.{name}": tensor for name, tensor in _random_states(ranks).items()},
    }


def resume(
    out: Path, module: nn.Module, optimiser: torch.optim.Optimizer, ranks: Ranks
) -> Mapping[str, Any] | None:
    """Load the newest valid checkpoint of a step; returns its note, None where there is none. Raises as `load`."""
    found = checkpoint_folder.newest(out, ranks)
    return None if found is None else load(found, module, optimiser, ranks)


def load(
    found: Checkpoint, module: nn.Module, optimiser: torch.optim.Optimizer, ranks: Ranks
) -> Mapping[str, Any]:
    """Load a checkpoint into module and optimiser; returns its note. All ranks call it.

    With as many ranks as saved it, the steps that follow have the same bits as if nothing had happened. Raises
    UserError on all ranks when the checkpoint is not of this model.
    """
    keys, read = _open(found, ranks)
    wanted = _weights(module)
    moments = {key: tensor for key, tensor in _empty_moments(module).items() if key in keys}
    random = {f"random.{ranks.rank}.{name}": tensor for name, tensor in _random_states(ranks).items()}
    random = {key: tensor for key, tensor in random.items() if key in keys}
    try:
        read({**wanted, **moments, **random})
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{found.folder} does not fit the model of this step ({error}).\n"
            "Was the code changed since it was saved? Delete the folder to train from the beginning."
        ) from error
    for name, parameter in _trained(module).items():
        entries = {entry: moments.get(f"moment.{name}.{entry}") for entry in ("step", *_MOMENTS)}
        if entries["step"] is not None:
            optimiser.state[parameter] = entries
    _set_random_states({key.rpartition(".")[2]: tensor for key, tensor in random.items()}, ranks)
    return found.note


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _weights(module: nn.Module) -> dict[str, Any]:
    """What training changes; frozen parameters are where the step found them."""
    weights = {f"parameter.{name}": p.detach() for name, p in _trained(module).items()}
    return {**weights, **{f"buffer.{name}": buffer for name, buffer in module.named_buffers()}}


def _moments(module: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        f"moment.{name}.{entry}": optimiser.state[p][entry]
        for name, p in _trained(module).items()
        if p in optimiser.state
        for entry in ("step", *_MOMENTS)
    }


def _empty_moments(module: nn.Module) -> dict[str, Any]:
    empty: dict[str, Any] = {}
    for name, p in _trained(module).items():
        empty[f"moment.{name}.step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        empty |= {f"moment.{name}.{entry}": torch.zeros_like(p.detach()) for entry in _MOMENTS}
    return empty


def _random_states(ranks: Ranks) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(ranks.device)
    return states


def _set_random_states(states: Mapping[str, Tensor], ranks: Ranks) -> None:
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], ranks.device)


def write(state: Mapping[str, Tensor], folder: Path, ranks: Ranks) -> list[str]:
    """Write this rank's part, and on rank 0 the index of all; the names of these files. Call it on all ranks.

    Raises DiskFull or OSError when the disk is full, on all ranks where several write.
    """
    if ranks.size == 1:
        with files.write_with(folder / WHOLE) as target, open(target, "wb") as file:
            torch.save(
                dict(state), file
            )  # into a file of Python's, which tells a full disk from other errors
        return [WHOLE]
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    from vlmablate.training.shard_writer import ShardWriter

    try:
        save(dict(state), storage_writer=ShardWriter(folder), process_group=ranks.group)
    except CheckpointException as error:
        # It is no Exception, and says too much about where and too little about what.
        raise next(cause for cause, _ in error.failures.values()) from error
    names = [name for name in os.listdir(folder) if name.startswith(f"__{ranks.rank}_")]
    return [*names, ".metadata"] if ranks.rank == 0 else names


def _open(found: Checkpoint, ranks: Ranks) -> tuple[Collection[str], Callable[[dict[str, Tensor]], None]]:
    """The keys of a checkpoint, and a function that fills tensors with what was saved, whoever saved it.

    That function raises KeyError or ValueError, on all ranks, when something is missing or of another shape.
    """
    if WHOLE in found.files:
        saved = torch.load(found.folder / WHOLE, map_location="cpu", mmap=True, weights_only=True)
        return saved.keys(), partial(_take, saved)
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(found.folder)

    def read(wanted: dict[str, Tensor]) -> None:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*assuming the intent is to")
                load(wanted, storage_reader=reader, no_dist=ranks.size == 1)
        except CheckpointException as error:
            raise ValueError("; ".join(str(cause) for cause, _ in error.failures.values())) from error

    return reader.read_metadata().state_dict_metadata.keys(), read


def _take(saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Fill tensors, or this rank's shards of them, from whole ones."""
    for key, tensor in wanted.items():
        if saved[key].shape != tensor.shape:
            raise ValueError(f"{key} is {tuple(tensor.shape)}, saved was {tuple(saved[key].shape)}")
    for key, tensor in wanted.items():
        place_whole(saved[key], tensor)
