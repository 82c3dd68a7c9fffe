"""`vlmablate cost`: what it prints, and what it says to words it cannot use."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmablate.cli import main
from vlmablate.errors import EXIT_USER_ERROR


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path))


def row(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()


def test_models_are_priced_and_longer_training_costs_in_proportion(capsys: pytest.CaptureFixture[str]):
    assert main(["cost", "paper=one-stage+7b,train-2-epochs+7b,prism-dinosiglip+13b"]) == 0
    text = capsys.readouterr().out
    once, twice = row(text, "one-stage+7b"), row(text, "train-2-epochs+7b")
    assert once[1:4] == ["7.05", "B", "576"]
    assert float(twice[4]) == pytest.approx(2 * float(once[4]), rel=0.01)
    assert row(text, "prism-dinosiglip+13b")[1:4] == ["13.79", "B", "729"]
    assert "GPU-hours on a100-80gb at 40%" in text


def test_a_faster_accelerator_and_a_better_use_of_it_cost_fewer_hours(capsys: pytest.CaptureFixture[str]):
    hours = []
    for words in (["mfu=0.2"], ["mfu=0.4"], ["gpu=h100"]):
        assert main(["cost", "paper=one-stage+7b", *words]) == 0
        hours.append(float(row(capsys.readouterr().out, "one-stage+7b")[5]))
    assert hours[0] == pytest.approx(2 * hours[1], rel=0.03)
    assert hours[2] < 0.4 * hours[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "study=prismatic, or paper="),
        (["paper=one-stage+7b", "study=prismatic"], "study=prismatic, or paper="),
        (["paper=one-stage+7"], "one-stage+7b"),
        (["paper=one-stage+7b", "gpu=a1000"], "a100-80gb"),
        (["paper=one-stage+7b", "mfu=40"], "at most 1"),
        (["study=quickstart"], "names no presets"),
        (["paper=one-stage+7b", "projector=pixel_shuffle"], "projector with a price"),
        (["paper=one-stage+7b", "data=embedded"], "has no published size"),
    ],
)
def test_mistakes_are_told_with_what_would_be_right(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["cost", *words]) == EXIT_USER_ERROR
    assert said in capsys.readouterr().err


def test_without_their_data_models_of_the_papers_size_can_still_be_priced(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["sweep", "axis=stages", "scale=7b", "mode=plan"]) == EXIT_USER_ERROR
    told = capsys.readouterr().err
    assert "data.folders.llava_pretrain_558k=FOLDER" in told
    assert "vlmablate cost" in told
