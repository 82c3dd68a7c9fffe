"""why, tail, gc and reproduce, on studies that really ran (with fake steps)."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.orchestration.conftest import until
from vlmablate import cli
from vlmablate.errors import UserError
from vlmablate.files import read_json, write_json
from vlmablate.orchestration import marks, provenance, today
from vlmablate.orchestration.gc import CATEGORIES, DAY_S, Item, find, remove, table
from vlmablate.orchestration.lease import claim
from vlmablate.orchestration.processes import Owner
from vlmablate.orchestration.reproduce import compare, reproduce
from vlmablate.orchestration.slurm import journal
from vlmablate.orchestration.tail import tail
from vlmablate.orchestration.why import why

RUN = "study/two_stage/s0"


def declared(results: Path, study: str = "study") -> dict:
    return read_json(results / "studies" / study / "study.json")


def place(results: Path, role: str, arm: str = "two_stage") -> Path:
    study = declared(results)
    run = next(run for run in study["runs"] if run["arm"] == arm)
    return results / study["steps"][run["steps"][role]]["dir"]


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides that the configuration of today has beside those of the study; composition itself is real."""
    more: list[str] = []
    real = today.runs_today

    def runs(study: dict, parts: object) -> object:
        return real({**study, "overrides": [*study["overrides"], *more]}, parts)  # type: ignore[arg-type]

    monkeypatch.setattr(today, "runs_today", runs)
    return more


# why


def test_why_of_a_finished_run(sweeps, results: Path, composed: list[str]):
    sweeps.run()
    text = "\n".join(why(results, RUN, sweeps.parts()))
    assert "asked for by: the same command" in text
    assert "today's configuration gives the same run" in text
    assert text.count("  done 20") == 6
    assert "2 runs use it" in text
    assert "other code" not in text
    assert "other libraries" not in text
    assert "to go on" not in text


def test_why_names_what_changed_in_the_configuration(sweeps, results: Path, composed: list[str]):
    sweeps.run()
    composed.append("image=resize_crop")
    text = "\n".join(why(results, RUN, sweeps.parts()))
    assert "today's configuration gives another run" in text
    assert "    features0: image.resize: letterbox → resize_crop" in text
    assert "finetune: " not in text.partition("scenes embedded")[0]


def test_why_of_a_configuration_that_cannot_be_composed_any_more(sweeps, results: Path, composed: list[str]):
    sweeps.run()
    composed.append("image=gone")
    text = "\n".join(why(results, RUN, sweeps.parts()))
    assert "it cannot be composed any more: unknown option of image 'gone'" in text
    assert text.count("  done 20") == 6


def test_why_tells_other_code_and_other_libraries(sweeps, results: Path, composed: list[str]):
    sweeps.run()
    path = place(results, "finetune") / "result.json"
    result = read_json(path)
    result["versions"]["numpy"] = "0.1"
    write_json(path, {**result, "code": "0123456789abcdef"})
    text = "\n".join(why(results, place(results, "finetune").name, sweeps.parts()))
    assert f"made by other code: 0123456789abcdef then, {provenance.science_digest()} now" in text
    assert f"numpy: 0.1 → {provenance.versions()['numpy']}" in text


def test_why_of_a_failure_and_of_what_waits_for_it(sweeps, results: Path, control: Path, composed: list[str]):
    (control / "fail-align").touch()
    sweeps.run(launcher="local")
    text = "\n".join(why(results, RUN, sweeps.parts()))
    assert "failed (code), attempt 1, 20" in text
    assert "RuntimeError: the align step was told to fail" in text
    assert f"log: {place(results, 'align') / 'log.txt'}" in text
    assert "waits for init, align smoke_conv-letterbox-s0: failed" in text
    assert "no other align step is stored" in text
    assert "to go on: the same command" in text


def test_why_finds_the_nearest_stored_step_and_the_fields_between(
    sweeps, results: Path, control: Path, composed: list[str]
):
    sweeps.run(study="first")
    (control / "fail-finetune").touch()
    sweeps.run(study="study", overrides=("execution.workers=2", "image=resize_crop", "sizes.epochs=7.0"))
    text = "\n".join(why(results, "study/single/s0", sweeps.parts()))
    assert "the nearest stored finetune step, smoke_conv-letterbox-s0-" in text
    assert "differs in 2 fields:" in text
    assert "    stages.finetune.epochs: " in text
    assert "→ 7.0" in text
    crop = place(results, "features0", "single").name
    assert f"→ {crop}, because image.resize: letterbox → resize_crop" in text
    assert "what it consists of is not known" not in text  # the evaluation was never started; it is composed


