"""A tiny model that trains in a fraction of a second, in this process or as one of several ranks.

``python tiny.py RANK`` is one rank of a pair: it reads scenarios from its input, one JSON object a line, and answers
each with one line. A scenario names what :func:`run` takes, and the ``port`` and ``ranks`` of its process group.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmablate.orchestration.context import StepContext
from vlmablate.orchestration.stop import StopFlag
from vlmablate.training import loop
from vlmablate.training.packing import Segment, attention_mask, pack
from vlmablate.training.ranks import local, ranks_of
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGALRM)
WORDS, GRID, CHANNELS, WIDTH = 13, 2, 5, 8
CARD = LanguageModelConfig(vocabulary=WORDS, grid=GRID, layers=2, width=WIDTH, heads=2, bins=0, segment=8)


class Tiny(nn.Module):
    """A linear projector in front of a language model of two layers."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.projector = nn.Linear(CHANNELS, WIDTH)
        self.language = LanguageModel(CARD)
        self.language.initialise(generator)
        with torch.no_grad():
            self.projector.weight.normal_(0.0, 0.3, generator=generator)
            self.projector.bias.zero_()

    def forward(self, features: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        cells = self.projector(features) + self.language.words(tokens[:, :1])
        hidden: Tensor = self.language(cells, tokens, positions, mask)
        return hidden


def batch(model: Tiny, step: int, rows: int) -> loop.Batch:
    """Rows with one to three questions each, drawn from the step alone."""
    generator = torch.Generator().manual_seed(step)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    def words(count: int) -> tuple[int, ...]:
        return tuple(draw(0, WORDS) for _ in range(count))

    segments = [
        [Segment(words(draw(1, 4)), words(draw(1, 4))) for _ in range(draw(1, 4))] for _ in range(rows)
    ]
    packed = pack(segments)
    features = torch.randn(rows, GRID * GRID, CHANNELS, generator=generator)

    def hidden(rows: slice) -> Tensor:
        mask = attention_mask(packed.segments[rows], GRID * GRID)
        return model(features[rows], packed.tokens[rows], packed.positions[rows], mask)

    return loop.Batch(packed, hidden)


def run(
    out: Path,
    *,
    steps: int = 20,
    rows: int = 5,
    rate: float = 0.01,
    frozen: bool = False,
    factors: dict[str, float] | None = None,
    rates: dict[str, float] | None = None,
    precision: str = "fp32",
    execution: dict[str, Any] | None = None,
    attempt: int = 1,
    signal_at: dict[str, int] | None = None,
    full_from: dict[str, int] | None = None,
    poison: dict[str, Any] | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> dict[str, Any]:
    """Train; what came of it: the payload with ``sha`` of the final weights and ``saved`` steps, or the ``error`` with
    ``shards``, the digest of what this rank has of the weights.

    signal_at: {rank, step}: that rank gets SIGUSR2 in the middle of that step. full_from: {rank, step}: the disk
    of that rank takes no more shards from that step on; what was being saved is there by then. poison: {rank, step,
    what}: there the ``loss`` is no number, or the ``gradient`` behind a loss that is one, or only the ``norm`` of it.
    frozen: only the projector is trained. factors, rates: learning rates of parts, as a multiple and as they are.
    """
    out.mkdir(parents=True, exist_ok=True)
    saved: list[int] = []
    stop = StopFlag(grace_s=60.0, requeue_grace_s=60.0)
    context = StepContext(
        execution=execution or {},
        attempt=attempt,
        assets=out,
        out=out,
        stop_requested=lambda: stop.requested,
        saving=stop.uninterrupted,
        on_saved=saved.append,
        rank=rank,
        world_size=ranks,
        local_rank=rank,
    )
    model = Tiny()
    if frozen:
        model.language.requires_grad_(False)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    opened, every, loop.CURVE_EVERY = Path.open, loop.CURVE_EVERY, 1

    def full(path: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        return opened(Path("/dev/full") if mode == "wb" else path, mode, *arguments, **more)

    def batch_at(step: int) -> loop.Batch:
        if signal_at == {"rank": rank, "step": step}:
            os.kill(os.getpid(), signal.SIGUSR2)
        if full_from == {"rank": rank, "step": step}:
            await_saves()
            Path.open = full  # type: ignore[method-assign, assignment]
        # Some batches are so small that a rank gets nothing.
        found = batch(model, step, rows if step % 7 else 1)
        if poison is not None and (poison["rank"], poison["step"]) == (rank, step):
            return replace(found, hidden=lambda rows: poisoned(found.hidden(rows), poison["what"]))
        return found

    recipe = loop.Recipe(steps, rate, 0.1, 0.01, 1.0, factors=factors or {})
    stop.install()
    try:
        with ranks_of(context) as group:
            payload = loop.train(
                model, model.language.logits, batch_at, recipe, out, context, precision, group, rates or {}
            )
            state = group.full_state(model)
    except Exception as error:
        shards = {name: local(tensor.detach()) for name, tensor in model.state_dict().items()}
        told = {"error": type(error).__name__, "message": str(error)}
        return {**told, "saved": saved, "shards": digest(shards)}
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        Path.open, loop.CURVE_EVERY = opened, every  # type: ignore[method-assign]
    if rank == 0:
        torch.save(state, out / "final.pt")
    return {**payload, "sha": digest(state), "saved": saved}


def poisoned(hidden: Tensor, what: str) -> Tensor:
    """Hidden states that give a loss that is no number, or a finite one whose gradient, or the norm of it, is not."""
    if what == "loss":
        return hidden * torch.nan
    factor = {"gradient": torch.inf, "norm": 1e30}[what]
    hidden.register_hook(lambda gradient: gradient * factor)
    return hidden


def await_saves() -> None:
    """Wait until nothing is being saved."""
    for thread in threading.enumerate():
        if thread.name.startswith("save-"):
            thread.join()


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of all weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def main(rank: int) -> None:
    """Serve scenarios."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        scenario = json.loads(line)
        port, ranks = str(scenario.pop("port")), int(scenario["ranks"])
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(ranks))
        with redirect_stdout(sys.stderr):
            answer = run(Path(scenario.pop("out")), rank=rank, **scenario)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
