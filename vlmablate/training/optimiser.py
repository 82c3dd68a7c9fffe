"""The optimiser of a training: AdamW over the parameters that train, by part of the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from vlmablate.errors import unknown_name
from vlmablate.training.tuning import parameter_groups

BETAS = (0.9, 0.95)


def adamw(
    module: nn.Module, learning_rate: float, weight_decay: float, rates: Mapping[str, float]
) -> torch.optim.AdamW:
    """Call it after sharding. Every group has a ``scale``: its rate is that of the schedule times the scale.

    Matrices and what has more axes decay, embeddings among them; biases, norms and other vectors or numbers do not.

    Args:
        rates: part of the module (``projector``, ``language.blocks``) -> its own peak learning rate. A parameter
            belongs to the innermost part that is named.

    Raises:
        UserError: for a part that the module does not have.
    """
    known = {name for name, _ in module.named_modules() if name}
    for part in rates:
        if part not in known:
            raise unknown_name(
                "part of the model", part, dict(module.named_children()), "the learning rates of parts"
            )
    inner_first = sorted(rates, key=lambda part: part.count("."), reverse=True)
    parts = {part: module.get_submodule(part) for part in inner_first}
    settings = {"learning_rate": learning_rate, "weight_decay": weight_decay, "learning_rates": rates}
    groups = parameter_groups({**parts, "": module}, settings)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)