def test_why_of_cancelled_damaged_and_missing_steps(sweeps, results: Path, composed: list[str]):
    sweeps.run()
    (place(results, "pretrain") / "value.json").write_text("too short")
    shutil.rmtree(place(results, "evaluate"))
    marks.cancel(place(results, "evaluate"), "no time")
    shutil.rmtree(place(results, "finetune"))
    (place(results, "align").parent / ".quarantine" / f"{place(results, 'align').name}-1234").mkdir(
        parents=True
    )
    text = "\n".join(why(results, RUN, sweeps.parts()))
    assert "damaged: value.json has 9 bytes" in text
    assert "cancelled by" in text
    assert "(no time)" in text
    assert "not computed yet: no result with its id" in text
    assert f"an earlier result was set aside: {place(results, 'align').parent / '.quarantine'}" in text


# tail


def test_tail_of_a_finished_run_is_the_end_of_its_last_log(sweeps, results: Path):
    sweeps.run(launcher="local")
    (place(results, "evaluate") / "log.txt").write_bytes(
        b"".join(b"line %d \xc3\xa9\n" % n for n in range(5000))
    )
    said: list[str] = []
    tail(results, RUN, lines=3, follow=True, rank=0, write=said.append, pause=lambda s: None)
    lines = "".join(said).splitlines()
    assert lines[0].startswith("==> evaluate smoke_conv-letterbox-s0: ")
    assert lines[1:] == [
        *(f"line {n} é" for n in (4997, 4998, 4999)),
        "==> evaluate smoke_conv-letterbox-s0: done",
    ]
    said.clear()
    tail(results, RUN, lines=10_000, follow=False, rank=0, write=said.append)
    assert len("".join(said).splitlines()) == 5001


def test_following_goes_from_step_to_step_until_nobody_works_on_the_run(sweeps, results: Path, control: Path):
    sweeps.run(launcher="local")
    shutil.rmtree(place(results, "evaluate"))
    shutil.rmtree(place(results, "finetune"))
    first = claim(place(results, "finetune") / "attempts", heartbeat_s=60.0)
    (place(results, "finetune") / "log.txt").write_text("one\n")
    second = []

    def go_on(seconds: float) -> None:
        if len(second) == 0:
            with open(place(results, "finetune") / "log.txt", "a") as log:
                log.write("two\n")
            first.finish("done")
            second.append(claim(place(results, "evaluate") / "attempts", heartbeat_s=60.0))
            (place(results, "evaluate") / "log.txt").write_text("three\n")
        elif len(second) == 1:
            second[0].finish("failed")
            second.append(None)

    said: list[str] = []
    tail(results, RUN, lines=40, follow=True, rank=0, write=said.append, pause=go_on)
    lines = [line for line in "".join(said).splitlines() if "/" not in line]
    assert lines == ["one", "two", "three", "==> evaluate smoke_conv-letterbox-s0: failed"]


def test_tail_of_another_rank_and_of_a_worker_that_came_to_no_step(sweeps, results: Path):
    sweeps.run(launcher="local")
    job = f"evaluate-{declared(results)['runs'][0]['run_id']}"
    folder = results / "studies" / "study" / "jobs"
    (folder / f"{job}.1.log").write_text("rank one\n")
    said: list[str] = []
    tail(results, RUN, lines=40, follow=False, rank=1, write=said.append)
    assert said[1] == "rank one\n"
    with pytest.raises(UserError, match="no log of rank 2 of study/two_stage/s0 yet"):
        tail(results, RUN, lines=40, follow=False, rank=2, write=said.append)
    for role in declared(results)["runs"][0]["steps"]:
        shutil.rmtree(place(results, role), ignore_errors=True)
    (folder / f"{job}.log").write_text("ImportError: no module\n")
    said.clear()
    tail(results, RUN, lines=40, follow=True, rank=0, write=said.append, pause=lambda s: None)
    assert said[1] == "ImportError: no module\n"


# gc


def old(path: Path, days: float = 40.0) -> Path:
    """Make a path, and all below it, look as if nobody had touched it for a while."""
    then = time.time() - days * DAY_S
    for inner in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(inner, (then, then))
    return path


def found(
    results: Path, days: float = 1.0, only: tuple[str, ...] = tuple(CATEGORIES)
) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = {}
    for item in find(results, only, days * DAY_S, lambda text: None):
        names.setdefault(item.category, []).append(item.path)
    return names


def test_gc_of_a_fresh_study_finds_nothing(sweeps, results: Path):
    sweeps.run()
    assert found(results, days=0.0) == {}


