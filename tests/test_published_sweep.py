"""A whole sweep on published data: records learnt, published benchmarks asked, from the command line to a report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vlmablate.files import read_json

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.data import record_folders  # noqa: E402
from tests.evaluation import published_folders  # noqa: E402

pytestmark = pytest.mark.slow

BENCHMARKS = ("pope", "gqa", "refcoco")
SMALL = (
    "axis=image_resize", "scale=smoke", "seeds=1", "study=published", "execution.ranks=2", "llm=random_llama",
    "position=rope_1d", "projector=paper_gelu_mlp", "data=llava_v15", "stages=paper_two_stage",
    "stages.align.batch_samples=2",
    "stages.finetune.batch_samples=2", "benchmark=published", f"benchmark.names=[{','.join(BENCHMARKS)}]",
)  # fmt: skip
DEADLINE_S = 600
NOTHING_TO_DO = 0
MISTAKE = 2


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A results folder and a cache of their own."""
    home, cache = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("cache")
    return {**os.environ, "VLMABLATE_HOME": str(home), "VLMABLATE_CACHE": str(cache)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The words of the command line that say where the data lie."""
    sources = record_folders.write_all(tmp_path_factory.mktemp("records"))
    root = tmp_path_factory.mktemp("benchmarks")
    for name in BENCHMARKS:
        published_folders.write(name, root / name)
    used = ("llava_pretrain_558k", "llava_v15_mix665k")
    return (f"benchmark.folder={root}", *(f"data.folders.{name}={sources[name]}" for name in used))


def sweep(environment: dict[str, str], *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "vlmablate.sweep", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def study(environment: dict[str, str], folders: tuple[str, ...]) -> Path:
    code, output = sweep(environment, *SMALL, *folders)
    assert code == 0, output[-4000:]
    return Path(environment["VLMABLATE_HOME"]) / "studies" / "published"


def test_every_arm_learns_from_records_and_answers_published_questions(study: Path) -> None:
    table = pd.read_parquet(study / "results.parquet")
    assert set(table["benchmark"]) == set(BENCHMARKS)
    assert {"acc@0.5:square", "acc@0.5:picture", "accuracy:probability"} <= set(table["metric"])
    primary = table[table["metric"] == "accuracy:probability"]
    asked = [frozenset(group["example_id"]) for _, group in primary.groupby(["arm", "seed"])]
    assert len(asked) == 3
    assert len(set(asked)) == 1
    home = study.parents[1]
    assert not list(home.glob("steps/scenes"))
    assert not list(home.glob("steps/features"))
    for path in home.glob("steps/evaluate/*/result.json"):
        assert read_json(path)["ranks"] == 2, "which share the pictures"
    for path in home.glob("steps/finetune/*/result.json"):
        mixture = read_json(path)["payload"]["mixture"]
        assert mixture["llava_v15_mix665k"]["rows"] > 0
    page = (study / "report.html").read_text(encoding="utf-8")
    assert "acc@0.5:square" in page


def test_the_same_data_elsewhere_are_the_same_study(
    study: Path, environment: dict[str, str], folders: tuple[str, ...], tmp_path: Path
) -> None:
    moved = []
    for number, word in enumerate(folders):
        key, _, folder = word.partition("=")
        (tmp_path / str(number)).symlink_to(folder)
        moved.append(f"{key}={tmp_path / str(number)}")
    code, output = sweep(environment, *SMALL, *moved, "mode=plan")
    assert code == NOTHING_TO_DO, output


def test_a_folder_that_is_not_given_is_asked_for(
    environment: dict[str, str], folders: tuple[str, ...]
) -> None:
    code, output = sweep(environment, *SMALL, *folders[:2], "mode=plan")
    assert code == MISTAKE
    assert "data.folders.llava_v15_mix665k=FOLDER" in output
    code, output = sweep(environment, *SMALL, *folders[1:], "mode=plan")
    assert code == MISTAKE
    assert "benchmark.folder=FOLDER" in output
