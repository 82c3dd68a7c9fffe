"""A small model and two benchmarks about drawn pictures, asked in this process or as one of several ranks.

``python -m tests.evaluation.runner_world RANK`` is one rank of a pair: it reads what :func:`work` takes from its input,
one JSON object a line, and answers each with one line.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.vlm.exports.export_models import model_of  # noqa: E402
from vlmablate.evaluation.answers_store import Given  # noqa: E402
from vlmablate.evaluation.checkpoint_models import _through_transformer, squares_of  # noqa: E402
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict  # noqa: E402
from vlmablate.evaluation.published import Asking  # noqa: E402
from vlmablate.evaluation.runner import Answering, Checkpoint, put_all  # noqa: E402
from vlmablate.orchestration.context import StepContext  # noqa: E402
from vlmablate.training.ranks import ALONE, Ranks, ranks_of  # noqa: E402
from vlmablate.vlm.image import fill_colour  # noqa: E402
from vlmablate.vlm.llms.load import load_llm  # noqa: E402
from vlmablate.vlm.prompts import template_named  # noqa: E402
from vlmablate.vlm.tiling import ONE_SQUARE  # noqa: E402

PICTURES, WRITTEN_TOKENS = 5, 4
SMALL_BATCH = 330
"""Cells that hold one or two pictures with their questions: an evaluation has several batches."""


def draw(folder: Path) -> None:
    """Pictures of several sizes, from a seed."""
    (folder / "seen").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        noise = rng.integers(0, 256, (40 + 9 * number, 70, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "seen" / f"{number}.png")


def _score(example: Example, answer: Answer, frame: Any) -> Verdict:
    return Verdict(0.0, answer.text, "")


def _example(benchmark: str, picture: int | None, question: str, number: int) -> Example:
    shown = None if picture is None else f"seen/{picture}.png"
    return Example(
        benchmark, "all", f"{benchmark}/{number}", f"p{picture}", shown, question, choices=("Yes", "No")
    )


def benchmarks() -> list[tuple[Benchmark, list[Example]]]:
    """One that is answered in writing, one whose options are compared, and one without pictures."""
    written = Benchmark(
        "written",
        "exact",
        WRITTEN_TOKENS,
        _score,
        lambda examples: 0.0,
        prompt=lambda e: f"{e.question}\nBriefly.",
    )
    compared = replace(written, name="compared", options=lambda example: example.choices)
    blind = replace(written, name="blind", pictured=False)
    numbers = itertools.count()
    shown = [(p, q) for p in range(PICTURES) for q in range(1 + p % 3)]
    again = [(p, q) for p in reversed(range(PICTURES)) for q in range(2)]
    asked = [
        [_example("written", p, f"What is {'so ' * q}big?", next(numbers)) for p, q in shown],
        [_example("compared", p, f"Is it {'so ' * q}big?", next(numbers)) for p, q in again],
        [_example("blind", None, text, next(numbers)) for text in ("Who are you?", "Why?")],
    ]
    return list(zip((written, compared, blind), asked, strict=True))


def asking(folder: Path) -> list[Asking]:
    return [Asking(benchmark, examples, folder) for benchmark, examples in benchmarks()]


def answering() -> Answering:
    """A tiny LLaVA with loud random weights, which says letters that depend on what it sees and is asked."""
    model = model_of("test_clip")
    tower: Any = model.vision
    _, tokenizer = load_llm("test_llama")
    words = [*tokenizer("abcdefghijklmnopqrstuvwxyzYN").input_ids, tokenizer.eos_token_id]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.language.layers:
            for parameter in layer.parameters():
                parameter.mul_(3.0)
        head = model.language.model.lm_head.weight
        head.zero_()
        head[words] = torch.randn(len(words), head.shape[1], generator=generator)
    return Answering(
        model,
        squares_of("letterbox", [(tower.image_size, fill_colour(tower.mean))], ONE_SQUARE),
        _through_transformer(tower, tower.mean, tower.std),
        tower.tokens,
        tokenizer,
        template_named("vicuna_v1.5"),
        "after_bos",
    )


def checkpoint(opened: Callable[[], Answering] = answering) -> Checkpoint:
    return Checkpoint(lambda: {"model": "tiny"}, opened)


class Stopped(Exception):  # noqa: N818
    """Raised to end an evaluation."""


def put(
    folder: Path, out: Path, ranks: Ranks = ALONE, stop_after: int | None = None, **more: Any
) -> dict[str, list[Given]]:
    """Ask all of it; `stop_after` so many tokens or batches, raise Stopped."""
    asked = itertools.count()

    def check() -> None:
        if stop_after is not None and next(asked) >= stop_after:
            raise Stopped

    arguments: dict[str, Any] = {"cells_at_once": SMALL_BATCH, "check": check, **more}
    return put_all(arguments.pop("checkpoint", checkpoint()), asking(folder), out, ranks, **arguments)


def plain(given: dict[str, list[Given]]) -> dict[str, Any]:
    """For JSON."""
    return {
        name: [[each.example_id, each.answer.text, dict(each.answer.probabilities)] for each in all_given]
        for name, all_given in given.items()
    }


def work(
    *, folder: str, out: str, rank: int = 0, ranks: int = 1, stop_after: int | None = None
) -> dict[str, Any]:
    """What was given, on rank 0; `stopped` when it was."""
    context = StepContext(
        execution={}, attempt=1, assets=Path(out), out=Path(out), rank=rank, world_size=ranks
    )
    with ranks_of(context) as met:
        try:
            return {"given": plain(put(Path(folder), Path(out), met, stop_after)), "stopped": False}
        except Stopped:
            return {"given": {}, "stopped": True}


def main(rank: int) -> None:
    """Serve jobs."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        os.environ.update(
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job.pop("port")), RANK=str(rank), WORLD_SIZE="2"
        )
        with redirect_stdout(sys.stderr):
            answer = work(rank=rank, **job)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
