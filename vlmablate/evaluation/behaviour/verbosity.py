"""How long an answer is beside what people answered: a further metric of any benchmark whose answers are written."""

from __future__ import annotations

from dataclasses import replace

from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.vlm.image import Frame


def verbosity(example: Example, answer: Answer) -> dict[str, float]:
    """Length of the answer against the mean length of the reference answers, in words between spaces.

    extra_words: difference. words_ratio: words of the answer per word of a reference, which counts as one word at
    least, so that an empty answer has 0 and every ratio is finite. Nothing is measured of an answer that was chosen by
    probability, nor where there is no reference in words (a box).

    >>> verbosity(Example("b", "s", "b/1", "p", None, "how many?", ("two", "just two")), Answer("There are two dogs"))
    {'extra_words': 2.5, 'words_ratio': 2.6666666666666665}
    """
    if answer.probabilities or not example.answers:
        return {}
    said = len(answer.text.split())
    reference = sum(len(text.split()) for text in example.answers) / len(example.answers)
    return {"extra_words": said - reference, "words_ratio": said / max(reference, 1.0)}


def with_verbosity(benchmark: Benchmark) -> Benchmark:
    """The same benchmark, whose verdicts also tell how long the answers are.

    `Answer.text` has to be all that the model wrote, not what was read out of it.
    """

    def score(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
        verdict = benchmark.score(example, answer, frame)
        return replace(verdict, further={**verdict.further, **verbosity(example, answer)})

    return replace(benchmark, score=score)
