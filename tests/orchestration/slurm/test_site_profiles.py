"""The examples that users copy: every one is accepted as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vlmablate.orchestration.slurm.settings import read_profile

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "slurm" / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted_and_says_only_what_the_launcher_knows(path: Path) -> None:
    launcher = yaml.safe_load((ROOT / "conf" / "launcher" / "slurm.yaml").read_text())["execution"]
    example = yaml.safe_load(path.read_text())["execution"]

    profile = read_profile({**launcher, **example, "slurm": {**launcher["slurm"], **example["slurm"]}})

    assert set(example) <= set(launcher)
    assert set(example["slurm"]) <= set(launcher["slurm"])
    assert profile.partition == example["slurm"]["partition"]
    if example["device"] == "cuda":
        assert profile.ranks == profile.gpus_per_node


def test_there_are_examples() -> None:
    assert {"university", "preemptible", "cpu", "mini"} <= {path.stem for path in EXAMPLES}
