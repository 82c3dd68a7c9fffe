"""Every axis of conf/axis at `scale=tiny`: all arms, pretrained encoders, photographs, one seed (`make test-long`).

One command computes the union of all axes, on fewer scenes and after a shorter pretraining than the scale asks for:
enough to see that every arm runs and changes answers, not enough to say which is better.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vlmablate.design.catalogue import load_axis
from vlmablate.design.declarations import load_declaration
from vlmablate.design.supplied import tower_name
from vlmablate.files import read_json

pytestmark = pytest.mark.long

CUTS = (
    "data.train_scenes=96", "data.evaluation_scenes=64", "llm.pretrain.scenes=320", "llm.pretrain.steps=40",
    "sizes.posttrain_scenes=160", "sizes.posttrain_steps=20",
)  # fmt: skip
COMMAND = (sys.executable, "-m", "vlmablate.sweep", "study=prismatic", "seeds=1", *CUTS)
DEADLINE_S = 3600
NOTHING_TO_DO = 0


def sweep(home: Path, *more: str) -> tuple[int, str]:
    environment = {**os.environ, "VLMABLATE_HOME": str(home)}
    done = subprocess.run(
        [*COMMAND, *more],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE_S,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of all axes. Pretrained parts and pictures come from the cache, or are fetched."""
    folder = tmp_path_factory.mktemp("axes")
    code, output = sweep(folder)
    assert code == 0, output[-4000:]
    return folder


def study(home: Path, axis: str) -> Path:
    (folder,) = home.glob(f"studies/*-{axis}")
    return folder


def answers(table: pd.DataFrame, axis: str) -> dict[tuple[str, str], pd.Series]:
    """context and arm -> the predictions of its only seed, by example."""
    assert set(table["axis"]) == {axis}
    groups = table.set_index("example_id").sort_index().groupby(["context", "arm"])
    found: dict[tuple[str, str], Any] = {key: group["prediction"] for key, group in groups}
    return found


@pytest.mark.parametrize("name", load_declaration("prismatic").axes)
def test_every_arm_is_trained_scored_and_reported(home: Path, name: str) -> None:
    axis = load_axis(name, "tiny")
    table = pd.read_parquet(study(home, name) / "results.parquet")
    predicted = answers(table, name)
    assert set(predicted) == {(context.name, arm.name) for context in axis.contexts for arm in axis.arms}
    assert table["score"].between(0.0, 1.0).all()
    page = html.unescape((study(home, name) / "report.html").read_text(encoding="utf-8"))
    for told in (axis.question, *axis.limits, *(arm.label for arm in axis.arms)):
        assert told in page
    assert (study(home, name) / "report.ipynb").is_file()
    decided = pd.read_csv(study(home, name) / "significance.csv")
    claims = decided[decided["level"] == "design"]
    assert not set(claims["verdict"]) & {"better", "worse", "equivalent"}, "one seed decides nothing"


@pytest.mark.parametrize("name", load_declaration("prismatic").axes)
def test_every_arm_answers_otherwise_than_the_baseline_to_the_same_questions(home: Path, name: str) -> None:
    axis = load_axis(name, "tiny")
    predicted = answers(pd.read_parquet(study(home, name) / "results.parquet"), name)
    for (context, arm), own in predicted.items():
        baseline = predicted[context, axis.baseline]
        assert list(own.index) == list(baseline.index)
        assert arm == axis.baseline or (own != baseline).any(), f"{context}: {arm} changes no answer"


def test_encoders_and_pictures_are_the_real_ones(home: Path) -> None:
    specs = [read_json(path) for path in home.glob("steps/features/*/spec.json")]
    weights: dict[str, set[str]] = {}
    for config in (spec["config"] for spec in specs):
        weights.setdefault(tower_name(config["tower"]), set()).add(config["weights"])
    assert weights.pop("raw_patches") == {"random"}, "which have none"
    assert set(weights) == {"efficientnet_lite0", "dinov2_small"}
    assert all(len(digest) == 64 for digests in weights.values() for digest in digests), "of fetched weights"
    (scenes,) = home.glob("steps/scenes/*/spec.json")
    assert read_json(scenes)["config"]["data"]["pictures"] == "tuxpaint_stamps"


def test_what_axes_share_was_computed_once_and_nothing_is_left(home: Path) -> None:
    attempts = {path.parent.name: len(list(path.glob("*.json"))) for path in home.glob("steps/*/*/attempts")}
    assert set(attempts.values()) == {1}
    code, output = sweep(home, "mode=plan")
    assert code == NOTHING_TO_DO, output[-4000:]
