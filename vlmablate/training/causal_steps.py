"""`align` and `finetune` of a model around a pretrained language model: dialogues about pictures, packed.

`lessons` (embedded scenes) and `record_steps` (published records) say what is asked at a step; here it is trained.

A global batch is as many samples as the stage says. A sample is a picture with the turns of a dialogue, written in the
prompt template of the language model; where the picture stands is behind the first token (paper, section 2). How the
samples are cut into rows and ranks is placement, and the loss of a batch is the same sum either way: `execution.pack`
puts several into a row, without padding, and `execution.micro_batch` says how many.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from vlmablate.training.lessons import Asked, Lessons, scene_lessons
from vlmablate.training.loop import Batch, Recipe, placement, train
from vlmablate.training.meters import peak_of
from vlmablate.training.operations import picture_operations, sequence_operations
from vlmablate.training.precision import precision_of
from vlmablate.training.ranks import ranks_of
from vlmablate.training.record_steps import record_lessons
from vlmablate.training.sequences import Sequences, pack
from vlmablate.training.sight import tune_vision
from vlmablate.training.trunks import WHOLE, Piece
from vlmablate.vlm.features_step import check_precision
from vlmablate.vlm.merge import IMAGE_MARK, Sample, expand
from vlmablate.vlm.prompts import Template, template_named
from vlmablate.vlm.sizes import llm_shape

ALIGNMENT_TEMPLATE = "plain"
CUT_FILE = "cut.jsonl"
"""Of every step in which texts were longer than `longest`: how many samples lost how many tokens."""
BATCHES_KEPT = 4
"""Laid-out batches that are remembered: those whose pictures are prepared ahead, and the one at work."""


@dataclass(frozen=True)
class Laid:
    """The global batch of a step in rows, and how many tokens each of its samples lost."""

    rows: Sequences
    lost: Sequence[int]


def train_causal(
    stage: str,
    config: dict[str, Any],
    deps: dict[str, Path],
    out: Path,
    context: StepContext,
    piece: Piece = WHOLE,
) -> dict[str, Any]:
    """Train one stage and write the parts that it trained. Returns the payload of `loop.train`, with the `mixture` that
    was learnt from, and what was `cut` {samples, tokens} from texts that were too long.

    In alignment the projector learns to say what a picture shows, and the text is the caption alone. In finetuning the
    turns are the whole dialogue, and what of the language model and the towers learns is in `stages.finetune`. A
    `piece` that is a trunk keeps the state of the training, and says neither mixture nor cut.

    Raises:
        UserError: for weights, data, features or settings that are wrong; see `causal_model`, `tuning`, `lessons` and
            `record_steps`.
    """
    check_precision(config["precision"], str(context.execution.get("device") or "cpu"))
    with _lessons(stage, config, deps) as lessons:
        return _train(stage, config, deps, out, context, lessons, piece)


@contextmanager
def _lessons(stage: str, config: Mapping[str, Any], deps: Mapping[str, Path]) -> Iterator[Lessons]:
    if config.get("records") is None:
        yield scene_lessons(stage, config, deps)
    else:
        with record_lessons(stage, config) as lessons:
            yield lessons


def _train(
    stage: str,
    config: dict[str, Any],
    deps: dict[str, Path],
    out: Path,
    context: StepContext,
    lessons: Lessons,
    piece: Piece,
) -> dict[str, Any]:
    precision, settings, seeds, sight = (
        config["precision"],
        config["stages"][stage],
        config["seed"],
        lessons.sight,
    )
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
    seen_how = settings.get("vision", "frozen") if stage == "finetune" else "frozen"
    if sight.vision is not None:
        tune_vision(sight.vision, seen_how)
        card["vision"] = sight.vision.live
    how = settings.get("language", "full") if stage == "finetune" else "frozen"
    tuning.apply(language, how, tuning.draws(int(seeds["init"])))
    tuning.master_weights(model, precision_of(precision).products)
    template = template_named(ALIGNMENT_TEMPLATE) if stage == "align" else template_of(config["llm"])
    own_rate = settings.get("vision_learning_rate") if sight.vision is not None else None
    rates = {} if own_rate is None else {"vision": float(own_rate)}

    with ranks_of(context) as ranks:
        if ranks.rank == 0:
            piece.inherit(CUT_FILE, out)
        micro, together = placement(context, "micro_batch", None), _together(context.execution)

        @lru_cache(maxsize=BATCHES_KEPT)
        def laid_at(step: int) -> Laid:
            samples, lost = samples_of(lessons.at(step), tokenizer, template, tokens, lessons.longest)
            return Laid(_rows(samples, tokens, ranks.size, micro, together), lost)

        def pictures_at(step: int) -> Sequence[Any]:
            whole = laid_at(step).rows
            rows = len(whole.targets) // ranks.size
            return whole.rows(slice(ranks.rank * rows, (ranks.rank + 1) * rows)).pictures

        with sight.by_name(
            pictures_at, lessons.steps, ranks, int(context.execution.get("threads") or 1)
        ) as look_at:
            model.to(ranks.device)
            shape, each_picture = None, 0.0
            if peak_of(ranks.device) is not None:  # nobody else asks for the utilisation
                shape = replace(llm_shape(config["llm"]["name"]), layers=len(language.layers))
                each_picture = picture_operations(
                    sight.vision, model.projector, (1, sight.cells, sight.channels)
                )

            def batch_at(step: int) -> Batch:
                laid = laid_at(step)
                if not laid.rows.target_count:
                    raise UserError(
                        f"no sample of step {step + 1} has an answer within {lessons.longest} tokens of text: raise "
                        f"stages.{stage}.longest"
                    )
                look, whole = look_at(step), laid.rows.to(ranks.device)
                if ranks.rank == 0:
                    _note_cut(out / CUT_FILE, step, laid.lost)

                def hidden(rows: slice) -> Tensor:
                    part = whole.rows(rows)
                    found: Tensor = model(look(part.pictures), part)
                    return found

                if shape is None:
                    return Batch(whole, hidden)
                read = sequence_operations(language, shape, whole.segments, whole.target_count)
                return Batch(whole, hidden, len(whole.pictures) * each_picture + read)

            torch.manual_seed(int(seeds["init"]))  # of dropout, which draws from what the process has
            payload = train(
                model,
                model.logits,
                batch_at,
                Recipe.read(settings, lessons.steps),
                out,
                context,
                precision,
                ranks,
                rates,
                rows_at_once=1 if together else None,
                piece=piece,
            )
        if piece.trunk:
            return payload
        if lessons.counts:
            payload["mixture"] = lessons.counts
        if lessons.longest is not None:
            payload["cut"] = _cut(out / CUT_FILE)
        parts = ["projector"]
        if how != "frozen":
            parts.append("language")
        if seen_how != "frozen":
            parts.append("vision")
        save_causal(model, card, parts, how, out, ranks)
    return payload


def samples_of(
    asked: Sequence[Asked], tokenizer: Any, template: Template, patches: int, longest: int | None = None
) -> tuple[list[Sample], list[int]]:
    """The samples of a step as token sequences, and how many tokens of text beyond `longest` each lost."""
    samples, lost = [], []
    for turns, picture in asked:
        dialogue = encode(tokenizer, template, turns, image="none" if picture is None else "after_bos")
        whole = len(dialogue.tokens)
        if longest is not None:
            dialogue = replace(dialogue, tokens=dialogue.tokens[:longest], learnt=dialogue.learnt[:longest])
        lost.append(whole - len(dialogue.tokens))
        samples.append(sample_of(dialogue, [] if picture is None else [picture], patches))
    return samples, lost


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


def _note_cut(path: Path, step: int, lost: Sequence[int]) -> None:
    """Add what a step lost to the file; a step that is done again after a resume says the same again."""
    samples = sum(count > 0 for count in lost)
    if samples:
        with open(path, "a", encoding="utf-8") as file:
            # The line break comes first: what a kill left of a line must not swallow the next.
            file.write("\n" + json.dumps({"step": step, "samples": samples, "tokens": sum(lost)}))


def _cut(path: Path) -> dict[str, int]:
    """{samples, tokens} that were lost in all steps."""
    steps: dict[int, tuple[int, int]] = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            steps[row["step"]] = row["samples"], row["tokens"]
        except (ValueError, KeyError, TypeError):
            continue  # empty, or torn by a kill, and then its step was done again
    return {
        "samples": sum(samples for samples, _ in steps.values()),
        "tokens": sum(tokens for _, tokens in steps.values()),
    }
