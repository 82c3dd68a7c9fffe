"""`make bench`: pictures per second of `vlmablate data verify` and `overlap`, against a plain loop of Pillow.

The loop decodes every picture in full, one after the other, as a checking script does. Pictures are 640 x 480 JPEG
files of about 100 KB. A first run looks at every picture with a process for each core; a second one reads its notes.
Beside the speed stands that for each second of a processor, which tells more on a machine with other work.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from vlmablate.data.overlap_near import near_pairs
from vlmablate.data.picture_hash import NEAR
from vlmablate.data.picture_workers import cores
from vlmablate.data_verbs import run as data

PICTURES, SCENES = 1200, 16
EVALUATION, TRAINING = 40_504, 1_000_000
"""Pictures of VQAv2 val, and of a large mix."""


def scene(number: int) -> np.ndarray:
    """[480, 640, 3] coarse colours and a fine grain."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).resize((640, 480))
    grain = np.asarray(coarse, dtype=float) + rng.normal(0, 6, (480, 640, 1))
    return grain.clip(0, 255).astype(np.uint8)


def photograph(number: int, scenes: list[np.ndarray]) -> bytes:
    """A JPEG file; no two look alike."""
    shift = 37 * (number // len(scenes))
    moved = np.roll(scenes[number % len(scenes)], (shift, 5 * shift), axis=(0, 1))
    buffer = io.BytesIO()
    Image.fromarray(moved).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def make(root: Path) -> tuple[Path, Path]:
    """A source of training data, and POPE, about as many pictures."""
    scenes = [scene(number) for number in range(SCENES)]
    source, pope = root / "lvis", root / "pope"
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    records, questions = [], []
    for number in range(PICTURES):
        trained, asked = (
            f"coco/train2017/{number:012d}.jpg",
            f"COCO_val2014_{number + PICTURES // 2:012d}.jpg",
        )
        for place in (source / trained, pope / "val2014" / asked):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(photograph(int(place.stem[-12:]), scenes))
        records.append({"id": number, "image": trained, "conversations": said})
        questions.append(
            {"question_id": number, "image": asked, "text": "Is there a dog in the image?", "label": "no"}
        )
    (source / "lvis_instruct4v_220k.json").write_text(json.dumps(records))
    for split in ("random", "popular", "adversarial"):
        lines = "".join(json.dumps(question) + "\n" for question in questions)
        (pope / f"coco_pope_{split}.json").write_text(lines)
    return source, pope


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(wall time, processor time of this process and its children)."""
    wall, cpu = time.perf_counter(), processor()
    work()
    return time.perf_counter() - wall, processor() - cpu


def processor() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def plain(folder: Path) -> None:
    for path in folder.rglob("*.jpg"):
        with Image.open(path) as picture:
            picture.load()


def quietly(arguments: list[str]) -> tuple[float, float]:
    """Seconds of a verb, as `seconds` gives them."""
    with contextlib.redirect_stdout(io.StringIO()):
        return seconds(lambda: data(arguments))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["VLMABLATE_CACHE"] = str(root / "cache")
        source, pope = make(root)
        loop, loop_cpu = (PICTURES / took for took in seconds(lambda: plain(source)))
        print(
            f"a plain loop {loop:38,.0f} pictures/s {loop_cpu:18,.0f} for each second of a core", flush=True
        )

        def told(what: str, pictures: int, took: tuple[float, float]) -> None:
            speed, by_core = pictures / took[0], pictures / took[1]
            print(
                f"{what:<42} {speed:8,.0f} pictures/s {speed / loop:6.2f} x  {by_core:8,.0f} for each second of a core "
                f"{by_core / loop_cpu:6.2f} x",
                flush=True,
            )

        verify = ["verify", f"lvis_instruct_4v={source}"]
        told(f"data verify, {cores()} processes", PICTURES, quietly(verify))
        told("data verify again, from its notes", PICTURES, quietly(verify))
        overlap = ["overlap", f"lvis_instruct_4v={source}", f"pope={pope}"]
        told(f"data overlap, {cores()} processes, half noted", PICTURES, quietly(overlap))
        told("data overlap again, from its notes", 2 * PICTURES, quietly(overlap))
        manifest = str(root / "manifest")
        told("data verify --write-manifest, from its notes", PICTURES,
             quietly([*verify, "--write-manifest", manifest]))  # fmt: skip
    rng = np.random.default_rng(0)
    training = rng.integers(0, 2**63, TRAINING, dtype=np.uint64)
    evaluation = training[:EVALUATION] ^ np.uint64(5)
    wall, cpu = seconds(lambda: near_pairs(evaluation, training, NEAR))
    print(f"near hashes, {EVALUATION:,} x {TRAINING:,} {wall:20.1f} s {cpu:20.1f} s of a core")


if __name__ == "__main__":
    main()
