"""What a stage around a pretrained language model learns from: dialogues about pictures, step by step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vlmablate.data import dialogue_text
from vlmablate.data.lexicon import load_lexicon
from vlmablate.data.mixtures import Mixture, source_questions
from vlmablate.data.questions import Question
from vlmablate.data.scenes_store import SceneStore, read_world
from vlmablate.data.text_only import requests
from vlmablate.errors import UserError
from vlmablate.training.sight import Sight, open_sight
from vlmablate.training.visits import Visits
from vlmablate.vlm.image import Frame
from vlmablate.vlm.prompts import Turn

Pair = tuple[str, str]
"""What is asked and what is answered."""


class Asked(NamedTuple):
    """A sample: a dialogue, and the name of its picture in the stage's sight; None for text alone."""

    turns: Sequence[Turn]
    picture: Hashable | None


@dataclass(frozen=True)
class Lessons:
    """All that a stage asks.

    Attributes:
        sight: its pictures. steps: optimiser steps.
        at: the samples of the global batch of a step, counted from 0; pure, and asked in any order.
        longest: tokens of text that a sample has at most, None for any number; the rest is cut off.
        counts: source -> its rows in the whole stage, and what else is known of it: the provenance of what was learnt.
    """

    sight: Sight
    steps: int
    at: Callable[[int], list[Asked]]
    longest: int | None
    counts: Mapping[str, Mapping[str, int]]


def scene_lessons(stage: str, config: Mapping[str, Any], deps: Mapping[str, Path]) -> Lessons:
    """Captions (`align`) or questions (`finetune`) of embedded scenes, in words.

    Raises UserError for features that are damaged or of other scenes, and a mixture that is none.
    """
    store = SceneStore(deps["scenes"], "train")
    sight = open_sight(config.get("live"), deps, store)
    visits = _visits(stage, config["stages"][stage], int(config["seed"]["order"]), store, sight)

    def at(step: int) -> list[Asked]:
        visit = visits.at(step)
        return [
            Asked(
                [turn for asked, told in pairs for turn in (Turn("human", asked), Turn("gpt", told))],
                int(picture) if pictured else None,
            )
            for picture, pictured, pairs in zip(visit.pictures, visit.pictured, visit.segments, strict=True)
        ]

    return Lessons(sight, visits.steps, at, None, visits.counts() if stage == "finetune" else {})


def _visits(
    stage: str, settings: Mapping[str, Any], seed: int, store: SceneStore, sight: Sight
) -> Visits[Pair]:
    """What is asked about every picture, as text."""
    if list(store.ids) != list(sight.ids):
        raise UserError("the features are not those of these scenes; delete the features step and run again")
    mixture = Mixture.read(settings.get("mixture"))
    base: list[list[Pair]] = []
    sources: dict[str, list[list[Pair]]] = {source: [] for source in mixture.questions}
    lexicon = load_lexicon(read_world(store.folder)[0])
    for number, (scene, frame) in enumerate(zip(store.scenes, sight.frames, strict=True)):
        if stage == "align":
            caption = dialogue_text.caption(scene)
            base.append([] if caption is None else [("", caption)])
        else:
            base.append(_pairs(store.questions[scene.id], frame))
        for source, rows in sources.items():
            rows.append(_pairs(source_questions(source, scene, number, lexicon), frame))
    told = requests("train") if mixture.text_only else []
    text = [(dialogue_text.sentence(request.text), request.proper) for request in told]
    return Visits(
        base,
        sources,
        text,
        mixture,
        epochs=settings["epochs"],
        batch=int(settings["batch_scenes"]),
        questions=int(settings.get("questions_per_visit", 1)),
        seed=seed,
    )


def _pairs(questions: Iterable[Question], frame: Frame) -> list[Pair]:
    told = ((dialogue_text.asked(question), dialogue_text.told(question, frame)) for question in questions)
    return [(asked, answer) for asked, answer in told if answer is not None]