def test_gc_finds_each_kind_of_rubbish_and_deletes_only_that(sweeps, results: Path, control: Path):
    sweeps.run()
    finetune = place(results, "finetune")
    quarantined = finetune.parent / ".quarantine" / "broken-1234"
    superseded = finetune.parent / ".superseded" / "old-1234"
    orphan = results / "steps" / "features" / "conv-naive-aaaaaaaaaaaaaaaa"
    for folder in (quarantined, superseded, orphan, finetune / "checkpoint-100"):
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * 1000)
    (finetune / ".tmp-1-abc-model").write_bytes(b"x" * 500)
    closed, revoked, fresh = (results / "submissions" / name for name in ("closed", "revoked", "fresh"))
    for submission, mark in ((closed, journal.CLOSED), (revoked, journal.REVOKED), (fresh, journal.INTENT)):
        write_json(submission / mark, {"study": "study", "jobs": {}, "created": "2026", "code": "code/used"})
    code = results / "code"
    for name in ("used", "unused"):
        (code / name).mkdir(parents=True)
    expected = {
        "quarantine": [quarantined, superseded],
        "temporary": [finetune / ".tmp-1-abc-model"],
        "checkpoints": [finetune / "checkpoint-100"],
        "steps": [orphan],
        "submissions": [closed, revoked],
        "code": [code / "unused"],
    }
    assert found(results, days=1.0) == {}
    old(results)
    assert found(results) == expected
    assert found(results, days=50.0) == {}
    assert found(results, only=("code",)) == {"code": [code / "unused"]}
    items = find(results, CATEGORIES, DAY_S, print)
    assert "total" in table(items, results)[-1]
    freed = remove(results, items, print)
    assert freed >= 4500
    assert not any(path.exists() for paths in expected.values() for path in paths)
    assert not list(results.rglob(".tmp-*"))
    assert (fresh.exists(), (code / "used").exists()) == (True, True)
    assert sweeps.run() == 0
    assert "nothing to submit" in sweeps.text


def test_gc_leaves_what_is_at_work_or_was_given_up_just_now(sweeps, results: Path):
    sweeps.run()
    orphan = results / "steps" / "features" / "conv-naive-aaaaaaaaaaaaaaaa"
    lease = claim(orphan / "attempts", heartbeat_s=60.0)
    (orphan / ".tmp-1-abc").touch()
    revoked = results / "submissions" / "late" / journal.REVOKED
    write_json(revoked, {})
    old(results, days=3.0)
    (results / "code" / "unused").mkdir(parents=True)
    control = claim(results / "studies" / "study" / "control", heartbeat_s=60.0)
    assert found(results, days=0.0) == {}
    control.finish("ended")
    lease.finish("stopped")
    assert found(results, days=0.0).keys() == {"temporary", "steps", "code"}


def test_gc_keeps_steps_when_a_study_cannot_be_read(sweeps, results: Path):
    sweeps.run()
    (results / "studies" / "study" / "study.json").write_text("{")
    old(results)
    said: list[str] = []
    assert find(results, CATEGORIES, 0.0, said.append) == []
    assert "steps are left alone: the declaration of study cannot be read" in said[0]


def test_gc_looks_again_before_it_deletes_a_step(sweeps, results: Path):
    sweeps.run()
    needed = Item("steps", place(results, "features0"), 1)
    busy = results / "steps" / "features" / "conv-naive-aaaaaaaaaaaaaaaa"
    lease = claim(busy / "attempts", heartbeat_s=60.0)
    said: list[str] = []
    assert remove(results, [needed, Item("steps", busy, 1)], said.append) == 0
    assert [line.partition(":")[0] for line in said] == [
        "left alone, it is needed by now",
        "left alone, somebody works on it",
    ]
    assert busy.is_dir()
    lease.abandon()


def test_gc_on_the_command_line_deletes_nothing_without_yes(sweeps, results: Path, monkeypatch, capsys):
    sweeps.run()
    monkeypatch.setenv("VLMABLATE_HOME", str(results))
    rubbish = place(results, "finetune") / "checkpoint"
    rubbish.write_bytes(b"x" * 2_500_000)
    old(results)
    capsys.readouterr()
    assert cli.main(["gc"]) == 0
    said = capsys.readouterr().out
    assert "2.5 MB" in said
    assert "nothing was deleted" in said
    assert rubbish.exists()
    assert cli.main(["gc", "steps", "--yes"]) == 0
    assert "nothing to delete" in capsys.readouterr().out
    assert cli.main(["gc", "--yes"]) == 0
    assert "freed 2.5 MB" in capsys.readouterr().out
    assert not rubbish.exists()
    assert cli.main(["gc", "chekpoints"]) == 2
    assert cli.main(["gc", "--yes", "--dry-run"]) == 2
    assert cli.main(["gc", "--older-than", "soon"]) == 2


# reproduce


