"""How a module is laid out for training: recomputed activations, compiled layers, shards over ranks.

All of it is placement: it changes where and when something is computed, never what (but for the order of sums, and in
bfloat16 what :mod:`vlmablate.training.precision` says). Nothing here enters an identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from vlmablate.errors import UserError, unknown_name
from vlmablate.training.precision import policies
from vlmablate.training.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SHARDS = ("full", "hybrid", "none")
FROZEN = ("whole", "shard")
ACCUMULATE = ("whole", "shard")
RECOMPUTE = ("none", "full", "every", "keep")
COMPILER = "inductor"

_ATEN = torch.ops.aten
KEPT: Mapping[str, tuple[Any, ...]] = {
    "attention": (
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_attention_math.default,
    ),
    "matmul": (_ATEN.mm.default, _ATEN.addmm.default, _ATEN.bmm.default),
}
"""Results that may be kept while everything else of a layer is computed a second time."""


@dataclass(frozen=True)
class Layout:
    """What ``execution`` says about it.

    Attributes:
        shard: ``full``: parameters, gradients and optimiser in as many shards as there are ranks; ``hybrid``: as many
            as there are ranks on a node, the same on every node; ``none``: whole on every rank.
        nodes: nodes of the job; ranks are numbered node by node.
        reshard: whether a layer is given back after its forward and gathered again for its backward; a number keeps
            it in so many shards in between. None: layers are, the rest is not.
        frozen: ``whole``: what does not train stands whole on every rank and is never sent; ``shard``: like the rest.
        accumulate: ``whole``: the gradients of a batch in parts are exchanged once, after the last part, and stand
            whole in float32 until then; ``shard``: after every part.
        recompute: ``none``, ``full``, ``every`` (each `every`-th layer) or ``keep`` (all but the results of `keep`).
        compile: whether every layer goes through torch.compile.
    """

    shard: str = "full"
    nodes: int = 1
    reshard: bool | int | None = None
    frozen: str = "whole"
    accumulate: str = "whole"
    recompute: str = "none"
    every: int = 1
    keep: tuple[str, ...] = ()
    compile: bool = False

    @staticmethod
    def read(execution: Mapping[str, Any]) -> Layout:
        """Missing and null are the defaults. Raises UserError that says what is possible."""
        recompute, every, keep = _recompute(execution.get("activation_checkpointing"))
        reshard, compiled = execution.get("reshard_after_forward"), execution.get("compile")
        if not isinstance(reshard, bool | int | None) or (
            not isinstance(reshard, bool) and reshard in (0, 1)
        ):
            raise UserError(
                f"execution.reshard_after_forward is true, false, null or a number of shards, not {reshard!r}"
            )
        if not isinstance(compiled, bool | None):
            raise UserError(f"execution.compile is true or false, not {compiled!r}")
        return Layout(
            shard=_choice(execution, "shard", SHARDS),
            nodes=int(execution.get("nodes") or 1),
            reshard=reshard,
            frozen=_choice(execution, "frozen", FROZEN),
            accumulate=_choice(execution, "accumulate", ACCUMULATE),
            recompute=recompute,
            every=every,
            keep=keep,
            compile=bool(compiled),
        )

    def shards(self, ranks: int) -> int:
        """Into how many shards a parameter goes. Raises UserError where the nodes do not have equally many ranks."""
        if self.shard == "hybrid" and ranks % self.nodes:
            raise UserError(
                f"execution.shard=hybrid needs equally many ranks on every node, not {ranks} ranks on "
                f"{self.nodes} nodes"
            )
        return {"full": ranks, "hybrid": ranks // self.nodes, "none": 1}[self.shard]


def _choice(execution: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = execution.get(name)
    if value is None:
        return known[0]
    if value not in known:
        raise unknown_name("choice", str(value), known, f"execution.{name}")
    return str(value)


def _recompute(value: Any) -> tuple[str, int, tuple[str, ...]]:
    where = "execution.activation_checkpointing"
    if value is None or value in ("none", "full"):
        return value or "none", 1, ()
    if not isinstance(value, Mapping) or len(value) != 1:
        if isinstance(value, str):
            raise unknown_name("choice", value, RECOMPUTE, where)
        raise UserError(f"{where} is none, full, {{every: n}} or {{keep: [names]}}, not {value!r}")
    ((name, option),) = value.items()
    if name not in RECOMPUTE[2:]:
        raise unknown_name("choice", str(name), RECOMPUTE, where)
    if name == "every":
        if isinstance(option, bool) or not isinstance(option, int) or option < 1:
            raise UserError(f"{where}.every must be a whole number of at least 1, not {option!r}")
        return "every", option, ()
    for kept in option:
        if kept not in KEPT:
            raise unknown_name("result to keep", str(kept), KEPT, f"{where}.keep")
    return "keep", 1, tuple(option)


class Whole(nn.Module):
    """All of a step's arithmetic inside one forward call.

    Sharded parameters are only whole during a forward, and the arithmetic also reads some from outside of the
    module's own (words that are embedded before it, output embeddings after it).

    Attributes:
        replicas: how many ranks hold the same shard of a parameter; None when nothing is sharded.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.replicas: int | None = None
        self._exchange: Callable[[bool], None] = lambda last: None

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        """What ``compute`` gives; it may use every parameter of the module."""
        return compute()

    def part(self, last: bool) -> None:
        """Say before each part of a batch whether it is the last one: gradients may be exchanged then only."""
        self._exchange(last)


