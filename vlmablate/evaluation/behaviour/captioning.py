"""The embedded benchmark `captioning`: describe the picture. The truth of a scene is known, so what is named and not
there is an object hallucination (see `chair`).

Who can answer it: every language model has learnt captions in alignment or in its pretraining, and a mixture with
descriptions (`data.mixtures`) teaches them again in finetuning; other finetuned models may have forgotten how.
A model of the closed vocabulary cannot end an answer. Only as many of its words are read as the caption has
(`as_long_as_reference`), which tells it how many things there are; its figures are not those of a model that stops by
itself, and how long it speaks says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from vlmablate.data import dialogue_text
from vlmablate.data.layout import MAX_THINGS, Scene
from vlmablate.data.lexicon import CATEGORIES, Lexicon
from vlmablate.evaluation.behaviour.chair import METRIC, chair_summary, describe_verdict
from vlmablate.evaluation.behaviour.mentions import Phrases, mentions, phrases
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.vlm.image import Frame

NAME = "captioning"
QUESTION = "describe"
"""As the models were asked in alignment and pretraining."""


def captioning_examples(scenes: Sequence[Scene], lexicon: Lexicon) -> list[Example]:
    """One example for every scene with an object; its split is how many objects there are.

    facts: `objects`, the nouns and kinds by which the caption names them; `also_true`, the kinds of the nouns; `names`,
    all that the lexicon can name. The word of a sign is part of the caption and no object.
    """
    names = tuple(dict.fromkeys((*lexicon.words, *CATEGORIES)))
    found = []
    for scene in scenes:
        if not scene.objects:
            continue
        objects = tuple(dict.fromkeys(thing.written for thing in scene.objects))
        kinds = {thing.category for thing in scene.objects if thing.category}
        caption = dialogue_text.caption(scene)
        assert caption is not None
        found.append(
            Example(
                NAME,
                f"objects_{len(scene.objects)}",
                f"{NAME}/{scene.id}",
                scene.id,
                scene.id,
                QUESTION,
                (caption,),
                facts={"objects": objects, "also_true": tuple(sorted(kinds)), "names": names},
            )
        )
    return found


def as_long_as_reference(example: Example, words: str) -> str:
    """The first words of an answer, as many as the reference has; all where there is none in words (a box).

    For models that cannot end an answer. An answer of the length of its reference stays as it is.
    """
    return " ".join(words.split()[: len(example.answers[0].split())]) if example.answers else words


def _score(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
    """Balance of precision and recall of the named objects; see `chair.describe_verdict`."""
    said = _mentioned(example, answer)
    return describe_verdict(said, example.facts["objects"], example.facts["also_true"])


def _mentioned(example: Example, answer: Answer) -> list[str]:
    return mentions(answer.text, _phrases(example.facts["names"]))


@lru_cache(maxsize=8)
def _phrases(names: tuple[str, ...]) -> Phrases:
    return phrases({name: name for name in names})


def _summary(
    examples: Sequence[Example], answers: Sequence[Answer], verdicts: Sequence[Verdict]
) -> Mapping[str, float]:
    said = [_mentioned(example, answer) for example, answer in zip(examples, answers, strict=True)]
    return chair_summary(said, [{*e.facts["objects"], *e.facts["also_true"]} for e in examples])


def _majority(examples: Sequence[Example]) -> float:
    """Of descriptions that name the n objects that most pictures show, the best one for all pictures."""
    counts: dict[str, int] = {}
    for example in examples:
        for name in example.facts["objects"]:
            counts[name] = counts.get(name, 0) + 1
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    best = 0.0
    for number in range(1, min(len(ranked), MAX_THINGS) + 1):
        scores = [
            describe_verdict(ranked[:number], e.facts["objects"], e.facts["also_true"]).score
            for e in examples
        ]
        best = max(best, sum(scores) / len(scores))
    return best


CAPTIONING = Benchmark(
    NAME,
    METRIC,
    MAX_THINGS + 1,  # the things and a sign
    _score,
    _majority,
    prompt=lambda example: dialogue_text.sentence(example.question),
    summary=_summary,
    in_suite=False,
)
