"""Questions about scenes whose truth is known, in six families that mirror the paper's benchmarks.

| benchmark    | mirrors    | example                         | answer          | metric    |
|--------------|------------|---------------------------------|-----------------|-----------|
| open_vqa     | VQAv2, GQA | what is leftmost? / what kind … | noun / category | exact     |
| existence    | POPE       | is there a zebra?               | yes, no         | exact     |
| counting     | TallyQA    | how many zebra?                 | one … four      | exact     |
| spatial      | VSR        | is zebra left of teapot?        | yes, no         | exact     |
| localisation | RefCOCO    | where is zebra?                 | box             | IoU >= .5 |
| text_reading | TextVQA    | what does the sign say?         | word            | exact     |

Everything is a pure function of scenes, lexicon and seed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vlmablate.data.layout import UNSEEN, Box, Scene, Thing
from vlmablate.data.lexicon import Lexicon

NUMBERS = ("zero", "one", "two", "three", "four")
EXTREMES: dict[str, Callable[[Thing], float]] = {
    "leftmost": lambda thing: thing.centre[0],
    "rightmost": lambda thing: -thing.centre[0],
    "topmost": lambda thing: thing.centre[1],
    "bottommost": lambda thing: -thing.centre[1],
}
RELATIONS = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}
BENCHMARKS = ("open_vqa", "existence", "counting", "spatial", "localisation", "text_reading")
# An extreme or a relation is asked for only where the centres differ by this share of the canvas.
CLEAR_GAP = 0.08
# No count is the answer of more than this many counting questions per evaluation scene.
COUNT_CAP = 0.27
# A training box is asked for only when the image transform left at least this share of it in the model's square.
VISIBLE_SHARE = 0.3
NEGATIVES = ("random", "popular", "adversarial")
POPULAR_NOUNS = 8
# Questions of each family behind one training picture (at most; a scene may allow fewer).
TRAINING_MIX = {
    "open_vqa": 4,
    "existence": 4,
    "counting": 2,
    "spatial": 4,
    "localisation": 3,
    "text_reading": 1,
}


@dataclass(frozen=True)
class Question:
    """One scored question. `subset` names the kind inside the benchmark and becomes the column `split`.

    answer: the words of the answer; empty for localisation, whose truth is `box` in pixels of the scene.
    """

    example_id: str
    scene: str
    benchmark: str
    subset: str
    text: str
    answer: str
    box: Box | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> Question:
        return Question(**{**record, "box": None if record["box"] is None else tuple(record["box"])})


def _question(
    scene: Scene, benchmark: str, subset: str, text: str, answer: str, box: Box | None = None
) -> Question:
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Question(f"{benchmark}/{scene.id}/{digest}", scene.id, benchmark, subset, text, answer, box)


def open_vqa(scene: Scene) -> list[Question]:
    """Which noun, or which category, stands at one end of the picture.

    Nouns are the instance questions. A category question is about a pool cut-out: in evaluation scenes one that no
    training picture shows.
    """
    asked = []
    extents = {
        "leftmost": scene.width,
        "rightmost": scene.width,
        "topmost": scene.height,
        "bottommost": scene.height,
    }
    for extreme, key in EXTREMES.items():
        ranked = sorted(scene.objects, key=key)
        if not ranked:
            continue
        clear = len(ranked) == 1 or key(ranked[1]) - key(ranked[0]) >= CLEAR_GAP * extents[extreme]
        thing = ranked[0]
        if not clear:
            continue
        if thing.word is not None:
            asked.append(_question(scene, "open_vqa", "instance", f"what is {extreme}?", thing.word))
        elif thing.category is not None:
            subset = "unseen_category" if scene.split in UNSEEN else "category"
            asked.append(_question(scene, "open_vqa", subset, f"what kind is {extreme}?", thing.category))
    return asked


def existence(
    scene: Scene, lexicon: Lexicon, popular: Sequence[str], rng: np.random.Generator
) -> dict[str, list[Question]]:
    """Present nouns (`yes`) and, per way of choosing them, absent nouns (POPE's three negatives).

    adversarial: absent nouns of a category that is in the picture, the look-alikes.
    """
    present = sorted({thing.word for thing in scene.objects if thing.word})
    absent = [word for word in lexicon.words if word not in present]
    seen_categories = {thing.category for thing in scene.objects if thing.category}
    pools = {
        "random": absent,
        "popular": [word for word in popular if word in absent] or absent,
        "adversarial": [word for word in absent if lexicon.category_of(word) in seen_categories] or absent,
    }

    def ask(subset: str, word: str, answer: str) -> Question:
        return _question(scene, "existence", subset, f"is there a {word}?", answer)

    asked = {"yes": [ask("positive", word, "yes") for word in present]}
    for subset, words in pools.items():
        asked[subset] = [ask(subset, words[i], "no") for i in rng.permutation(len(words))[:4]]
    return asked


def counting(scene: Scene) -> list[Question]:
    """How many objects there are (simple), and how many of each noun that is in the picture (complex)."""
    counts = Counter(thing.word for thing in scene.objects if thing.word)
    asked = []
    if scene.objects:
        answer = NUMBERS[len(scene.objects)]
        asked.append(_question(scene, "counting", "simple", "how many objects?", answer))
    for word, count in sorted(counts.items()):
        asked.append(_question(scene, "counting", "complex", f"how many {word}?", NUMBERS[count]))
    return asked


def spatial(scene: Scene) -> list[Question]:
    """Statements about two nouns that occur once each; the relation must be clear along its own axis."""
    single = _single(scene)
    asked = []
    for a in single:
        for b in single:
            if a is b:
                continue
            for relation, (axis, sign) in RELATIONS.items():
                gap = sign * (b.centre[axis] - a.centre[axis]) / (scene.width, scene.height)[axis]
                if abs(gap) >= 2 * CLEAR_GAP:
                    text = f"is {a.word} {relation} {b.word}?"
                    asked.append(_question(scene, "spatial", relation, text, "yes" if gap > 0 else "no"))
    return asked


def localisation(scene: Scene) -> list[Question]:
    """The box of a noun that occurs once."""
    return [
        _question(scene, "localisation", thing.category or "other", f"where is {thing.word}?", "", thing.box)
        for thing in _single(scene)
    ]


def text_reading(scene: Scene) -> list[Question]:
    """The word on the sign."""
    if scene.sign is None or scene.sign.text is None:
        return []
    return [_question(scene, "text_reading", "sign", "what does the sign say?", scene.sign.text)]


def _single(scene: Scene) -> list[Thing]:
    counts = Counter(thing.word for thing in scene.objects)
    return [thing for thing in scene.objects if thing.word and counts[thing.word] == 1]


def popular_nouns(scenes: Iterable[Scene]) -> tuple[str, ...]:
    """The most frequent nouns of the given (training) scenes, ties in alphabetical order."""
    counts = Counter(thing.word for scene in scenes for thing in scene.objects if thing.word)
    return tuple(
        word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:POPULAR_NOUNS]
    )


def training_questions(
    scene: Scene, lexicon: Lexicon, popular: Sequence[str], rng: np.random.Generator
) -> list[Question]:
    """At most TRAINING_MIX questions of each family, yes and no in equal parts."""
    answers = existence(scene, lexicon, popular, rng)
    negatives = [answers[NEGATIVES[i % 3]][i // 3] for i in range(TRAINING_MIX["existence"])]
    half = TRAINING_MIX["existence"] // 2
    positives = answers["yes"][:half]
    relations = spatial(scene)
    chosen = [*_draw(rng, open_vqa(scene), TRAINING_MIX["open_vqa"])]
    chosen += positives + negatives[: max(1, len(positives))]
    chosen += _draw(rng, counting(scene), TRAINING_MIX["counting"])
    for truth in ("yes", "no"):
        chosen += _draw(rng, [q for q in relations if q.answer == truth], TRAINING_MIX["spatial"] // 2)
    chosen += _draw(rng, localisation(scene), TRAINING_MIX["localisation"])
    chosen += _draw(rng, text_reading(scene), TRAINING_MIX["text_reading"])
    return chosen


def _draw(rng: np.random.Generator, asked: list[Question], count: int) -> list[Question]:
    return [asked[i] for i in rng.permutation(len(asked))[:count]]


def evaluation_questions(
    scenes: Sequence[Scene], lexicon: Lexicon, popular: Sequence[str], seed: int
) -> list[Question]:
    """The scored questions: at most three of a family per scene, each chosen so that rare answers catch up.

    Balancing looks at the answers given so far in the benchmark, so that the always-majority answer stays weak.
    """
    seen: Counter[tuple[str, str]] = Counter()
    kept: list[Question] = []
    cap = dict.fromkeys(BENCHMARKS, float("inf")) | {"counting": COUNT_CAP * len(scenes)}

    def take(asked: Sequence[Question], count: int) -> None:
        for _ in range(count):
            candidates = [
                q for q in asked if q not in taken and seen[q.benchmark, q.answer] < cap[q.benchmark]
            ]
            if not candidates:
                return
            best = min(candidates, key=lambda q: (seen[q.benchmark, q.answer], q.example_id))
            seen[best.benchmark, best.answer] += 1
            taken.append(best)

    for index, scene in enumerate(scenes):
        rng = np.random.default_rng([seed, 7, index])
        taken: list[Question] = []
        take([q for q in open_vqa(scene) if q.subset == "instance"], 1)
        take([q for q in open_vqa(scene) if q.subset != "instance"], 1)
        answers = existence(scene, lexicon, popular, rng)
        if answers["yes"]:
            take([answers["yes"][int(rng.integers(len(answers["yes"])))]], 1)
            take(answers[NEGATIVES[index % 3]][:1], 1)
        take(counting(scene), 1)
        take(_draw(rng, spatial(scene), 24), 3)
        take(_draw(rng, localisation(scene), 2), 2)
        take(text_reading(scene), 1)
        kept += taken
    return kept