def parallelize(*, module: nn.Module, layout: Layout, precision: str, ranks: Ranks) -> Whole:
    """Lay out a module, which all ranks built alike and moved to their device, in place; in this order:

    1. Activation checkpointing, innermost, so that what is computed a second time is a layer's arithmetic alone. Around
       the gathering of shards it would gather them once more than the backward does.
    2. torch.compile, of each layer with its recomputation, so that the compiler sees both and equal layers share one
       compilation. Outside of the shards, whose hooks it cannot trace.
    3. fully_shard, outermost: what is gathered is what one compiled layer needs. First the layers, inner ones before
       outer ones, then the rest with the root, which takes what no layer took.

    Gradients are summed over ranks, not averaged: the loss is a share of the global batch already.

    Args:
        module: a model whose repeated layers stand in lists (nn.ModuleList).
        precision: a name of `precision.PRECISIONS`.

    Raises:
        UserError: for a hybrid layout that does not fit the ranks.
    """
    whole = Whole(module)
    for index, layer in _innermost(module):
        if layout.recompute in ("full", "keep") or (
            layout.recompute == "every" and index % layout.every == 0
        ):
            _recomputed(layer, layout.keep)
    if layout.compile:
        for _, layer in _innermost(module):
            layer.forward = torch.compile(layer.forward, backend=COMPILER)
    if ranks.size > 1:
        _shard(whole, layout, precision, ranks)
    return whole


def _innermost(module: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """Every layer that holds no layers itself, with its place in its list."""
    for part in module.modules():
        if isinstance(part, nn.ModuleList):
            for index, layer in enumerate(part):
                if not any(isinstance(inner, nn.ModuleList) for inner in layer.modules()):
                    yield index, layer


def _recomputed(layer: nn.Module, keep: tuple[str, ...]) -> None:
    """Replace the forward of one layer; its parameters keep their names, which a wrapping module would change."""
    forward = layer.forward
    kept = [operation for name in keep for operation in KEPT[name]]
    options: dict[str, Any] = (
        {"context_fn": partial(create_selective_checkpoint_contexts, kept)} if kept else {}
    )

    @wraps(forward)
    def recomputed(*arguments: Any, **named: Any) -> Any:
        return checkpoint(forward, *arguments, use_reentrant=False, **options, **named)

    layer.forward = recomputed


def _shard(whole: Whole, layout: Layout, precision: str, ranks: Ranks) -> None:
    from torch.distributed.fsdp import FSDPModule, fully_shard

    shards = layout.shards(ranks.size)
    mesh = _mesh(shards, ranks)
    frozen = {p for p in whole.parameters() if not p.requires_grad} if layout.frozen == "whole" else set()
    for_layers, for_rest = policies(precision)
    shared: dict[str, Any] = {"mesh": mesh, "ignored_params": frozen}
    for part in reversed(list(whole.modules())):  # a layer of layers comes after its own
        if isinstance(part, nn.ModuleList):
            for layer in part:
                if any(p not in frozen for p in layer.parameters()):
                    reshard = True if layout.reshard is None else layout.reshard
                    fully_shard(layer, mp_policy=for_layers, reshard_after_forward=reshard, **shared)
    root = fully_shard(whole, mp_policy=for_rest, reshard_after_forward=False, **shared)
    for part in whole.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no scaled sum
    whole.replicas = ranks.size // shards
    # Several replicas may add up their shards of every part and sum them over replicas once.
    whole._exchange = (
        root.set_requires_gradient_sync if layout.accumulate == "whole" else root.set_requires_all_reduce
    )


def _mesh(shards: int, ranks: Ranks) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    if shards == ranks.size:
        return init_device_mesh(ranks.device.type, (shards,))
    names = ("replicate", "shard")
    return init_device_mesh(ranks.device.type, (ranks.size // shards, shards), mesh_dim_names=names)
