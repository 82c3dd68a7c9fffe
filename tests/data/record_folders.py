"""Small folders of every source of instruction data in its published format, with drawn pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Rows = Sequence[Mapping[str, Any]]


def chat(official: Any, image: str | None, *said: str, **more: Any) -> dict[str, Any]:
    """A record in LLaVA's form; human and gpt speak in turn."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
    picture = {} if image is None else {"image": image}
    return {"id": official, **picture, "conversations": turns, **more}


def write(path: Path, rows: Rows, form: str = "array") -> Path:
    """A file of records: one `array` in one line, `indented`, or `lines`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "lines":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, indent=2 if form == "indented" else None, ensure_ascii=form == "array")
    path.write_text(text, encoding="utf-8")
    return path


def draw(folder: Path, pictures: Iterable[str]) -> None:
    """A picture at each of these paths: two colours, and a size of its own."""
    for number, name in enumerate(pictures):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (20 + number % 3, 16), (40 * number % 256, 90, 200))
        picture.paste((250, 20 * number % 256, 10), (0, 0, 9, 5 + number % 7))
        picture.save(path)


PRETRAIN = [
    chat(
        f"{number:09d}",
        f"{number % 2:05d}/{number:09d}.jpg",
        "Describe it.\n<image>",
        f"a thing of kind {number}",
    )
    for number in range(6)
]
MIXED = [
    chat("000000000042", "coco/train2017/000000000042.jpg", "<image>\nWhat is it?", "A dog", "Sure?", "Yes"),
    chat("000000000042", "coco/train2017/000000000042.jpg", "<image>\nAnother?", "No"),
    chat(7, "gqa/images/7.jpg", "How many?\n<image>", "two"),
    chat("ocr", "ocr_vqa/images/0001.jpg", "<image>\nTitle?", "Über\nalles"),
    chat("text", "textvqa/train_images/aa.jpg", "<image>\nRead.", "STOP"),
    chat("VG_100K/2", "vg/VG_100K/2.jpg", "<image>\nWhere?", "[0.1, 0.2, 0.3, 0.4]"),
    chat("VG_100K_2/3", "vg/VG_100K_2/3.jpg", "<image>\nWhere?", "left"),
    chat("sharegpt_1", None, "Write <image> in HTML", "<img>", model=""),
    {"id": "sharegpt_2", "model": "", "conversations": [
        {"from": "gpt", "value": "before"}, {"from": "human", "value": "a question "},
        {"from": "gpt", "value": " an answer"}, {"from": "human", "value": "no answer"},
    ]},
]  # fmt: skip
LVIS = [
    chat(
        number,
        f"coco/{split}2017/{number:012d}.jpg",
        "<image>\nSay what you see.",
        f"{number} things",
        "More",
        "No",
    )
    for number, split in ((5, "train"), (6, "val"), (9, "val"))
]
LRV = {
    "filter_cap1.json": [
        {
            "image_id": "2392588",
            "question": "Is there a teapot?",
            "answer": "No teapot.",
            "task": "negative",
        },
        {
            "image_id": "2392588",
            "question": "What is there?",
            "answer": "A stove.",
            "task": "Image Captioning",
        },
    ],
    "filter_cap_more1.json": [
        {"image_id": "2392589", "question": "Is it blue? ", "answer": "It is red.", "task": "negative"},
    ],
    "chart_release_update.json": [
        {"image_id": "x_1.png", "question": "Does the chart fall?", "answer": "It rises."},
    ],
}
SHAREGPT = [
    chat("QWJhYvA_0", None, "Hello", "Hello!"),
    {"id": "QWJhYvA_1", "conversations": []},
    {"id": "QWJhYvA_2", "conversations": [
        {"from": "system", "value": "be kind"}, {"from": "user", "value": "1+1"}, {"from": "chatgpt", "value": "2"},
    ]},
]  # fmt: skip


def write_all(root: Path, form: str = "array") -> dict[str, Path]:
    """Source -> its folder, with its annotation files and pictures."""
    folders = {
        name: root / name for name in ("llava_pretrain_558k", "llava_v15_mix665k", "lrv_instruct", "sharegpt")
    }
    folders["lvis_instruct_4v"] = folders["llava_v15_mix665k"]  # as LLaVA's users lay them out
    write(folders["llava_pretrain_558k"] / "blip_laion_cc_sbu_558k.json", PRETRAIN, form)
    draw(folders["llava_pretrain_558k"] / "images", (row["image"] for row in PRETRAIN))
    write(folders["llava_v15_mix665k"] / "llava_v1_5_mix665k.json", MIXED, form)
    write(folders["llava_v15_mix665k"] / "lvis_instruct4v_220k.json", LVIS, form)
    draw(folders["llava_v15_mix665k"], (row["image"] for row in [*MIXED, *LVIS] if "image" in row))
    for name, rows in LRV.items():
        write(folders["lrv_instruct"] / name, rows, form)
    draw(folders["lrv_instruct"], ["lrv-vg/2392588.jpg", "lrv-vg/2392589.jpg", "lrv-chart/x_1.png"])
    write(folders["sharegpt"] / "ShareGPT_V3_unfiltered_cleaned_split.json", SHAREGPT, form)
    return folders
