"""The embedded benchmark `negative_instructions`: questions about what is not there, and twins about what is.

After LRV-Instruction (Liu et al., 2023), whose negative instructions ask about objects that do not exist in the picture
and about objects that do, with a wrong property. Their own evaluation set holds questions without answers, which GPT-4
judges; nothing can be scored in it here, so the embedded scenes, whose truth is known, stand in.

| kind     | negative                              | its twin             | the right denial    |
|----------|---------------------------------------|----------------------|---------------------|
| object   | is there a zebra? (there is none)     | of one that is there | no                  |
| count    | how many zebra? (none)                | of one that is there | zero                |
| relation | is zebra left of teapot? (no zebra)   | of two that are      | no                  |
| property | is lemon left of teapot? (right of)   | the true relation    | no                  |
| place    | where is zebra? (nowhere)             | of one that is there | there is no zebra … |

A denial in any words is right for a negative (`denials`), and wrong for its twin, so that always denying is worth one
half. A model that has only learnt to answer `where` with a box cannot deny there: read the splits apart.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from vlmablate.data import dialogue_text
from vlmablate.data.layout import Scene
from vlmablate.data.lexicon import Lexicon
from vlmablate.data.questions import NUMBERS, localisation, spatial
from vlmablate.evaluation.behaviour.denials import read_denial
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.vlm.image import Box, Frame

NAME = "negative_instructions"
KINDS = ("object", "count", "relation", "property", "place")
NEGATIVE, TWIN = "negative", "twin"
DENIED_ABSENT, DENIED_PRESENT = "denied_absent", "denied_present"
"""Further metrics: whether a negative was denied, and whether its twin was."""

ANSWER_WORDS = 1
"""Of a closed vocabulary: no denial in it is longer."""


def negative_examples(scenes: Sequence[Scene], lexicon: Lexicon) -> list[Example]:
    """The pairs of every scene, in the order of KINDS, each negative in front of its twin.

    A kind is asked where both of a pair can be. The absent noun is a look-alike, of a kind that is in the picture,
    where there is one; which, is decided by the scene's id alone.
    """
    return [example for scene in scenes for example in _pairs(scene, lexicon)]


def _pairs(scene: Scene, lexicon: Lexicon) -> Iterator[Example]:
    counts = Counter(thing.word for thing in scene.objects if thing.word)
    kinds = {thing.category for thing in scene.objects if thing.category}
    if not counts:
        return

    def drawn(names: Iterable[str]) -> list[str]:
        """In an order that the scene's id decides."""
        return sorted(names, key=lambda name: _digest(f"{scene.id} {name}"))

    absent = drawn(word for word in lexicon.words if word not in counts)
    absent.sort(key=lambda word: lexicon.category_of(word) not in kinds)
    there = drawn(counts)[0]
    yield from _pair(scene, "object", f"is there a {absent[0]}?", "no", f"is there a {there}?", "yes")
    count = NUMBERS[counts[there]]
    yield from _pair(scene, "count", f"how many {absent[0]}?", NUMBERS[0], f"how many {there}?", count)
    told = {answer: drawn(q.text for q in spatial(scene) if q.answer == answer) for answer in ("yes", "no")}
    if told["yes"]:  # then both ways of saying it are among them, and both of denying it
        first, second = told["yes"][:2]
        noun = first.split()[1]
        wrong = f"is {absent[0]}{first.removeprefix(f'is {noun}')}"
        yield from _pair(scene, "relation", wrong, "no", first, "yes")
        yield from _pair(scene, "property", told["no"][0], "no", second, "yes")
    places = {question.text: question.box for question in localisation(scene)}
    if places:
        asked, nowhere = drawn(places)[0], f"there is no {absent[0]}"
        yield from _pair(scene, "place", f"where is {absent[0]}?", nowhere, asked, "", places[asked])


def _pair(
    scene: Scene, kind: str, negative: str, denial: str, twin: str, answer: str, box: Box | None = None
) -> list[Example]:
    asked = ((NEGATIVE, negative, denial, None), (TWIN, twin, answer, box))
    return [
        Example(
            NAME,
            f"{kind}_{role}",
            f"{NAME}/{scene.id}/{_digest(text)[:8]}",
            scene.id,
            scene.id,
            text,
            (right,) if right else (),
            box=where,
            facts={"negative": role == NEGATIVE},
        )
        for role, text, right, where in asked
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _score(example: Example, answer: Answer, frame: Frame | None) -> Verdict:
    """1 for a negative that is denied, and for a twin that is answered and not denied."""
    reply, negative = read_denial(answer.text), example.facts["negative"]
    right = reply == ("denied" if negative else "affirmed")
    metric = DENIED_ABSENT if negative else DENIED_PRESENT
    return Verdict(
        float(right), reply, "denied" if negative else "affirmed", {metric: float(reply == "denied")}
    )


def _majority(examples: Sequence[Example]) -> float:
    """Always denying, or never."""
    share = sum(bool(example.facts["negative"]) for example in examples) / len(examples)
    return max(share, 1 - share)


NEGATIVE_INSTRUCTIONS = Benchmark(
    NAME,
    "right_denial",
    ANSWER_WORDS,
    _score,
    _majority,
    prompt=lambda example: dialogue_text.sentence(example.question),
    in_suite=False,
)
