"""`make bench`: VQA accuracy of as many questions as VQAv2 val has, against the loop of the official script.

The peer rewrites every text anew and leaves out one person after the other, as the published scorers do; it answers a
part of the questions, and its time is that per question. The figures are ratios of one run, in processor time.
"""

from __future__ import annotations

import random
import time

from vlmablate.evaluation.scorers import VQA_VARIANTS, vqa_accuracy, vqa_text

QUESTIONS, OF_PEER = 214_354, 20_000
WORDS = (
    "yes",
    "no",
    "2",
    "white",
    "a dog",
    "on the table",
    "t-shirt",
    "don't know",
    "black/white",
    "1,000",
    "red.",
)

Questions = list[tuple[str, list[str]]]


def drawn(count: int) -> Questions:
    """Answers of ten people, three different ones at most, a few common and many rare: [(prediction, answers)]."""
    rng = random.Random(0)
    rare = [f"{rng.choice(WORDS)} {rng.choice(WORDS)} {i}" for i in range(30_000)]
    common = [*WORDS, *(f"{a} {b}" for a in WORDS for b in WORDS)]
    questions = []
    for _ in range(count):
        pool = [rng.choice(common if rng.random() < 0.8 else rare) for _ in range(3)]
        questions.append((rng.choice(pool).capitalize(), rng.choices(pool, (6, 3, 1), k=10)))
    return questions


def peer(prediction: str, answers: list[str]) -> float:
    """The steps and the loop of vlm-evaluation, nothing remembered."""
    said = vqa_text.folded(vqa_text.without_punctuation(vqa_text.on_one_line(prediction)))
    given = [{"answer": vqa_text.without_punctuation(answer), "id": i} for i, answer in enumerate(answers)]
    shares = []
    for left_out in given:
        others = [other for other in given if other != left_out and other["answer"] == said]
        shares.append(min(1, len(others) / 3))
    return sum(shares) / len(shares)


def main() -> None:
    questions = drawn(QUESTIONS)
    begun = time.process_time()
    slow = [peer(*question) for question in questions[:OF_PEER]]
    per_question = (time.process_time() - begun) / OF_PEER
    print(
        f"VQA accuracy of {QUESTIONS:,} questions; the official loop takes {1e6 * per_question:.1f} us each"
    )
    for variant in VQA_VARIANTS:
        begun = time.process_time()
        fast = [vqa_accuracy(prediction, answers, variant) for prediction, answers in questions]
        seconds = time.process_time() - begun
        ratio = per_question * QUESTIONS / seconds
        print(f"  {variant:<15} {seconds:5.2f} s  {QUESTIONS / seconds:>9,.0f} a second  {ratio:5.1f} x")
        if variant == "vlm-evaluation":
            assert all(abs(a - b) < 1e-12 for a, b in zip(slow, fast, strict=False))


if __name__ == "__main__":
    main()
