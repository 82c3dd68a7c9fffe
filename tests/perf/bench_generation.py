"""`make bench`: answers of a general model, questions that share what is read of their picture against two peers.

Peers, with the same weights, prompts and answers: every question in a row of its own, as many rows at once as fit; and
one question at a time, as most harnesses do. The model is a small Llama that no stop token ends.

The last part asks what an evaluation asks of a picture: questions of three benchmarks in one row, one of which is
answered by the probabilities of yes and no.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vlmablate.evaluation.generation import CELLS_AT_ONCE, Asked, Said, answer, batches, generate, tree_of
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.merge import IMAGE_MARK, Sample, expand
from vlmablate.vlm.multimodal import MultimodalModel

ROUNDS = 2
CHANNELS, WIDTH, WORDS = 64, 256, 1024
QUESTIONS, ANSWER = 8, 4
PICTURES = {25: 16, 577: 3}
"""Patches of a picture -> pictures."""
KINDS = (("gqa", 6, 2, ()), ("pope", 6, 0, ((20,), (21,))), ("vqav2", 5, 3, ()))
"""What is asked of a picture in the last part: benchmark, questions, tokens of an answer, options."""
PICTURES_OF_BENCHMARKS = {25: 5, 577: 2}
MOST_APART = 1e-5
"""Of a probability, between the two ways."""


def small_llama() -> MultimodalModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=6,
        num_attention_heads=8, num_key_value_heads=4,
    )  # fmt: skip
    return MultimodalModel(None, nn.Linear(CHANNELS, WIDTH), CausalLM(LlamaForCausalLM(config))).eval()


def prompt(rng: np.random.Generator, picture: int, patches: int) -> Sample:
    """A question of 8 to 15 words behind a picture."""
    tokens = [1, IMAGE_MARK, 5, 6, *rng.integers(10, WORDS, rng.integers(8, 16)).tolist()]
    return expand(tokens, [False] * len(tokens), [picture], patches)


def prompts(patches: int, pictures: int) -> list[list[Sample]]:
    rng = np.random.default_rng(0)
    return [[prompt(rng, picture, patches) for _ in range(QUESTIONS)] for picture in range(pictures)]


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

    def written(asked: Sequence[Sequence[Sample]], **more: int) -> list[list[tuple[int, ...]]]:
        return generate(model, look, asked, patches, stop=(), limit=ANSWER, **more)

    shared = written(groups)
    same = [found for group in shared for found in group] == [found for [found] in written(alone)]
    took = best(lambda: written(groups))
    rows, single = best(lambda: written(alone)), best(lambda: written(alone, cells_at_once=1))
    print(
        f"{len(alone)} answers, {patches} patches {took * 1e3:9.1f} ms   {rows / took:6.2f} x   against a row for each "
        f"question ({rows * 1e3:.1f} ms), {single / took:.2f} x   one at a time ({single * 1e3:.1f} ms); "
        f"{'the same answers' if same else 'OTHER ANSWERS'}"
    )


def bench_benchmarks(model: MultimodalModel, patches: int, pictures: int) -> None:
    """Questions of three benchmarks that share a row, against one question at a time."""
    features = torch.randn(pictures, patches, CHANNELS)
    rng = np.random.default_rng(1)
    groups = [
        [
            Asked(prompt(rng, p, patches), limit, options)
            for _, count, limit, options in KINDS
            for _ in range(count)
        ]
        for p in range(pictures)
    ]

    def look(names: Sequence[Hashable]) -> Tensor:
        return features[[int(str(name)) for name in names]]

    def together() -> list[Said]:
        trees = [tree_of(group) for group in groups]
        found: dict[int, list[Said]] = {}
        for batch in batches([tree.grown for tree in trees], CELLS_AT_ONCE):
            said = answer(model, look, [trees[i] for i in batch], patches, ())
            found |= dict(zip(batch, said, strict=True))
        return [said for number in range(pictures) for said in found[number]]

    def one_by_one() -> list[Said]:
        return [
            answer(model, look, [tree_of([asked])], patches, ())[0][0] for group in groups for asked in group
        ]

    shared, single = together(), one_by_one()
    same = [said.tokens for said in shared] == [said.tokens for said in single]
    apart = max(
        abs(a - b)
        for one, other in zip(shared, single, strict=True)
        for a, b in zip(one.probabilities, other.probabilities, strict=True)
    )
    took, slow = best(together), best(one_by_one)
    kinds = ", ".join(f"{count} {name}" for name, count, _, _ in KINDS)
    print(
        f"{kinds} a picture, {patches} patches {took * 1e3:9.1f} ms   {slow / took:6.2f} x   against one at a time "
        f"({slow * 1e3:.1f} ms); {'the same answers' if same else 'OTHER ANSWERS'}, probabilities "
        f"{'' if apart <= MOST_APART else 'TOO FAR '}apart by {apart:.1e} at most"
    )


def main() -> None:
    torch.set_num_threads(1)
    model = small_llama()
    for patches, pictures in PICTURES.items():
        bench(model, patches, pictures)
    for patches, pictures in PICTURES_OF_BENCHMARKS.items():
        bench_benchmarks(model, patches, pictures)


if __name__ == "__main__":
    main()
