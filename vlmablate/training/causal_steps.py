"""`align` and `finetune` of a model around a pretrained language model: dialogues about pictures, packed.

A global batch is as many samples as the stage says. A sample is a picture with the turns of one visit, written in the
prompt template of the language model; where the picture stands is behind the first token (paper, section 2). How the
samples are cut into rows and ranks is placement, and the loss of a batch is the same sum either way: `execution.pack`
puts several into a row, without padding, and `execution.micro_batch` says how many.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmablate.data import dialogue_text
from vlmablate.data.lexicon import load_lexicon
from vlmablate.data.mixtures import Mixture, source_questions
from vlmablate.data.questions import Question
from vlmablate.data.scenes_store import SceneStore, read_world
from vlmablate.data.text_only import requests
from vlmablate.errors import UserError
from vlmablate.orchestration.context import StepContext
from vlmablate.training import tuning
from vlmablate.training.balance import place_rows
from vlmablate.training.causal_model import (
    assemble,
    open_language,
    read_parts,
    save_causal,
    template_of,
)
from vlmablate.training.dialogues import Dialogue, encode
from vlmablate.training.loop import Batch, Recipe, placement, train
from vlmablate.training.meters import peak_of
from vlmablate.training.operations import picture_operations, sequence_operations
from vlmablate.training.precision import precision_of
from vlmablate.training.ranks import ranks_of
from vlmablate.training.sequences import Sequences, pack
from vlmablate.training.sight import Sight, open_sight, tune_vision
from vlmablate.training.visits import Visit, Visits
from vlmablate.vlm.features_step import check_precision
from vlmablate.vlm.image import Frame
from vlmablate.vlm.merge import IMAGE_MARK, Sample, expand
from vlmablate.vlm.prompts import Template, Turn, template_named
from vlmablate.vlm.sizes import llm_shape

Pair = tuple[str, str]
"""What is asked and what is answered."""

ALIGNMENT_TEMPLATE = "plain"
BATCHES_KEPT = 4
"""Laid-out batches that are remembered: those whose pictures are prepared ahead, and the one at work."""


def train_causal(
    stage: str, config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext
) -> dict[str, Any]:
    """Train one stage and write the parts that it trained. Returns the payload of `loop.train`.

    In alignment the projector learns to say what a picture shows, and the text is the caption alone. In finetuning the
    turns are the questions of the scene, and what of the language model and the towers learns is in `stages.finetune`.

    Raises:
        UserError: for weights, features or settings that are wrong; see `causal_model`, `tuning` and `sight`.
    """
    precision = config["precision"]
    check_precision(precision, str(context.execution.get("device") or "cpu"))
    settings, seeds = config["stages"][stage], config["seed"]
    store = SceneStore(deps["scenes"], "train")
    sight = open_sight(config.get("live"), deps, store)
    language, tokenizer = open_language(config["llm"])
    card: dict[str, Any] = {
        "llm": config["llm"],
        "projector": config["projector"],
        "channels": sight.channels,
        "side": sight.side,
        "tiles": sight.tiles.as_card(),
    }
    model, tokens = assemble(card, language, sight.vision, torch.Generator().manual_seed(int(seeds["init"])))
    if "init" in deps:
        read_parts(model, deps["init"], ["projector"])
    if sight.vision is not None:
        tune_vision(sight.vision, settings["vision"])
        card["vision"] = sight.vision.live
    how = settings.get("language", "full") if stage == "finetune" else "frozen"
    tuning.apply(language, how, tuning.draws(int(seeds["init"])))
    tuning.master_weights(model, precision_of(precision).products)
    visits = _visits(stage, settings, int(seeds["order"]), store, sight)
    template = template_named(ALIGNMENT_TEMPLATE) if stage == "align" else template_of(config["llm"])
    own_rate = settings.get("vision_learning_rate") if sight.vision is not None else None
    rates = {} if own_rate is None else {"vision": float(own_rate)}

    with ranks_of(context) as ranks:
        micro, together = placement(context, "micro_batch", None), _together(context.execution)

        @lru_cache(maxsize=BATCHES_KEPT)
        def sequences_at(step: int) -> Sequences:
            samples = samples_of(visits.at(step), tokenizer, template, tokens)
            return _rows(samples, tokens, ranks.size, micro, together)

        def pictures_at(step: int) -> Sequence[Any]:
            whole = sequences_at(step)
            rows = len(whole.targets) // ranks.size
            return whole.rows(slice(ranks.rank * rows, (ranks.rank + 1) * rows)).pictures

        with sight.by_name(
            pictures_at, visits.steps, ranks, int(context.execution.get("threads") or 1)
        ) as look_at:
            model.to(ranks.device)
            shape, each_picture = None, 0.0
            if peak_of(ranks.device) is not None:  # nobody else asks for the utilisation
                shape = replace(llm_shape(config["llm"]["name"]), layers=len(language.layers))
                each_picture = picture_operations(
                    sight.vision, model.projector, (1, sight.cells, sight.channels)
                )

            def batch_at(step: int) -> Batch:
                look, whole = look_at(step), sequences_at(step).to(ranks.device)

                def hidden(rows: slice) -> Tensor:
                    part = whole.rows(rows)
                    found: Tensor = model(look(part.pictures), part)
                    return found

                if shape is None:
                    return Batch(whole, hidden)
                read = sequence_operations(language, shape, whole.segments, whole.target_count)
                return Batch(whole, hidden, len(whole.pictures) * each_picture + read)

            payload = train(
                model,
                model.logits,
                batch_at,
                Recipe.read(settings, visits.steps),
                out,
                context,
                precision,
                ranks,
                rates,
                rows_at_once=1 if together else None,
            )
        if stage == "finetune":
            payload["mixture"] = visits.counts()
        parts = ["projector"]
        if how != "frozen":
            parts.append("language")
        if sight.vision is not None:
            parts.append("vision")
        save_causal(model, card, parts, how, out, ranks)
    return payload


def samples_of(visit: Visit[Pair], tokenizer: Any, template: Template, patches: int) -> list[Sample]:
    """The rows of a step as token sequences; pictures are named by their number in the store."""
    samples = []
    for picture, pictured, pairs in zip(visit.pictures, visit.pictured, visit.segments, strict=True):
        turns = [turn for asked, told in pairs for turn in (Turn("human", asked), Turn("gpt", told))]
        dialogue = encode(tokenizer, template, turns, image="after_bos" if pictured else "none")
        samples.append(sample_of(dialogue, [int(picture)] if pictured else [], patches))
    return samples


def sample_of(dialogue: Dialogue, pictures: Sequence[Hashable], patches: int) -> Sample:
    """A dialogue with the cells of its picture in place."""
    ids, asked = dialogue.tokens.tolist(), dialogue.learnt.tolist()
    if dialogue.image_at is not None:
        ids.insert(dialogue.image_at, IMAGE_MARK)
        asked.insert(dialogue.image_at, False)
    return expand(ids, asked, pictures, patches)


def _together(execution: Mapping[str, Any]) -> bool:
    value = execution.get("pack")
    if not isinstance(value, bool | None):
        raise UserError(f"execution.pack is true or false, not {value!r}")
    return value is not False


def _rows(samples: list[Sample], patches: int, ranks: int, micro: int | None, together: bool) -> Sequences:
    """The samples of a batch in rows, equally many for each rank, rank by rank.

    together: several in a row, balanced, so that a rank has about `micro` samples in one (None: all of its own in one
    row). Otherwise each is a row, and rows of nothing make their number even.
    """
    if together:
        rounds = 1 if micro is None else math.ceil(len(samples) / (ranks * micro))
        placement = place_rows([len(sample) for sample in samples], ranks, rounds=rounds)
        return pack(samples, [row for rank in placement for row in rank], patches)
    rows = [[number] for number in range(len(samples))]
    return pack(samples, [*rows, *[[] for _ in range(-len(samples) % ranks)]], patches)


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
