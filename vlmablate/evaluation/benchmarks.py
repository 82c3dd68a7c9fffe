"""The benchmarks of the embedded data: how an answer is read and scored. One row each.

The questions themselves come from `data.questions`; what they mirror in the paper is in the table there. Those of
`refusal`, which has no pictures, come from `data.text_only`. What goes beyond accuracy is in `evaluation.behaviour`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from vlmablate.data.dialogue_text import read_box, sentence
from vlmablate.data.lexicon import load_lexicon
from vlmablate.data.questions import Question
from vlmablate.data.scenes_store import SceneStore, read_world
from vlmablate.data.text_only import REFUSAL, REFUSED, refusal_questions
from vlmablate.data.vocabulary import parse_box
from vlmablate.errors import UserError, unknown_name
from vlmablate.evaluation import behaviour
from vlmablate.evaluation.majority import majority_answer, majority_box
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.scorers import box_iou
from vlmablate.vlm.image import Frame

IOU_THRESHOLD = 0.5


def example_of(question: Question) -> Example:
    """A question about a scene, or one without a picture, as an example; the scene, or the pair of act and thing of a
    request, is the cluster."""
    return Example(
        benchmark=question.benchmark,
        split=question.subset,
        example_id=question.example_id,
        cluster_id=question.scene,
        picture=None if question.benchmark == REFUSAL else question.scene,
        question=question.text,
        answers=(question.answer,) if question.answer else (),
        box=question.box,
    )


def exact_match(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
    """1 if the decoded words are the answer. The frame is unused."""
    target = example.answers[0]
    return Verdict(float(answer.text == target), answer.text, target)


def box_match(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
    """1 if IoU >= 0.5 in pixels of the original picture (RefCOCO's Acc@0.5).

    The decoded box is in shares of the model's square, as four bins or as four numbers in brackets (see
    `data.vocabulary` and `data.dialogue_text`); the inverse of the image transform brings it back, clipped to
    the picture. An object that a crop removed is an honest miss.
    """
    assert example.box is not None
    assert frame is not None
    target = _pixels(example.box)
    predicted = parse_box(answer.text) or read_box(answer.text)
    if predicted is None:
        return Verdict(0.0, answer.text, target)
    x0, y0, x1, y1 = (share * frame.size for share in predicted)
    box = frame.to_original((x0, y0, x1, y1))
    return Verdict(float(box_iou(box, example.box) >= IOU_THRESHOLD), _pixels(box), target)


def _pixels(box: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in box)


def _benchmark(
    name: str,
    words: int = 1,
    metric: str = "exact_match",
    score: Callable[[Example, Answer, Frame | None], Verdict] = exact_match,
    majority: Callable[[Sequence[Example]], float] = majority_answer,
    pictured: bool = True,
) -> Benchmark:
    def prompt(example: Example) -> str:
        return sentence(example.question)

    return Benchmark(name, metric, words, score, majority, prompt, pictured=pictured)


BENCHMARKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        _benchmark("open_vqa"),
        _benchmark("existence"),
        _benchmark("counting"),
        _benchmark("spatial"),
        _benchmark("localisation", 4, "acc@0.5", box_match, partial(majority_box, threshold=IOU_THRESHOLD)),
        _benchmark("text_reading"),
        _benchmark(REFUSAL, len(REFUSED.split()), pictured=False),
        *behaviour.EMBEDDED.values(),
    )
}


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of that exact name. Raises UserError that lists the benchmarks there are."""
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS, "benchmark.names")
    return BENCHMARKS[name]


def examples_of(store: SceneStore, benchmark: Benchmark) -> list[Example]:
    """What a benchmark asks about these scenes. Raises UserError where that is nothing."""
    if benchmark.name in behaviour.EMBEDDED:
        lexicon = load_lexicon(read_world(store.folder)[0])
        asked = behaviour.embedded_examples(benchmark.name, store.scenes, lexicon)
    elif benchmark.name == REFUSAL:
        asked = [example_of(question) for question in refusal_questions()]
    else:
        asked = [
            example_of(question)
            for questions in store.questions.values()
            for question in questions
            if question.benchmark == benchmark.name
        ]
    if not asked:
        raise UserError(
            f"benchmark {benchmark.name} has no question in these scenes; raise data.evaluation_scenes or leave it out "
            "of benchmark.names"
        )
    return asked
