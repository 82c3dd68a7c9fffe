"""Which picture of which data set a published path means, so that one picture has one name wherever it lies.

Visual Genome took half of its pictures from COCO and numbered them anew, so that those have two names here; their
pixels are the same, and perceptual hashes find them (`data.overlap`).
"""

from __future__ import annotations

import re

_COCO = re.compile(r"(?:^|/)coco/|COCO_(?:train|val|test)20\d\d_|(?:^|/)(?:train|val|test)20(?:14|15|17)/")
_COCO_NAME = re.compile(r"(?:^|/)0{6}\d{6}\.jpg$")
_VISUAL_GENOME = re.compile(
    r"(?:^|/)(?:vg/)?VG_100K(?:_2)?/|(?:^|/)gqa/(?:images/)?\d+\.|(?:^|/)(?:lrv-)?vg/"
)
_OPEN_IMAGES = re.compile(r"(?:^|/)([0-9a-f]{16})\.jpg$")
_FAMILIES = ("coco/", "vg/", "open_images/")
_NUMBER = re.compile(r"(\d+)\.[A-Za-z]+$")


def known_id(path: str) -> str | None:
    """The id of a picture of COCO, Visual Genome or Open Images; None where the path does not say which it is.

    Only these ids mean the same picture in the files of two publishers.

    >>> known_id("train2017/000000000042.jpg"), known_id("textvqa/train_images/0054c91397f2fe05.jpg")
    ('coco/42', 'open_images/0054c91397f2fe05')
    >>> known_id("images/42.jpg") is None
    True
    """
    number = _NUMBER.search(path)
    if number is not None:
        if _COCO.search(path) or _COCO_NAME.search(path):
            return f"coco/{int(number[1])}"
        if _VISUAL_GENOME.search(path):
            return f"vg/{int(number[1])}"
    named = _OPEN_IMAGES.search(path)
    return f"open_images/{named[1]}" if named else None


def picture_id(path: str) -> str:
    """``coco/42`` for every path of the COCO picture 42, in whichever year's folder; ``vg/2334`` for Visual Genome,
    whose pictures GQA shares under the same numbers; ``open_images/…`` for those of TextVQA. Any other path stands for
    itself, without its suffix.

    >>> picture_id("coco/train2017/000000000042.jpg"), picture_id("val2014/COCO_val2014_000000000042.jpg")
    ('coco/42', 'coco/42')
    >>> picture_id("vg/VG_100K_2/2334.jpg"), picture_id("gqa/images/2334.jpg"), picture_id("gqa/images/n7.jpg")
    ('vg/2334', 'vg/2334', 'gqa/images/n7')
    """
    return known_id(path) or (path.rsplit(".", 1)[0] if "." in path.rsplit("/", 1)[-1] else path)


def shared_id(name: str) -> str | None:
    """An id that `picture_id` gave, where it is one of `known_id`; None for a path that stands for itself.

    >>> shared_id("vg/2334"), shared_id("gqa/images/n7") is None
    ('vg/2334', True)
    """
    return name if name.startswith(_FAMILIES) else None