def test_the_recipe_names_everything_that_led_to_the_numbers(sweeps, results: Path, composed: list[str]):
    sweeps.run(seeds=2)
    text = "\n".join(reproduce(results, "study/single/s1", sweeps.parts()))
    study = declared(results)
    run = next(run for run in study["runs"] if (run["arm"], run["seed"]) == ("single", 1))
    git = study["provenance"]["git"]
    assert f"git checkout {git['sha']}" in text
    if git["patch_sha256"]:
        assert (results / "provenance" / "patches" / f"{git['patch_sha256']}.patch").is_file()
        assert f"{git['patch_sha256']}.patch" in text
    assert f"pip install -r {results / 'provenance' / 'locks'}" in text
    assert "python -m vlmablate.sweep axis=stages 'seeds=[1]' scale=smoke" in text
    assert f"vlmablate reproduce {run['run_id']} --compare" in text
    digest = read_json(results / study["steps"][run["run_id"]]["dir"] / "result.json")["files"]["value.json"]
    assert f"value.json {digest['sha256'][:12]}" in text
    assert "checked: today's code and configuration here give the same run" in text


def test_the_recipe_says_when_the_code_here_cannot_lead_there(sweeps, results: Path, composed: list[str]):
    sweeps.run()
    composed.append("image=resize_crop")
    path = place(results, "scenes") / "result.json"
    write_json(path, {**read_json(path), "code": "0123456789abcdef"})
    text = "\n".join(reproduce(results, RUN, sweeps.parts()))
    assert "the steps of this run were made by different code:" in text
    assert "scenes: 0123456789abcdef (commit unknown)" in text
    assert "today's configuration here gives another run" in text
    assert "because image.resize: letterbox → resize_crop" in text


def test_a_reproduction_is_compared_file_by_file(sweeps, results: Path, tmp_path: Path, control: Path):
    sweeps.run()
    there = tmp_path / "reproduced"
    with pytest.raises(UserError, match="is no results folder"):
        compare(results, RUN, there)
    sweeps.run(parts={"home": there})
    lines, same = compare(results, RUN, there)
    assert same
    assert lines[-1] == "the run was reproduced, bit by bit"
    assert [line.partition(": ")[2] for line in lines[1:-1]] == ["the same"] * 6
    changed = next((there / "steps" / "finetune").glob("*"))
    for result in (there / "steps" / "finetune").glob("*/result.json"):
        record = read_json(result)
        record["files"]["value.json"]["sha256"] = "0" * 64
        write_json(result, record)
    lines, same = compare(results, RUN, there)
    assert not same
    assert "  finetune: differs in value.json" in lines
    shutil.rmtree(changed)
    shutil.rmtree(there / "steps" / "evaluate")
    lines, same = compare(results, RUN, there)
    assert any(line.startswith("  evaluate: ") and "is not done in" in line for line in lines)


def test_scores_that_differ_are_shown(sweeps, results: Path, tmp_path: Path, control: Path):
    sweeps.run()
    there = tmp_path / "reproduced"
    shutil.copytree(results, there)
    for home, mean in ((results, 0.5), (there, 0.25)):
        path = home / place(results, "evaluate").relative_to(results) / "result.json"
        write_json(path, {**read_json(path), "payload": {"benchmarks": {"counting": {"mean": mean, "n": 3}}}})
    lines, same = compare(results, RUN, there)
    assert "    counting: 0.5 then, 0.25 now" in lines
    assert not same


def test_a_shared_step_names_no_single_run(sweeps, results: Path, composed: list[str]):
    sweeps.run()
    with pytest.raises(UserError, match=r"belongs to 2 runs(.|\n)*study/single/s0"):
        reproduce(results, place(results, "pretrain").name, sweeps.parts())
    mine = reproduce(results, place(results, "align").name, sweeps.parts())
    assert mine[0].startswith(f"{RUN}  ")


# while a sweep runs


def test_the_verbs_work_beside_a_running_sweep(sweeps, results: Path, control: Path, monkeypatch, capsys):
    (control / "hold-pretrain").touch()
    controller = sweeps.start()
    path = control / "held-pretrain"
    until(lambda: path.exists() and path.read_text(), "a pretrain step at work")
    monkeypatch.setenv("VLMABLATE_HOME", str(results))
    assert cli.main(["status"]) == 0
    assert "running  pretrain" in capsys.readouterr().out
    assert cli.main(["tail", place(results, "pretrain").name, "-n", "5"]) == 0
    assert "== pretrain" in capsys.readouterr().out
    assert cli.main(["gc", "--older-than", "0", "--yes"]) == 0
    (control / "hold-pretrain").unlink()
    output, _ = controller.communicate(timeout=60)
    assert controller.returncode == 0, output


def test_an_owner_that_is_not_here_keeps_its_step_from_gc(sweeps, results: Path):
    orphan = results / "steps" / "features" / "conv-naive-aaaaaaaaaaaaaaaa"
    lease = claim(orphan / "attempts", owner=replace(Owner.current(), host="node7"), heartbeat_s=60.0)
    assert found(results, days=0.0) == {}
    lease.abandon()
