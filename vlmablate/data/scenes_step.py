"""The step `scenes`: composes pictures, annotations and questions of both splits, a contact sheet, and a table that
says whether a picture came out the same in both.

Config: `data` (conf/data/*.yaml), `assets` {asset set: digest}, `validation`. No dependency. With a number in
`validation` the step composes so many scenes to tune on, in place of those that arms are compared on, and no training
pictures: a model that learned from the training scenes of the same `data` is asked about scenes that neither it nor a
comparison has seen. They are made of the photographs and cut-outs of the evaluation, of which there are too few to hold
some back, so that tuning asks what the comparison asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmablate import files
from vlmablate.data import assets
from vlmablate.data.layout import Scene, sample_scene
from vlmablate.data.lexicon import DRAWN, Lexicon, load_lexicon
from vlmablate.data.overlap_scenes import scene_rows
from vlmablate.data.overlap_table import FILE, write_table
from vlmablate.data.picture_hash import thumbnail
from vlmablate.data.pictures import Art, compose, contact_sheet, load_art
from vlmablate.data.questions import (
    BENCHMARKS,
    Question,
    evaluation_questions,
    popular_nouns,
    training_questions,
)
from vlmablate.data.scenes_store import WORLD_FILE, write_split
from vlmablate.orchestration.context import StepContext

BACKGROUNDS = "photo_backgrounds"
SHEET_SCENES = 12


def run(config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    """Compose the splits. The payload counts questions and gives the share of the majority answer per benchmark.

    Raises UserError for an unknown picture source or assets that are not what the step was planned with.
    """
    data, validation = config["data"], config.get("validation")
    lexicon, art = _open(data["pictures"], config["assets"])
    seed = int(data["seed"])

    def sample(stream: str, count: int) -> list[Scene]:
        return [sample_scene(lexicon, art.shapes, seed, stream, index) for index in range(count)]

    training = sample("train", int(data["train_scenes"]))
    popular = popular_nouns(training)
    scenes: dict[str, list[Scene]] = {}
    questions: dict[str, list[Question]] = {}
    if validation is None:
        scenes["train"] = training
        questions["train"] = [
            question
            for index, scene in enumerate(training)
            for question in training_questions(
                scene, lexicon, popular, np.random.default_rng([seed, 6, index])
            )
        ]
        scenes["evaluation"] = sample("evaluation", int(data["evaluation_scenes"]))
    else:
        scenes["evaluation"] = sample("validation", int(validation))
    questions["evaluation"] = evaluation_questions(scenes["evaluation"], lexicon, popular, seed)
    done, total = 0, sum(map(len, scenes.values()))
    small: dict[str, dict[str, np.ndarray]] = {split: {} for split in scenes}

    def pictures(split: str) -> Iterator[tuple[str, Image.Image]]:
        nonlocal done
        for scene in scenes[split]:
            context.check_stop()
            picture = compose(scene, art)
            small[split][scene.id] = thumbnail(picture)
            yield scene.id, picture
            done += 1
            context.progress(done, total)

    for split in scenes:
        write_split(out, split, scenes[split], questions[split], pictures(split))
    files.write_json(out / WORLD_FILE, {"source": lexicon.source, "shapes": art.shapes})
    if validation is None:
        write_table(scene_rows(small["train"], small["evaluation"], questions["evaluation"]), out / FILE)
        with files.write_with(out / "contact_sheet.png") as target:
            _sheet(scenes["evaluation"], questions["evaluation"], art).save(target, "PNG")
    return {
        "train": len(scenes.get("train", ())),
        "evaluation": len(scenes["evaluation"]),
        "nouns": list(lexicon.words),
        "facts": {
            "pictures": lexicon.source,
            "training_questions": len(questions.get("train", ())),
            "evaluation_questions": dict(Counter(q.benchmark for q in questions["evaluation"])),
            "majority_answer": _majority(questions["evaluation"]),
            "cutouts_per_noun": 1,
            "unseen_cutouts": sum(len(ids) for ids in lexicon.pools["evaluation"].values()),
        },
    }


def _open(source: str, digests: dict[str, str]) -> tuple[Lexicon, Art]:
    """The lexicon of the tier that provides the pictures, and its art."""
    if source == DRAWN:
        lexicon = load_lexicon(DRAWN)
        return lexicon, load_art(lexicon)
    provider, pictures = assets.use(source, digests[source])
    _, photographs = assets.use(BACKGROUNDS, digests[BACKGROUNDS])
    lexicon = load_lexicon(provider)
    return lexicon, load_art(lexicon, pictures, photographs)


def _majority(questions: Sequence[Question]) -> dict[str, float]:
    shares = {}
    for benchmark in BENCHMARKS:
        answers = Counter(q.answer for q in questions if q.benchmark == benchmark and q.box is None)
        if answers:
            shares[benchmark] = round(max(answers.values()) / sum(answers.values()), 4)
    return shares


def _sheet(scenes: Sequence[Scene], questions: Sequence[Question], art: Art) -> Image.Image:
    """The scenes with the most kinds of questions, one question of each benchmark under the picture."""
    asked: dict[str, dict[str, Question]] = {}
    for question in questions:
        asked.setdefault(question.scene, {}).setdefault(question.benchmark, question)
    ranked = sorted(range(len(scenes)), key=lambda index: (-len(asked.get(scenes[index].id, {})), index))
    tiles = []
    for index in ranked[:SHEET_SCENES]:
        scene = scenes[index]
        lines = [f"{q.text}  {q.answer or list(q.box or ())}" for q in asked.get(scene.id, {}).values()]
        tiles.append((compose(scene, art), lines))
    return contact_sheet(tiles)
