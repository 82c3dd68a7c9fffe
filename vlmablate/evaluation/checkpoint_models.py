"""Checkpoints that benchmarks are put to: those of runs here, and folders of transformers' LLaVA.

A model of a run sees what it was trained to see: its towers, their squares and tiles. What a LLaVA of transformers sees
is in its folder beside the weights, in the settings of its processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from vlmablate.data.notes import file_digest
from vlmablate.errors import UserError
from vlmablate.evaluation.runner import Answering, Checkpoint, Squares
from vlmablate.export import CARD, model_folder, seen_of
from vlmablate.files import read_json
from vlmablate.training.causal_model import load_causal, template_of
from vlmablate.training.dialogues import Image
from vlmablate.vlm.exports.llava_hf import read_llava_hf
from vlmablate.vlm.image import Colour, Frame, fill_colour, transform_named
from vlmablate.vlm.multimodal import MultimodalModel
from vlmablate.vlm.prompts import Template, template_named, templates
from vlmablate.vlm.seen import LiveVision, open_vision
from vlmablate.vlm.tiling import ONE_SQUARE, TileLayout, fixed_tiles

FOREIGN = "config.json"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
BICUBIC = 3


def checkpoint_of(
    home: Path, word: str, template: str | None = None, image: Image | None = None, resize: str | None = None
) -> Checkpoint:
    """The model that a word of the command line means; opened, it is in float32 and eval mode.

    Args:
        home: the results folder, for the names of runs.
        word: a run, a step, its folder, or a folder in the layout of transformers' LLaVA.
        template: the prompt template; of a run its own by default, and needed for a LLaVA.
        image: where the picture stands in a prompt; by default behind the first token for a run, and at the mark in
            front of the question for a LLaVA.
        resize: the transform that makes pictures square, by default that of the run or of the LLaVA's processor.

    Raises UserError for a word that means no model, or a model that cannot be asked.
    """
    folder = Path(word).expanduser()
    chosen = None if template is None else template_named(template)
    if resize is not None:
        transform_named(resize)
    if (folder / FOREIGN).is_file() and not (folder / CARD).is_file():
        return _foreign(folder, chosen, image or "mark", resize)
    return own_checkpoint(model_folder(home, word), chosen, image or "after_bos", resize)


def own_checkpoint(
    folder: Path, template: Template | None = None, image: Image = "after_bos", resize: str | None = None
) -> Checkpoint:
    """The model of a finished step, asked as it was trained unless said otherwise.

    Raises UserError for a model that cannot be asked.
    """
    card = read_json(folder / CARD)
    if not isinstance(card.get("llm"), Mapping):
        raise UserError(
            "this model is built around a small language model with a vocabulary of its own, and published benchmarks "
            "ask in natural text: evaluate a run with a language model of the registry (llm=smollm2_135m, …)"
        )
    live = card.get("vision") or seen_of(folder).get("live")
    if live is None:
        raise UserError(
            f"{folder} does not say what its pictures were seen through: it was taken out of its results folder, where "
            "the steps of its features are. Name the run, or the folder in its place there"
        )
    resize = resize or str(live["image"]["resize"])
    template = template or template_of(card["llm"])

    def read() -> Answering:
        parts = load_causal(folder)
        layout = TileLayout.read(card.get("tiles"))
        vision = parts.model.vision or open_vision(live)
        assert isinstance(vision, LiveVision)
        return Answering(
            MultimodalModel(vision, parts.model.projector, parts.model.language).eval(),
            squares_of(resize, vision.squares(), layout),
            _through_towers(vision, layout),
            parts.tokens,
            parts.tokenizer,
            template,
            image,
        )

    return Checkpoint(partial(_identity, folder, template, image, resize, card=card, vision=live), read)


def _foreign(folder: Path, template: Template | None, image: Image, resize: str | None) -> Checkpoint:
    if template is None:
        raise UserError(
            f"{folder} does not say how its prompts are written: give template=NAME, one of "
            f"{', '.join(templates())} (LLaVA-1.5: vicuna_v1.5)"
        )
    said, mean, std = _processor(folder)
    resize = resize or said

    def read() -> Answering:
        from transformers import AutoTokenizer

        model = read_llava_hf(folder).model
        tower: Any = model.vision
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} has no tokenizer that can be read: {error}") from error
        return Answering(
            model,
            squares_of(resize, [(tower.image_size, fill_colour(mean))], ONE_SQUARE),
            _through_transformer(tower, mean, std),
            int(tower.tokens),
            tokenizer,
            template,
            image,
        )

    return Checkpoint(partial(_identity, folder, template, image, resize, mean=mean, std=std), read)


def _identity(folder: Path, template: Template, image: Image, resize: str, **more: Any) -> Mapping[str, Any]:
    """With the digests of the files of the model."""
    files = [*folder.glob("*.safetensors"), *(folder / name for name in (FOREIGN, *TOKENIZERS))]
    digests = {path.name: file_digest(path) for path in sorted(files) if path.is_file()}
    return {"files": digests, "template": template.name, "image": image, "resize": resize, **more}


def squares_of(resize: str, squares: Sequence[tuple[int, Colour]], layout: TileLayout) -> Squares:
    """squares: side in pixels and fill colour for each tower. Raises UserError for an unknown transform."""
    transform = transform_named(resize)

    def cut(picture: Pillow.Image) -> tuple[list[np.ndarray], Frame]:
        every = [fixed_tiles(picture, size, layout, transform, fill) for size, fill in squares]
        return [np.stack([np.asarray(tile.picture) for tile in tiles]) for tiles, _ in every], every[0][1]

    return cut


def _through_towers(vision: LiveVision, layout: TileLayout) -> Callable[[Sequence[Tensor]], Tensor]:
    def see(squares: Sequence[Tensor]) -> Tensor:
        features: Tensor = vision([tiles.flatten(0, 1) for tiles in squares])
        return features.reshape(-1, layout.count * features.shape[1], features.shape[2])

    return see


def _through_transformer(
    tower: nn.Module, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Sequence[Tensor]], Tensor]:
    def see(squares: Sequence[Tensor]) -> Tensor:
        pixels = squares[0][:, 0].float() / 255.0
        scale, shift = (torch.tensor(row, device=pixels.device) for row in (std, mean))
        features: Tensor = tower(((pixels - shift) / scale).permute(0, 3, 1, 2))
        return features

    return see


def _processor(
    folder: Path,
) -> tuple[str, tuple[float, float, float], tuple[float, float, float]]:
    """Transform, mean and standard deviation of the folder's image processor.

    Raises UserError for a folder without one, and for settings that are no transform of this package.
    """
    settings = _settings(folder)
    side = _side(folder)
    size, crop = (_edges(settings.get(key)) for key in ("size", "crop_size"))
    cropped = bool(settings.get("do_center_crop"))
    known = {
        "letterbox": bool(settings.get("do_pad")) and size in (side, (side, side)),
        "resize_crop": cropped and size == side and crop in (side, (side, side)),
        "resize_naive": not cropped and size == (side, side),
    }
    usual = (
        all(settings.get(key, True) for key in ("do_resize", "do_rescale", "do_normalize"))
        and settings.get("resample", BICUBIC) == BICUBIC
    )
    found = next((name for name, fits in known.items() if fits), None)
    if found is None or not usual:
        keys = ("do_resize", "size", "do_center_crop", "crop_size", "do_pad", "resample", "do_normalize")
        raise UserError(
            f"the image processor in {folder} makes pictures in a way that is not known here: "
            + ", ".join(f"{key}={settings.get(key)}" for key in keys)
            + f"; known are squares of {side} pixels, bicubic: padded, stretched, or cut out of the middle"
        )
    try:
        (a, b, c), (d, e, f) = (map(float, settings[key]) for key in ("image_mean", "image_std"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the image processor in {folder} needs image_mean and image_std of three numbers"
        ) from error
    return found, (a, b, c), (d, e, f)


def _settings(folder: Path) -> Mapping[str, Any]:
    for name in PROCESSORS:
        if (folder / name).is_file():
            settings: dict[str, Any] = read_json(folder / name)
            if "image_processor" in settings or "image_mean" in settings:
                return settings.get("image_processor", settings)
    raise UserError(
        f"{folder} does not say how pictures become pixels: it has no {' or '.join(PROCESSORS)} of transformers"
    )


def _side(folder: Path) -> int:
    """Of the tower's square, in pixels."""
    vision = read_json(folder / FOREIGN).get("vision_config")
    if not isinstance(vision, Mapping) or not isinstance(vision.get("image_size"), int):
        raise UserError(f"{folder / FOREIGN} is not of a LLaVA: it has no vision_config.image_size")
    return int(vision["image_size"])


def _edges(size: Any) -> int | tuple[int, int] | None:
    """A shortest edge, or height and width."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return int(size["shortest_edge"])
        return (int(size["height"]), int(size["width"])) if {"height", "width"} <= set(size) else None
    return size if isinstance(size, int) else None
