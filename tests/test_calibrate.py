"""The calibrate command from its words to its files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import vlmablate.paths
from vlmablate import calibrate as command
from vlmablate.errors import UserError
from vlmablate.stats.settings import Settings

CHECKOUT = Path(vlmablate.paths.__file__).parents[1]
ARMS = ("base", "other")


def table() -> pd.DataFrame:
    """Two arms of two seeds on two benchmarks; every run has its own luck with 20 pictures of two questions."""
    rng = np.random.default_rng(0)
    parts = []
    for arm in ARMS:
        for seed in range(2):
            for benchmark in ("counting", "reading"):
                luck = 0.1 * rng.standard_normal()
                shared = np.repeat(rng.random(20), 2)
                right = (0.5 * shared + 0.5 * rng.random(40) < 0.6 + luck).astype(np.float64)
                parts.append(
                    pd.DataFrame(
                        {
                            "arm": arm,
                            "context": "default",
                            "seed": seed,
                            "run_id": f"{arm}-{seed}",
                            "benchmark": benchmark,
                            "split": "test",
                            "example_id": [f"q{i}" for i in range(40)],
                            "cluster_id": [f"picture {i // 2}" for i in range(40)],
                            "metric": "exact",
                            "score": right,
                        }
                    )
                )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with a report, as far as a calibration reads it."""
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path))
    folder = tmp_path / "studies" / "mine"
    folder.mkdir(parents=True)
    table().to_parquet(folder / "results.parquet")
    facts = {name: {"metric": "exact", "majority": None, "chance": None} for name in ("counting", "reading")}
    (folder / "benchmarks.json").write_text(json.dumps({"benchmarks": facts, "missing_runs": []}))
    runs = [
        {"arm": arm, "context": "default", "seed": seed, "run_id": f"{arm}-{seed}", "steps": {}}
        for arm in ARMS
        for seed in range(2)
    ]
    axis = {"name": "axis", "baseline": "base", "arms": {arm: {} for arm in ARMS}}
    declared = {"name": "mine", "axis": axis, "baseline": "base", "contexts": ["default"], "runs": runs}
    (folder / "study.json").write_text(json.dumps({**declared, "steps": {}, "analysis": {"margin": 3.0}}))
    return folder


def test_the_command_prints_and_writes_the_same_bytes_twice(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["results=mine", "repetitions=100"]
    assert command.run(words) == 0
    printed = capsys.readouterr().out
    assert "design test, equal arms" in printed
    assert "at most 300 per benchmark" in printed
    assert "Can verdicts about data of this shape be trusted?" in printed
    contents = [(study / f"calibration.{kind}").read_bytes() for kind in ("csv", "json")]
    facts = json.loads(contents[1])
    assert facts["margin"] == 3.0  # the study's declaration
    assert len(facts["checks"]) == len(pd.read_csv(study / "calibration.csv"))
    assert facts["conclusion"][0] in printed.replace("\n", " ")
    assert command.run(words) == 0
    assert [(study / f"calibration.{kind}").read_bytes() for kind in ("csv", "json")] == contents


def test_a_file_is_calibrated_like_a_study_and_written_only_where_asked(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scores.csv"
    table().assign(score=lambda t: 100 * t["score"]).rename(columns={"arm": "model"}).to_csv(
        file, index=False
    )
    words = [
        f"results={file}",
        "baseline=base",
        "columns.arm=model",
        "score_range=0,100",
        "repetitions=100",
        "margin=3",
    ]
    assert command.run(words) == 0
    assert "written" not in capsys.readouterr().out
    assert command.run([*words, f"out={tmp_path / 'here'}"]) == 0
    assert command.run(["results=mine", "repetitions=100"]) == 0
    assert (tmp_path / "here" / "calibration.csv").read_bytes() == (study / "calibration.csv").read_bytes()


def test_arguments_and_declarations() -> None:
    found = command.parse(
        [
            *(
                "results=a.csv",
                "score_range=0,100",
                "majority.POPE=50",
                "metric.VQA=acc",
                "columns.arm=model",
            ),
            *("alpha=.1", "paired_seeds=true", "alternative=greater"),
        ]
    )
    assert (found.score_range, found.majority) == ((0.0, 100.0), {"POPE": 0.5})
    assert (found.metrics, found.columns) == ({"VQA": "acc"}, {"arm": "model"})
    assert (found.repetitions, found.seed, found.baseline, found.out) == (2000, 0, None, None)
    settings = found.settings(Settings(margin=1.0, correction="by"))
    assert settings == Settings(0.1, margin=1.0, correction="by", paired_seeds=True, alternative="greater")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["repetitions=200"], "which scores"),
        (["results"], "every argument is KEY=VALUE"),
        (["results="], "results= needs a value"),
        (["results=a.csv", "results=b.csv"], "given twice"),
        (["results=a.csv", "columns.arm=x", "columns.arm=y"], r"columns\.arm is given twice"),
        (["results=nowhere.csv"], "there is no file"),
        (["results=mien"], "did you mean 'mine'"),
        (["results=mine", "repetitons=3"], "did you mean 'repetitions'"),
        (["results=mine", "power=0.9"], "unknown argument 'power'"),
        (["results=mine", "repetitions=few"], "whole number of at least 100, got 'few'"),
        (["results=mine", "repetitions=20"], "at least 100"),
        (["results=mine", "seed=-1"], "at least 0"),
        (["results=mine", "margin=0"], "nothing could ever be equivalent"),
        (["results=mine", "margin=much"], "margin must be a "),
        (["results=mine", "alpha=.7"], r"^alpha must lie in \(0, 0\.5\)"),
        (["results=mine", "paired_seeds=perhaps"], "true or false"),
        (["results=mine", "score_range=100"], "LOW,HIGH"),
        (["results=mine", "score_range=1,0"], "from a lower to a higher"),
        (["results=mine", "majority.POPE=50"], "outside the range of the scores, 0 to 1"),
        (["results=mine", "columns.arm=model"], "is for files"),
        (["results=mine", "baseline=bass"], "did you mean 'base'"),
    ],
)
def test_mistakes_are_one_message(study: Path, words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s){message}"):
        command.run(words)


def test_a_study_without_a_report_and_a_folder_that_is_a_file_are_messages(study: Path) -> None:
    (study / "out").write_text("taken")
    with pytest.raises(UserError, match="name another folder with out=FOLDER"):
        command.run(["results=mine", "repetitions=100", f"out={study / 'out'}"])
    (study / "benchmarks.json").unlink()
    with pytest.raises(UserError, match="vlmablate report mine"):
        command.run(["results=mine"])


def test_help_teaches_and_loads_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"]):
        assert command.run(words) == 0
        printed = capsys.readouterr().out
        assert "usage: python -m vlmablate.calibrate" in printed
        assert max(map(len, printed.splitlines())) <= 120
    program = "from vlmablate.calibrate import run; run(['--help']); import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not {"numpy", "pandas", "scipy", "pyarrow", "rich", "torch"} & loaded


def test_the_calibration_loads_no_torch() -> None:
    program = "import vlmablate.stats.calibration, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    assert done.stdout.split() == ["False"]


def test_the_module_is_the_verb_of_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vlmablate.calibrate", "results=nowhere.csv"],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no file ")
