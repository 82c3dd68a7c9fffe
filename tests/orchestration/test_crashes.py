"""Processes that die at the worst moment, and controllers that meet. Real processes, real signals."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.orchestration import fakes
from tests.orchestration.conftest import until
from vlmablate.orchestration.failures import read_verdict
from vlmablate.orchestration.lease import latest
from vlmablate.orchestration.marks import cancel
from vlmablate.orchestration.processes import start_time
from vlmablate.orchestration.status import read_status
from vlmablate.orchestration.stop import check_interrupt, signals_interrupt


@pytest.fixture
def undisturbed(sweeps, results: Path, control: Path) -> str:
    """The values of a study that nobody disturbed; its results are removed again."""
    import shutil

    sweeps.run()
    values = sweeps.values()
    shutil.rmtree(results)
    (control / "calls").unlink()
    return values


def held(control: Path, kind: str) -> int:
    """Wait until a step of the kind is at work; returns the process id of its worker."""
    path = control / f"held-{kind}"
    return int(until(lambda: path.exists() and path.read_text(), f"a {kind} step at work"))


def alive(results: Path) -> list[str]:
    """Steps that someone works on."""
    found = map(latest, results.glob("steps/*/*/attempts"))
    return [attempt.describe() for attempt in found if attempt is not None and attempt.alive()]


def counts() -> Counter[str]:
    return Counter(call.split()[0] for call in fakes.calls())


def test_kill_9_of_the_controller_takes_its_workers_along_and_the_same_command_goes_on(
    sweeps, results: Path, control: Path, undisturbed: str
):
    (control / "hold-finetune").touch()
    controller = sweeps.start()
    worker = held(control, "finetune")
    controller.kill()
    controller.communicate()
    until(lambda: start_time(worker) is None, "the end of the worker of a dead controller")
    until(lambda: not alive(results), "the end of all its workers")
    (control / "hold-finetune").unlink()
    (control / "held-finetune").unlink()
    done = {path.parent.name for path in results.glob("steps/*/*/result.json")}
    assert len(done) >= 3
    before = len(fakes.calls())
    again = sweeps.start()
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert sweeps.values() == undisturbed
    redone = {call.split()[1] for call in fakes.calls()[before:]}
    assert not redone & done
    assert len(redone | done) == 8
    assert len(fakes.calls()) - before == len(redone)
    third = sweeps.start()
    output, _ = third.communicate(timeout=60)
    assert "nothing to submit" in output


def test_kill_9_of_a_worker_loses_the_step_in_flight_only(sweeps, control: Path, undisturbed: str):
    (control / "hold-align").touch()
    controller = sweeps.start()
    worker = held(control, "align")
    os.kill(worker, signal.SIGKILL)
    (control / "hold-align").unlink()
    output, _ = controller.communicate(timeout=60)
    assert controller.returncode == 0, output
    assert "the worker was killed by SIGKILL (out of memory?); trying once more" in output
    assert sweeps.values() == undisturbed
    assert counts() == Counter(scenes=1, pretrain=1, features=1, align=2, finetune=2, evaluate=2)


def test_a_worker_that_is_killed_twice_is_a_failure_and_the_same_command_goes_on(
    sweeps, control: Path, undisturbed: str
):
    (control / "hold-align").touch()
    controller = sweeps.start()
    first = held(control, "align")
    os.kill(first, signal.SIGKILL)
    second = until(lambda: (pid := held(control, "align")) != first and pid, "the second attempt")
    os.kill(second, signal.SIGKILL)
    output, _ = controller.communicate(timeout=60)
    assert controller.returncode == 1
    assert "FAILED align" in output
    assert "To go on: the same command" in output
    (control / "hold-align").unlink()
    again = sweeps.start()
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert sweeps.values() == undisturbed


def test_a_step_that_is_cancelled_while_it_runs_is_not_tried_again(sweeps, results: Path, control: Path):
    (control / "hold-scenes").touch()
    controller = sweeps.start()
    worker = held(control, "scenes")
    folder = next((results / "steps" / "scenes").glob("*/attempts")).parent
    cancel(folder, "the wrong data")
    os.kill(worker, signal.SIGTERM)
    output, _ = controller.communicate(timeout=60)
    assert controller.returncode == 1
    assert "FAILED scenes" in output
    assert "(the wrong data); to have it computed: vlmablate retry" in output
    assert counts()["scenes"] == 1
    verdict = read_verdict(latest(folder / "attempts"))
    assert (verdict["class"], verdict["action"]) == ("cancelled", "fail")


def test_a_stopped_controller_stops_its_workers_and_says_how_to_go_on(
    sweeps, results: Path, control: Path, undisturbed: str
):
    (control / "hold-align").touch()
    controller = sweeps.start()
    worker = held(control, "align")
    controller.send_signal(signal.SIGINT)
    output, _ = controller.communicate(timeout=60)
    assert controller.returncode == 130
    assert output.splitlines()[-1] == "stopped; finished steps are kept. To go on: the same command"
    assert "Traceback" not in output
    assert start_time(worker) is None
    states = [path.read_text() for path in (results / "steps" / "align").glob("*/attempts/001.json")]
    assert all('"stopped"' in state for state in states)
    (control / "hold-align").unlink()
    again = sweeps.start()
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert sweeps.values() == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_stop_a_controller_like_ctrl_c(number: signal.Signals):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_second_controller_follows_the_first_and_finds_nothing_to_do(
    sweeps, results: Path, control: Path, undisturbed: str
):
    (control / "hold-pretrain").touch()
    first = sweeps.start()
    held(control, "pretrain")
    second = sweeps.start()
    assert second.stdout is not None
    line = until(second.stdout.readline, "the word of the second controller")
    assert f"is already being run by process {first.pid}" in line
    status = read_status(results)[0]
    assert status.state == "running"
    assert status.controller.startswith(f"process {first.pid} ")
    (control / "hold-pretrain").unlink()
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    assert "nothing to submit" in outputs[1]
    assert counts() == Counter(scenes=1, pretrain=1, features=1, align=1, finetune=2, evaluate=2)
    assert sweeps.values() == undisturbed


def test_the_follower_takes_over_when_the_first_controller_dies(sweeps, control: Path, undisturbed: str):
    (control / "hold-pretrain").touch()
    first = sweeps.start()
    held(control, "pretrain")
    second = sweeps.start()
    assert second.stdout is not None
    until(second.stdout.readline, "the word of the second controller")
    first.kill()
    first.communicate()
    (control / "hold-pretrain").unlink()
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0, output
    assert sweeps.values() == undisturbed
    assert counts()["scenes"] == 1


def test_two_studies_share_a_step_that_is_at_work(sweeps, results: Path, control: Path):
    (control / "hold-scenes").touch()
    first = sweeps.start()
    held(control, "scenes")
    said: list[str] = []

    def release(text: str) -> None:
        said.append(text)
        if "waiting: scenes" in text:
            (control / "hold-scenes").unlink(missing_ok=True)

    from vlmablate.orchestration.progress import PlainDisplay

    code = sweeps.run(
        parts={"display": lambda: PlainDisplay(release)}, launcher="local", axis="image_resize", study="other"
    )
    output, _ = first.communicate(timeout=60)
    assert (code, first.returncode) == (0, 0), output
    assert any("computed by process" in text for text in said)
    made = counts()
    assert (made["scenes"], made["pretrain"]) == (1, 1)
    # The two-stage arm of one study is the letterbox arm of the other: it is computed once.
    assert (made["align"], made["finetune"], made["evaluate"]) == (3, 4, 4)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_the_interpreter_swallowed_is_not_lost():
    """Raised in a finaliser, KeyboardInterrupt is only printed; the next round of a waiting loop raises it again."""

    class Finalised:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    with signals_interrupt():
        thing = Finalised()
        del thing
        with pytest.raises(KeyboardInterrupt):
            check_interrupt()
        check_interrupt()  # once is enough
