"""Which parameters of a module train: none, all, the last layers, or low-rank adapters (LoRA) beside frozen weights.

``how`` is data, as it stands in a configuration; :mod:`vlmablate.design.tuning_choices` says what there is and reads
it. With LoRA, W stays and W x + (alpha / rank) B A x is computed in its place, with A [rank, inputs] and B
[outputs, rank] trained (Hu et al. 2021, section 4.1).

Adapters come through peft. Saved are merged weights under the plain names, so who reads them needs no peft.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vlmablate.design.tuning_choices import How as How
from vlmablate.design.tuning_choices import read as read
from vlmablate.errors import UserError, unknown_name

_STREAM = 14  # apart from the streams of `training.steps`
_ADAPTER = "default"
_A, _B = f".lora_A.{_ADAPTER}.weight", f".lora_B.{_ADAPTER}.weight"
_BASE = ".base_layer."


def draws(seed: int) -> torch.Generator:
    """For :func:`apply`: follows the run's seed of initialisation, and shares no numbers with its other streams."""
    (mixed,) = np.random.SeedSequence([seed, _STREAM]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed))


def apply(module: nn.Module, how: How, generator: torch.Generator | None = None) -> None:
    """Let the parameters of ``module`` train that ``how`` says, and no other; LoRA also puts its adapters in.

    Args:
        generator: draws A of every adapter (B starts at zero, so training starts from the module's own function).
            No other random state is used or changed.

    Raises:
        UserError: for a ``how`` that is none of the above, more last layers than there are, or a target that matches
            no linear layer.
        ValueError: for LoRA without a generator.
    """
    way, options = read(how)
    module.requires_grad_(way == "full")
    if way == "last":
        _layers(module, options["last"]).requires_grad_(True)
    elif way == "lora":
        if generator is None:
            raise ValueError("LoRA needs a generator, so that its start follows the seed of the run")
        _inject(module, options, generator)


def _layers(module: nn.Module, last: int) -> nn.Module:
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    longest = max(lists, key=len, default=nn.ModuleList())
    if last > len(longest):
        raise UserError(f"last: {last} layers cannot train, {type(module).__name__} has {len(longest)}")
    return longest[len(longest) - last :]


def targets_of(module: nn.Module, targets: list[str]) -> list[str]:
    """Full names of the linear layers that are, or end in, one of the targets. Raises UserError for one without any."""
    linears = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    found: dict[str, None] = {}
    for target in targets:
        matches = [name for name in linears if f".{name}".endswith(f".{target}")]
        if not matches:
            raise unknown_name(
                "LoRA target", target, {name.rpartition(".")[2] for name in linears}, "lora.targets"
            )
        found |= dict.fromkeys(matches)
    return list(found)


def _inject(module: nn.Module, options: Mapping[str, Any], generator: torch.Generator) -> None:
    names = targets_of(module, options["targets"])
    owners: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for name in names:
        weight = module.get_submodule(name).weight
        if len(owners[id(weight)]) > 1:
            raise UserError(
                f"LoRA cannot adapt {name}: it shares its weight with another layer "
                f"({', '.join(owners[id(weight)])}). Leave it out of lora.targets."
            )
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import; only LoRA pays

    settings = LoraConfig(
        r=options["rank"], lora_alpha=options["alpha"], lora_dropout=options["dropout"], target_modules=names
    )
    with torch.random.fork_rng(devices=[]):  # peft draws as well; those draws are replaced
        inject_adapter_in_model(settings, module, adapter_name=_ADAPTER)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.endswith((_A, _B)))
        if name.endswith(_A) and not parameter.is_meta:
            bound = parameter.shape[1] ** -0.5
            with torch.no_grad():
                drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
                parameter.copy_(drawn)


def merged(state: Mapping[str, Tensor], how: How) -> dict[str, Tensor]:
    """The state of the plain module: adapters added into their weights, W + (alpha / rank) B A, names as before.

    Args:
        state: name -> tensor of a module that holds the tuned one, itself or deeper.
        how: how that one was tuned; for all but LoRA nothing changes.
    """
    way, options = read(how)
    if way != "lora":
        return dict(state)
    scale = options["alpha"] / options["rank"]
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith((_A, _B)):
            continue
        if name.endswith(f"{_BASE}weight"):
            layer = name.removesuffix(f"{_BASE}weight")
            a, b = state[layer + _A], state[layer + _B]
            # In the precision of the adapter: a bfloat16 weight would round most of the change away.
            kept = torch.promote_types(tensor.dtype, a.dtype)
            tensor = (tensor.double() + scale * (b.double() @ a.double())).to(kept)
        plain[name.replace(_BASE, ".")] = tensor
    return plain


def parameter_groups(modules: Mapping[str, nn.Module], recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups for an optimiser: one for each part and each weight decay, of the parameters that train.

    Args:
        modules: part (projector, language, vision) -> module. Sharded modules: call it after sharding.
        recipe: ``learning_rate``, ``weight_decay`` (none for parameters of one axis: norms, biases), and, if parts
            differ, ``learning_rates``: part -> peak rate.

    Returns:
        Dictionaries with ``name``, ``params``, ``lr``, ``weight_decay`` and ``scale``, the part's rate as a multiple of
        ``learning_rate``: a schedule sets ``lr`` to its own rate times ``scale``.

    Raises:
        UserError: for a rate of a part that does not exist.
    """
    base = float(recipe["learning_rate"])
    rates = recipe.get("learning_rates") or {}
    for part in rates:
        if part not in modules:
            raise unknown_name("part of the model", part, modules, "learning_rates")
    groups: list[dict[str, Any]] = []
    taken: set[int] = set()
    for part, module in modules.items():
        trained = [p for p in module.parameters() if p.requires_grad and id(p) not in taken]
        taken |= {id(p) for p in trained}
        rate = float(rates.get(part, base))
        for name, decay, params in (
            (part, float(recipe["weight_decay"]), [p for p in trained if p.ndim > 1]),
            (f"{part}.no_decay", 0.0, [p for p in trained if p.ndim <= 1]),
        ):
            if params:
                groups.append(
                    {"name": name, "params": params, "lr": rate, "weight_decay": decay, "scale": rate / base}
                )
    return groups


def master_weights(module: nn.Module, frozen: torch.dtype | None = None) -> None:
    """Convert in place: parameters that train to float32, the others to ``frozen`` (None leaves them).

    At a learning rate of 2e-5 an AdamW step is below half a bfloat16 ulp of most weights, and rounds away. Call it
    after :func:`apply` and before an optimiser is made.
    """
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
        elif frozen is not None and parameter.is_floating_point():
            parameter.data = parameter.data.to(frozen)


def check_master_weights(module: nn.Module) -> None:
    """Raises ValueError, naming them, when parameters train that are not float32."""
    wrong = [
        f"{name} ({p.dtype})"
        for name, p in module.named_parameters()
        if p.requires_grad and p.dtype != torch.float32
    ]
    if wrong:
        raise ValueError(f"parameters that train must be float32: {', '.join(wrong[:5])}; see master_weights")
