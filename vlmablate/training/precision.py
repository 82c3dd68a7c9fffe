"""In which precision a training computes, and in which it keeps what it changes.

What is trained is kept in float32 (master weights), and so are its gradients and the optimiser's moments: at a learning
rate of 2e-5 an update of AdamW is below half a unit in the last place of most bfloat16 weights, and would be rounded
away. What is frozen keeps the type it was loaded with.

With ``bf16`` the matrix products run in bfloat16 (autocast), on one rank or several. On several, the layers are also
gathered in bfloat16, half the bytes, so their norms and the stream between them are bfloat16 there; all else
(embeddings, projector, last norm, output embeddings) is gathered in float32. Gradients are summed over ranks in
float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vlmablate.errors import unknown_name

if TYPE_CHECKING:
    from torch.distributed.fsdp import MixedPrecisionPolicy


@dataclass(frozen=True)
class Precision:
    """`products`: type of matrix products and of gathered layers, None for that of the parameters."""

    products: torch.dtype | None


PRECISIONS: Mapping[str, Precision] = {"fp32": Precision(None), "bf16": Precision(torch.bfloat16)}


def precision_of(name: str) -> Precision:
    """Raises UserError for a name that is none of `PRECISIONS`."""
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS, "precision")
    return PRECISIONS[name]


def computing(name: str, device: torch.device) -> AbstractContextManager[None]:
    """The block in which a forward runs."""
    products = precision_of(name).products
    return torch.autocast(device.type, dtype=products or torch.bfloat16, enabled=products is not None)


def policies(name: str) -> tuple[MixedPrecisionPolicy, MixedPrecisionPolicy]:
    """How FSDP2 gathers and reduces: a layer, and what is in no layer."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    rest = MixedPrecisionPolicy(cast_forward_inputs=False)
    products = precision_of(name).products
    if products is None:
        return rest, rest
    return MixedPrecisionPolicy(param_dtype=products, reduce_dtype=torch.float32), rest
