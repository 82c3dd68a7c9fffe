"""Tensors by name: number formats, strict comparison, and files that cannot run code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmablate.errors import UserError, unknown_name

State = Mapping[str, Tensor]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SHOWN = 4
"""How many names of each kind of mistake an error lists."""


def dtype_named(name: str) -> torch.dtype:
    """The number format of that exact name. Raises UserError that lists those there are."""
    if name not in DTYPES:
        raise unknown_name("number format", name, DTYPES, "the export")
    return DTYPES[name]


def plain(state: State, dtype: str) -> dict[str, Tensor]:
    """The tensors on the CPU in one number format, detached; they share memory with those given where nothing changes.

    A slice of a larger matrix gets memory of its own: it would otherwise be pickled with all of that matrix. float32 is
    exact for what trains here; bfloat16 rounds to the nearest, ties to even. Raises UserError for an unknown format.
    """
    wanted = dtype_named(dtype)
    return {name: _alone(tensor.detach().to("cpu", wanted).contiguous()) for name, tensor in state.items()}


def _alone(tensor: Tensor) -> Tensor:
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def check(found: State, expected: State, where: str) -> None:
    """Compare names and shapes.

    where: what was found, for the error. Raises UserError that lists the first of what is missing, too many, of another
    shape (with both), or no floating-point numbers, and how many there are.
    """
    wrong = []
    for what, names in (
        ("is missing", [name for name in expected if name not in found]),
        ("is not expected", [name for name in found if name not in expected]),
    ):
        wrong += _listed(names, what)
    both = [name for name in expected if name in found]
    shapes = [name for name in both if found[name].shape != expected[name].shape]
    wrong += _listed(
        [f"{name} {list(found[name].shape)}, not {list(expected[name].shape)}" for name in shapes],
        "is of another shape",
    )
    integers = [f"{name} ({found[name].dtype})" for name in both if not found[name].is_floating_point()]
    wrong += _listed(integers, "is quantised; export the checkpoint in floating point")
    if wrong:
        raise UserError(f"{where} does not fit:\n" + "\n".join(wrong))


def _listed(names: list[str], what: str) -> list[str]:
    if not names:
        return []
    rest = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"  {len(names)} {what}: {', '.join(names[:SHOWN])}{rest}"]


def strip(state: State, prefix: str) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def under(prefix: str, state: State) -> dict[str, Tensor]:
    """The tensors with a prefix before their names."""
    return {prefix + name: tensor for name, tensor in state.items()}


def read_pickle(path: Path) -> Any:
    """What torch.save wrote, read so that no code of the file is run.

    Raises UserError for a file that is missing or damaged, or that holds more than tensors and plain containers.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is damaged, or holds objects besides tensors, which could run code and are not read: "
            f"{str(error).strip().partition(chr(10))[0]}"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as a checkpoint of torch ({error})") from error


def tensors_of(value: Any, where: str) -> dict[str, Tensor]:
    """The same dictionary. Raises UserError unless it maps names to tensors."""
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    ):
        raise UserError(f"{where} is no dictionary of tensors by name")
    return dict(value)
