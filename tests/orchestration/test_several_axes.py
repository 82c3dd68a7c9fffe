"""Studies of several axes: computed together, written down and reported one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestration import fakes
from vlmablate.errors import UserError
from vlmablate.files import read_json, write_json
from vlmablate.orchestration.controller import EXIT_OK, EXIT_WORK, Controller
from vlmablate.orchestration.lease import claim, latest
from vlmablate.orchestration.study import Sweep

AXES = ("image_resize", "stages")


def both(sweeps, **more) -> Sweep:
    requests = [sweeps.request(axis=axis, study=f"both-{axis}", **more) for axis in AXES]
    return Sweep("both", tuple(requests), "the command of both")


def build(study: Path, home: Path, force: bool = False) -> dict:
    """A report of every study in its own folder."""
    facts = read_json(study / "study.json")
    write_json(study / "values.json", sorted(run["run_id"] for run in facts["runs"]))
    return {"verdicts": [f"verdict of {study.name}"], "html": study / "report.html"}


def run(sweeps, sweep: Sweep) -> int:
    sweeps.said.clear()
    return Controller(sweep, sweeps.parts(build=build)).run()


def plan(sweeps, sweep: Sweep) -> int:
    sweeps.said.clear()
    return Controller(sweep, sweeps.parts()).plan()


def test_what_the_axes_share_is_planned_once_and_the_saving_told(sweeps, results: Path):
    assert plan(sweeps, both(sweeps)) == EXIT_WORK
    assert "study both: image_resize, stages" in sweeps.text
    # Letterbox in two stages is the baseline of both.
    assert "4 runs (5 asked for), 0 done; 16 steps: 16 new, 0 done" in sweeps.text
    assert "sharing steps saves 13 of 29 steps and " in sweeps.text
    assert not results.exists()


def test_every_axis_gets_its_own_study_as_if_it_were_run_alone(sweeps, results: Path):
    assert run(sweeps, both(sweeps)) == EXIT_OK
    assert len(fakes.calls()) == 16
    assert "all 4 runs are done; writing the reports" in sweeps.text
    for axis, runs in zip(AXES, (3, 2), strict=True):
        study = read_json(results / "studies" / f"both-{axis}" / "study.json")
        assert (study["name"], study["axis"]["name"], len(study["runs"])) == (f"both-{axis}", axis, runs)
        assert (results / "studies" / f"both-{axis}" / "values.json").exists()
        assert f"verdict of both-{axis}" in sweeps.text
    alone = Sweep.of(sweeps.request(axis="stages", study="both-stages"))
    before = (results / "studies" / "both-stages" / "study.json").read_bytes()
    assert run(sweeps, alone) == EXIT_OK
    assert "all 2 runs are done, nothing to submit" in sweeps.text
    assert (results / "studies" / "both-stages" / "study.json").read_bytes() == before


def test_the_same_command_again_submits_nothing_and_a_plan_says_so(sweeps):
    run(sweeps, both(sweeps))
    assert run(sweeps, both(sweeps)) == EXIT_OK
    assert len(fakes.calls()) == 16
    assert "all 4 runs are done, nothing to submit" in sweeps.text
    assert plan(sweeps, both(sweeps)) == EXIT_OK
    assert "nothing to submit" in sweeps.text


def test_an_axis_that_is_whole_is_reported_though_another_failed(sweeps, results: Path, control: Path):
    assert run(sweeps, Sweep.of(sweeps.request(axis="stages", study="both-stages"))) == EXIT_OK
    (control / "fail-features").touch()
    assert run(sweeps, both(sweeps)) == 1
    assert "verdict of both-stages" in sweeps.text
    assert "verdict of both-image_resize" not in sweeps.text
    assert "2 of 4 runs are missing" in sweeps.text
    assert "To go on: the command of both" in sweeps.text
    (control / "fail-features").unlink()
    assert run(sweeps, both(sweeps)) == EXIT_OK
    assert "verdict of both-image_resize" in sweeps.text


def test_one_lease_for_every_study_in_sorted_order(sweeps, results: Path, monkeypatch: pytest.MonkeyPatch):
    taken = []

    def watched(directory: Path, **more):
        if directory.name == "control":
            taken.append(directory.parent.name)
        return claim(directory, **more)

    monkeypatch.setattr("vlmablate.orchestration.controller.claim", watched)
    backwards = Sweep("both", both(sweeps).requests[::-1], "the command of both")
    assert run(sweeps, backwards) == EXIT_OK
    assert taken == ["both-image_resize", "both-stages"]
    for axis in AXES:
        attempt = latest(results / "studies" / f"both-{axis}" / "control")
        assert attempt is not None
        assert attempt.state == "ended"


def test_a_name_that_is_taken_is_refused_before_anything_is_computed(sweeps):
    run(sweeps, Sweep.of(sweeps.request(axis="epochs", study="both-stages")))
    before = len(fakes.calls())
    with pytest.raises(UserError, match="both-stages exists with axis=epochs"):
        run(sweeps, both(sweeps))
    assert len(fakes.calls()) == before
