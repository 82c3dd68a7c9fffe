"""`make bench`: answers of a general model, questions that share what is read of their picture against two peers.

Peers, with the same weights, prompts and answers: every question in a row of its own, as many rows at once as fit; and
one question at a time, as most harnesses do. The model is a small Llama that no stop token ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vlmablate.evaluation.generation import generate
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.merge import IMAGE_MARK, Sample, expand
from vlmablate.vlm.multimodal import MultimodalModel

ROUNDS = 2
CHANNELS, WIDTH, WORDS = 64, 256, 1024
QUESTIONS, ANSWER = 8, 4
PICTURES = {25: 16, 577: 3}
"""Patches of a picture -> pictures."""


def small_llama() -> MultimodalModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=4,
    )  # fmt: skip
    return MultimodalModel(None, nn.Linear(CHANNELS, WIDTH), CausalLM(LlamaForCausalLM(config))).eval()


def prompts(patches: int, pictures: int) -> list[list[Sample]]:
    """Questions of 8 to 15 words behind each picture."""
    rng = np.random.default_rng(0)

    def prompt(picture: int) -> Sample:
        tokens = [1, IMAGE_MARK, 5, 6, *rng.integers(10, WORDS, rng.integers(8, 16)).tolist()]
        return expand(tokens, [False] * len(tokens), [picture], patches)

    return [[prompt(picture) for _ in range(QUESTIONS)] for picture in range(pictures)]


def best(work: Callable[[], object]) -> float:
    """Shortest wall time of some calls in seconds; one more call goes before and is not counted."""
    work()
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def bench(model: MultimodalModel, patches: int, pictures: int) -> None:
    features = torch.randn(pictures, patches, CHANNELS)
    groups = prompts(patches, pictures)
    alone = [[sample] for group in groups for sample in group]

    def look(names: Sequence[Hashable]) -> Tensor:
        return features[[int(str(name)) for name in names]]

    def answer(asked: Sequence[Sequence[Sample]], **more: int) -> list[list[tuple[int, ...]]]:
        return generate(model, look, asked, patches, stop=(), limit=ANSWER, **more)

    shared = answer(groups)
    same = [found for group in shared for found in group] == [found for [found] in answer(alone)]
    took = best(lambda: answer(groups))
    rows, single = best(lambda: answer(alone)), best(lambda: answer(alone, cells_at_once=1))
    print(
        f"{len(alone)} answers, {patches} patches {took * 1e3:9.1f} ms   {rows / took:6.2f} x   against a row for each "
        f"question ({rows * 1e3:.1f} ms), {single / took:.2f} x   one at a time ({single * 1e3:.1f} ms); "
        f"{'the same answers' if same else 'OTHER ANSWERS'}"
    )


def main() -> None:
    torch.set_num_threads(1)
    model = small_llama()
    for patches, pictures in PICTURES.items():
        bench(model, patches, pictures)


if __name__ == "__main__":
    main()
