"""``vlmablate export``: a trained model in the layout of other code. See :mod:`vlmablate.vlm.exports`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration.names import Index
from vlmablate.orchestration.store import SPEC, State, inspect_directory

if TYPE_CHECKING:
    from vlmablate.training.causal_model import CausalParts
    from vlmablate.vlm.multimodal import MultimodalModel

CARD = "model.json"
MADE_BY = ("finetune", "align")
"""The kinds of steps that leave a model, the one that a run's name means first."""

LAYOUTS: Mapping[str, str] = {
    "llava_hf": "a folder for LlavaForConditionalGeneration.from_pretrained of transformers",
    "prismatic": "config.json and checkpoints/latest-checkpoint.pt of Prismatic VLMs",
    "mm_projector": "mm_projector.bin of the original LLaVA: the projector alone",
}
FORMATS = ("float32", "bfloat16")


def model_folder(home: Path, word: str) -> Path:
    """The folder of the model that a word of the command line means: a run, a step, or the folder itself.

    Raises:
        UserError: when nothing, or more than one run, has that name, and for a run or step without a finished model.
    """
    folder = Path(word).expanduser()
    if folder.is_dir():
        if not (folder / CARD).is_file():
            raise UserError(f"{folder} holds no model: it has no {CARD}")
        return folder
    index = Index(home)
    found = index.one(word)
    if found.step is not None:
        step = found.step
    else:
        steps = found.runs[0].steps
        step = index.steps[next(steps[role] for role in MADE_BY if role in steps)]
    if step.kind not in MADE_BY:
        raise UserError(f"{step} leaves no vision-language model; one of {' or '.join(MADE_BY)} does")
    folder = home / step.directory
    if inspect_directory(folder, step.id).state is not State.DONE:
        raise UserError(f"{found.title}: {step} is not finished (`vlmablate why {word}` says why)")
    return folder


def export(folder: Path, layout: str, out: Path, dtype: str) -> None:
    """Write the model of a folder in a layout of `LAYOUTS` into a new folder.

    dtype: one of `FORMATS`.

    Raises:
        UserError: for a model with a part that the layout has no place for, naming it, or a folder that exists.
    """
    card = read_json(folder / CARD)
    if not isinstance(card.get("llm"), Mapping):
        raise UserError(
            "this model is built around a small language model that was trained here, which no other code has: export "
            "a run with a language model of the registry (llm=smollm2_135m, llm=vicuna_v1.5_7b, …)"
        )
    if card.get("tiles") is not None:
        raise UserError(
            "this model cuts pictures into tiles (image.tiles), and the layouts hold one square per picture: export a "
            "run with a whole picture, such as image=letterbox"
        )
    from vlmablate.training.causal_model import load_causal
    from vlmablate.vlm.exports.folders import absent

    absent(out)  # before minutes of loading
    seen = seen_of(folder)
    parts = load_causal(folder)
    # Frozen towers belong to a whole folder of transformers, and to no checkpoint of Prismatic.
    frozen = seen.get("live") if layout == "llava_hf" else None
    parts = replace(parts, model=_plain(parts.model, frozen))
    writers: Mapping[str, Callable[[CausalParts, Path, str, Mapping[str, Any]], None]] = {
        "llava_hf": _llava_hf,
        "prismatic": _prismatic,
        "mm_projector": _mm_projector,
    }
    writers[layout](parts, out, dtype, {**seen, **card})


def _plain(model: MultimodalModel, frozen: Mapping[str, Any] | None) -> MultimodalModel:
    """The model with its towers as they are alone, or with the frozen ones whose features it was trained on.

    frozen: as `vlm.seen` describes towers; None leaves a model without towers as it is.
    """
    from vlmablate.vlm.exports.vision import reference_towers, transformer_of
    from vlmablate.vlm.multimodal import MultimodalModel
    from vlmablate.vlm.seen import open_vision
    from vlmablate.vlm.towers.registry import facts, name_of

    vision = model.vision
    if vision is None and frozen is not None:
        if not all(facts(name_of(row["tower"])).reference for row in frozen["towers"]):
            transformer_of(None, "llava_hf")  # embedded towers are not opened for nothing
        vision = open_vision(frozen)
    return MultimodalModel(reference_towers(vision), model.projector, model.language)


def _llava_hf(parts: CausalParts, out: Path, dtype: str, card: Mapping[str, Any]) -> None:
    from vlmablate.vlm.exports.llava_hf import write_llava_hf

    image = (card.get("vision") or card).get("image")
    write_llava_hf(out, parts.model, len(parts.tokenizer), dtype, tokenizer=parts.tokenizer, image=image)


def _prismatic(parts: CausalParts, out: Path, dtype: str, card: Mapping[str, Any]) -> None:
    from vlmablate.vlm.exports.prismatic import write_prismatic

    write_prismatic(out, parts.model, card, dtype)


def _mm_projector(parts: CausalParts, out: Path, dtype: str, card: Mapping[str, Any]) -> None:
    from vlmablate.vlm.exports.mm_projector import write_mm_projector

    write_mm_projector(out, parts.model.projector, dtype)


def seen_of(folder: Path) -> dict[str, Any]:
    """Frozen towers and the transform of their pictures, as the steps say whose features the model was trained on.

    Nothing for a folder that was taken out of its results folder.
    """
    try:
        deps = read_json(folder / SPEC)["deps"]
        ids = [deps[role] for role in sorted(deps) if role.startswith("features")]
        steps = (folder.absolute().parents[1] / "features").glob("*")
        found = {path.name.rpartition("-")[2]: path for path in steps}
        configs = [read_json(found[step_id] / SPEC)["config"] for step_id in ids]
    except (OSError, KeyError, ValueError):
        return {}
    if not configs:
        return {}
    towers = [{"tower": config["tower"], "weights": config["weights"]} for config in configs]
    image = configs[0]["image"]
    live = {"towers": towers, "grid": configs[0]["grid"], "image": image}
    return {"towers": [row["tower"] for row in towers], "image": image, "live": live}
