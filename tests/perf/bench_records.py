"""`make bench`: a million records in one JSON file: how long an index takes, how soon the first batch is there, and how
much memory either needs. No assertion depends on time.

Each part runs in a process of its own, which tells its peak memory. The peer is ``json.load`` of the same file, as the
reference pipelines read their data; times are processor seconds, and the wall clock for the first batch, in which the
start of the interpreter counts. It takes 2 GB of disk and, for the peer, 6 GB of memory.

    python tests/perf/bench_records.py [RECORDS]
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

RECORDS, BATCH = 1_000_000, 128
FILE = "llava_v1_5_mix665k.json"
WORDS = [f"w{number}"[: 2 + number % 6] + "ord" for number in range(300)]
TARGETS = {"index": "<= 60 s", "first batch": "<= 2 s", "memory": "<= 1000 MB"}


def write_records(path: Path, count: int) -> None:
    """Records like those of LLaVA v1.5, about as long: most with a picture, one in sixteen of text alone."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.choice((4, 8, 15, 40, 120)))) for _ in range(2000)]
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            rounds = rng.choice((1, 1, 2, 4, 6))
            said = rng.choices(texts, k=2 * rounds)
            turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]
            record = {"id": f"{number:012d}", "conversations": turns}
            if number % 16:
                turns[0]["value"] = "<image>\n" + turns[0]["value"]
                record["image"] = f"coco/train2017/{number % 118287:012d}.jpg"
            file.write(("[" if number == 0 else ", ") + json.dumps(record))
        file.write("]")


def index(folder: Path) -> None:
    """Digest and index of the file, with the schema of every record checked."""
    from vlmablate.data.records.source import Source

    Source("llava_v15_mix665k", folder)


def first_batch(folder: Path) -> None:
    """Open what is indexed, mix it, and read the records of a step in the middle of the epoch."""
    import numpy as np

    from vlmablate.data.records.mix import Mix
    from vlmablate.data.records.source import Source
    from vlmablate.training.balance import DataOrder

    with Mix([Source("llava_v15_mix665k", folder)], {"llava_v15_mix665k": {"epochs": 1}}, seed=0) as mix:
        slots = DataOrder(mix.count, BATCH, 1, seed=0).at(mix.count // BATCH // 2)
        batch = [mix.record(*row) for row in mix.locate(slots, np.zeros(len(slots), np.int64))]
        assert len(batch) == BATCH
        print(f"files open, first batch read: {len(batch)} records", file=sys.stderr)


def load(folder: Path) -> None:
    """The peer."""
    with open(folder / FILE, encoding="utf-8") as file:
        assert json.load(file)


PARTS = {part.__name__: part for part in (index, first_batch, load)}


def measured(part: str, folder: Path) -> dict[str, float]:
    """Processor seconds, wall seconds and peak megabytes of a part, in a process of its own."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--part", part, str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True,
        env={**os.environ, "VLMABLATE_CACHE": str(folder / "cache")},
    )  # fmt: skip
    return {**json.loads(done.stdout), "wall_s": time.perf_counter() - begun}


def main() -> None:
    """Make the file, run the parts, print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RECORDS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_records(folder / FILE, count)
        size = (folder / FILE).stat().st_size / 1e6
        print(f"{count:,} records, {size:,.0f} MB in one line of JSON; one core")
        found = {part: measured(part, folder) for part in PARTS}
        once, first = found["index"], found["first_batch"]
        rate = f"{count / once['cpu_s']:,.0f} records/s"
        print(f"{'index, once':<26} {once['cpu_s']:7.1f} s   {rate}   ({TARGETS['index']})")
        print(f"{'  json.load / index':<26} {found['load']['cpu_s'] / once['cpu_s']:7.2f} x")
        print(f"{'first batch, whole process':<26} {first['wall_s']:7.2f} s   ({TARGETS['first batch']})")
        print(f"{'  its processor time':<26} {first['cpu_s']:7.2f} s")
        for part in PARTS:
            print(f"{'peak memory, ' + part:<26} {found[part]['peak_mb']:7.0f} MB  ({TARGETS['memory']})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        PARTS[sys.argv[2]](Path(sys.argv[3]))
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}))
    else:
        main()
