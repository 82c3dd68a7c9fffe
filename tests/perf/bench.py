"""`make bench`: every speed as a ratio against a peer measured in the same run. No assertion depends on time.

Peers: one question a row against packed questions, in training and in decoding; a bare interpreter against the
command line.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from vlmablate.evaluation.decoding import decode
from vlmablate.training.packing import Segment, attention_mask, pack
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig
from vlmablate.vlm.model import VisionLanguageModel
from vlmablate.vlm.projectors import build_projector

ROUNDS = 5
CHANNELS, CELLS, QUESTIONS = 1280, 25, 10


def best(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Shortest wall time of `rounds` calls in seconds; one more call goes before and is not counted."""
    work()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def line(name: str, ours: float, peer: float, against: str) -> None:
    print(f"{name:<34} {ours * 1e3:9.1f} ms   {peer / ours:6.2f} x   against {against} ({peer * 1e3:.1f} ms)")


def small_model() -> VisionLanguageModel:
    generator = torch.Generator().manual_seed(0)
    language = LanguageModel(LanguageModelConfig(100, 5, 3, 96, 4, bins=20))
    language.initialise(generator)
    return VisionLanguageModel(build_projector({"name": "gelu_mlp"}, CHANNELS, 96, 5, generator), language)


def bench_packing(model: VisionLanguageModel) -> None:
    """One optimiser step's forward and backward over 16 pictures x 10 questions."""
    rng = np.random.default_rng(0)
    rows = [
        [Segment(tuple(rng.integers(2, 100, rng.integers(2, 6)).tolist()), (5,)) for _ in range(QUESTIONS)]
        for _ in range(16)
    ]
    pixels = torch.randn(16, CELLS, CHANNELS)

    def step(batch: list[list[Segment]], features: torch.Tensor) -> None:
        packed = pack(batch)
        hidden = model(features, packed.tokens, packed.positions, attention_mask(packed.segments, CELLS))
        hidden.sum().backward()

    packed_time = best(lambda: step(rows, pixels))
    alone = [[segment] for row in rows for segment in row]
    repeated = pixels.repeat_interleave(QUESTIONS, dim=0)
    line("training, 160 questions", packed_time, best(lambda: step(alone, repeated)), "one question a row")


def bench_decoding(model: VisionLanguageModel) -> None:
    """Greedy answers to 64 pictures x 8 questions, four words each."""
    rng = np.random.default_rng(0)
    pixels = torch.randn(64, CELLS, CHANNELS)
    asked = [(row, [tuple(rng.integers(2, 100, 3).tolist()) for _ in range(8)]) for row in range(64)]

    def features(rows: np.ndarray) -> torch.Tensor:
        return pixels[torch.from_numpy(rows)]

    single = [(row, [prompt]) for row, prompts in asked for prompt in prompts]
    together = best(lambda: decode(model, features, asked, 4))
    line(
        "evaluation, 512 questions",
        together,
        best(lambda: decode(model, features, single, 4)),
        "one question a row",
    )


def bench_command_line() -> None:
    def run(*arguments: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    bare = best(run("-c", "pass"))
    for words in (("-m", "vlmablate.sweep", "--help"), ("-m", "vlmablate.cli", "status")):
        took = best(run(*words))
        extra = f"interpreter {bare * 1e3:.0f} ms"
        print(f"{' '.join(words[1:]):<34} {took * 1e3:9.1f} ms   {took / bare:6.2f} x   of a bare {extra}")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = small_model()
    bench_packing(model)
    bench_decoding(model)
    bench_command_line()


if __name__ == "__main__":
    main()
