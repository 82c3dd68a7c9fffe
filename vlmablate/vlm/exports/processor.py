"""What transformers needs beside the weights: the tokenizer with an image token, and how pictures become pixels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

from vlmablate.errors import UserError
from vlmablate.vlm.exports.vision import family_of
from vlmablate.vlm.image import fill_colour
from vlmablate.vlm.towers.architectures import CLIP
from vlmablate.vlm.towers.vit import VisionTransformer

IMAGE_TOKEN = "<image>"


def with_image_token(tokenizer: Any, words: int) -> Any:
    """A copy of a tokenizer with `<image>` under the id `words`. Raises UserError where it would get another id."""
    made = copy.deepcopy(tokenizer)
    made.add_tokens([IMAGE_TOKEN], special_tokens=True)
    found = made.convert_tokens_to_ids(IMAGE_TOKEN)
    if found != words:
        raise UserError(
            f"the tokenizer gives {IMAGE_TOKEN} the id {found}, and the model was to have it at {words}"
        )
    return made


def select_strategy(tower: VisionTransformer) -> Literal["default", "full"]:
    """`default` drops the class token of CLIP, `full` keeps all tokens: SigLIP has no other."""
    return "default" if family_of(tower) is CLIP else "full"


def processor_of(tokenizer: Any, tower: VisionTransformer, image: Mapping[str, Any]) -> Any:
    """A LlavaProcessor that prepares pictures as `image` {resize, fill} does for a tower; None where none can.

    tokenizer: of `with_image_token`. The letterbox of LLaVA is that of transformers; the one of Prismatic, and a fill
    other than the tower's mean, are not. A crop whose rest is odd may begin one pixel earlier there.
    """
    from transformers import LlavaProcessor

    pictures_by: Any
    try:
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

        pictures_by = LlavaImageProcessorPil
    except (
        ImportError
    ):  # the first releases of transformers 5 have one class, which works on Pillow's pictures
        from transformers import LlavaImageProcessor

        pictures_by = LlavaImageProcessor

    size, resize = tower.image_size, image.get("resize")
    square = {"height": size, "width": size}
    mean = image.get("fill", "mean") in ("mean", fill_colour(tower.mean), list(fill_colour(tower.mean)))
    known: dict[Any, dict[str, Any]] = {
        "resize_naive": {"size": square, "do_center_crop": False, "do_pad": False},
        "resize_crop": {
            "size": {"shortest_edge": size},
            "crop_size": square,
            "do_center_crop": True,
            "do_pad": False,
        },
    }
    if mean:
        known["letterbox"] = {"size": square, "do_center_crop": False, "do_pad": True}
    if resize not in known:
        return None
    pictures = pictures_by(image_mean=list(tower.mean), image_std=list(tower.std), **known[resize])
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=int(tower.patches.kernel_size[0]),
        vision_feature_select_strategy=select_strategy(tower),
        num_additional_image_tokens=1 if family_of(tower) is CLIP else 0,
        image_token=IMAGE_TOKEN,
    )
