from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from vlmablate.files import read_json
from vlmablate.orchestration import lease as lease_module
from vlmablate.orchestration.lease import Lease, LeaseBusyError, LeaseLostError, claim, latest
from vlmablate.orchestration.processes import Owner, start_time

ELSEWHERE = replace(Owner.current(), host="elsewhere", boot="other", pid=1)


def quiet(directory: Path, **more) -> Lease:
    return claim(directory, heartbeat_s=60.0, **more)


def dead_process() -> Owner:
    """The owner record of a process that ran here and is gone."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(Owner.current(), pid=process.pid, started=start_time(process.pid) or "")
    assert owner.running()
    process.communicate(b"\n")
    return owner


def test_attempts_are_numbered_and_recorded(tmp_path: Path):
    lease = quiet(tmp_path, job="j")
    assert (lease.number, lease.path.name) == (1, "001.json")
    record = read_json(lease.path)
    assert (record["state"], record["job"], record["owner"]["pid"]) == ("running", "j", os.getpid())
    lease.finish("failed", error={"type": "X"})
    record = read_json(lease.path)
    assert (record["state"], record["error"], record["job"]) == ("failed", {"type": "X"}, "j")
    again = quiet(tmp_path)
    assert again.number == 2
    again.finish("done")


def test_a_live_holder_is_not_replaced(tmp_path: Path):
    lease = quiet(tmp_path)
    with pytest.raises(LeaseBusyError) as caught:
        quiet(tmp_path)
    assert f"process {os.getpid()}" in str(caught.value)
    lease.finish("done")


def test_a_process_that_is_gone_is_replaced(tmp_path: Path):
    dead = quiet(tmp_path, owner=dead_process())
    lease = quiet(tmp_path)
    assert lease.number == 2
    lease.abandon()
    dead.abandon()


def test_a_reused_process_id_is_not_mistaken_for_the_owner(tmp_path: Path):
    dead = quiet(tmp_path, owner=replace(Owner.current(), started="long ago"))
    lease = quiet(tmp_path)
    assert lease.number == 2
    lease.abandon()
    dead.abandon()


def test_an_abandoned_lease_is_free_at_once_in_its_own_process(tmp_path: Path):
    lease = quiet(tmp_path)
    lease.abandon()
    assert read_json(lease.path)["state"] == "running"
    assert quiet(tmp_path).number == 2


def test_a_zombie_is_gone():
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended and nobody has collected it yet
    assert start_time(process.pid) is None
    process.wait()


def test_another_machine_is_replaced_only_after_its_time_to_live(tmp_path: Path):
    lease = quiet(tmp_path, owner=ELSEWHERE)
    with pytest.raises(LeaseBusyError):
        quiet(tmp_path, ttl_s=60.0)
    old = time.time() - 61.0
    os.utime(lease.path, (old, old))
    taken = quiet(tmp_path, ttl_s=60.0)
    assert taken.number == 2
    lease.abandon()
    taken.abandon()


def test_a_stale_heartbeat_on_this_machine_is_no_evidence(tmp_path: Path):
    """A stopped process (SIGSTOP, a laptop that slept) does not beat, but it is there."""
    lease = quiet(tmp_path)
    os.utime(lease.path, (0, 0))
    with pytest.raises(LeaseBusyError):
        quiet(tmp_path, ttl_s=1.0)
    lease.abandon()


def test_the_age_is_taken_by_the_clock_of_the_file_system(tmp_path: Path, monkeypatch):
    lease = quiet(tmp_path, owner=ELSEWHERE)
    monkeypatch.setattr(time, "time", lambda: 10**10)  # this machine's clock is far ahead
    with pytest.raises(LeaseBusyError):
        quiet(tmp_path, ttl_s=60.0)
    lease.abandon()


def test_one_of_many_claimants_wins(tmp_path: Path):
    dead = quiet(tmp_path, owner=dead_process())
    won, barrier = [], threading.Barrier(8)

    def race() -> None:
        barrier.wait()
        with suppress(LeaseBusyError):
            won.append(quiet(tmp_path))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [lease.number for lease in won] == [2]
    won[0].abandon()
    dead.abandon()


def test_an_overtaken_holder_is_fenced_off(tmp_path: Path):
    lease = quiet(tmp_path, owner=ELSEWHERE)
    os.utime(lease.path, (0, 0))
    taken = quiet(tmp_path)
    with pytest.raises(LeaseLostError):
        lease.check()
    assert lease.lost
    taken.check()
    assert not taken.lost
    lease.abandon()
    taken.abandon()


def test_the_heartbeat_notices_a_take_over_and_calls_the_watch(tmp_path: Path):
    called = threading.Event()
    lease = claim(tmp_path, heartbeat_s=0.01, watch=called.set, owner=ELSEWHERE)
    assert called.wait(10.0)
    before = lease.path.stat().st_mtime_ns
    lease.beat()
    assert lease.path.stat().st_mtime_ns >= before
    (tmp_path / "002.json").write_text("{}")
    called.clear()
    assert called.wait(10.0)
    assert lease.lost
    lease.abandon()


def test_no_attempt_yet(tmp_path: Path):
    assert latest(tmp_path / "nowhere") is None


def test_a_torn_record_counts_as_alive_while_it_is_young(tmp_path: Path):
    path = tmp_path / "001.json"
    path.write_text("")
    found = latest(tmp_path)
    assert found is not None
    assert found.alive(60.0)
    os.utime(path, (0, 0))
    assert not found.alive(60.0)


def test_a_disk_that_stumbles_once_does_not_end_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lease = claim(tmp_path, heartbeat_s=60.0)
    real = os.listdir

    def stumble(folder: Path) -> list[str]:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "listdir", stumble)
    lease.beat()
    monkeypatch.setattr(os, "listdir", real)
    assert not lease.lost
    lease.check()
    lease.finish("done")


def test_a_number_that_was_tidied_away_is_not_claimed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A claimant stands still between looking and creating, while others take turns and tidy up behind them."""
    claim(tmp_path, heartbeat_s=60.0).finish("ended")
    real = lease_module.create_exclusive
    later = []

    def stand_still(path: Path, data: bytes) -> bool:
        monkeypatch.setattr(lease_module, "create_exclusive", real)
        for _ in range(3):
            claim(tmp_path, heartbeat_s=60.0).finish("ended")
        later.append(claim(tmp_path, heartbeat_s=60.0))
        for number in (1, 2, 3):
            (tmp_path / f"{number:03d}.json").unlink()
        return real(path, data)

    monkeypatch.setattr(lease_module, "create_exclusive", stand_still)
    with pytest.raises(LeaseBusyError):
        claim(tmp_path, heartbeat_s=60.0)
    assert not later[0].lost
    assert latest(tmp_path).number == later[0].number
    later[0].finish("ended")


def test_a_link_whose_answer_was_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A network file system repeats the request and then finds the name taken, by ourselves."""
    real = os.link

    def repeated(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "file exists")

    monkeypatch.setattr(os, "link", repeated)
    lease = claim(tmp_path, heartbeat_s=60.0)
    assert lease.number == 1
    lease.finish("ended")
