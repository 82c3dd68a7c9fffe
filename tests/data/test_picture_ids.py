"""One picture, one name: paths as publishers write them."""

from __future__ import annotations

import doctest

import pytest

from vlmablate.data import picture_ids
from vlmablate.data.picture_ids import known_id, picture_id, shared_id


def test_the_examples_of_the_docstrings_hold() -> None:
    result = doctest.testmod(picture_ids)
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(
    "path",
    [
        "coco/train2017/000000000042.jpg",  # LLaVA, LVIS-Instruct-4V
        "coco/val2017/000000000042.jpg",
        "val2014/COCO_val2014_000000000042.jpg",  # VQAv2, POPE
        "train2014/COCO_train2014_000000000042.jpg",  # RefCOCO
        "COCO_val2014_000000000042.jpg",
        "images/000000000042.jpg",  # VSR
    ],
)
def test_a_coco_picture_is_the_same_in_every_year(path: str) -> None:
    assert picture_id(path) == known_id(path) == "coco/42"


@pytest.mark.parametrize(
    "path",
    [
        "vg/VG_100K/2334.jpg",
        "vg/VG_100K_2/2334.jpg",
        "VG_100K/2334.jpg",
        "gqa/images/2334.jpg",
        "lrv-vg/2334.jpg",
    ],
)
def test_a_picture_of_visual_genome_is_the_same_wherever_it_lies(path: str) -> None:
    assert picture_id(path) == "vg/2334"


def test_open_images_keep_their_name() -> None:
    paths = ("textvqa/train_images/0054c91397f2fe05.jpg", "train_images/0054c91397f2fe05.jpg")
    assert {picture_id(path) for path in paths} == {"open_images/0054c91397f2fe05"}


@pytest.mark.parametrize(
    "path",
    [
        "images/42.jpg",
        "ai2d/images/0.png",
        "ocr_vqa/images/0001.jpg",
        "00453/004539375.jpg",
        "gqa/images/n7.jpg",
    ],
)
def test_a_path_that_tells_nothing_is_no_id_that_two_publishers_share(path: str) -> None:
    assert known_id(path) is None
    assert picture_id(path) == path.rsplit(".", 1)[0]
    assert shared_id(picture_id(path)) is None


def test_pictures_with_other_numbers_are_other_pictures() -> None:
    numbers = [f"coco/train2017/{number:012d}.jpg" for number in range(50)]
    assert len({picture_id(path) for path in numbers}) == 50
    assert picture_id("vg/VG_100K/42.jpg") != picture_id("coco/val2017/000000000042.jpg")
