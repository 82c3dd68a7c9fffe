"""The toy trainer keeps what it promises, or the tests of faults prove nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.faults import toy  # noqa: E402
from vlmablate.errors import DiskFull, Diverged  # noqa: E402
from vlmablate.files import read_json  # noqa: E402
from vlmablate.orchestration.context import StepContext, StepStopped  # noqa: E402
from vlmablate.orchestration.gang import free_port  # noqa: E402

ID = "abcdefgh"
START = repr(("finetune", ID, []))
RIGHT = f"{toy.number_after(START, toy.STEPS):016x}"


class Toy:
    """One toy step, in threads as ranks."""

    def __init__(self, folder: Path) -> None:
        self.control, self.out = folder / "control", folder / f"run-{ID}"
        self.attempts = 0
        self.control.mkdir()
        self.out.mkdir()

    def set(self, name: str, text: str = "") -> None:
        (self.control / name).write_text(text)

    def run(self, ranks: int = 1, stop_at: int | None = None, stops: int = 0, **placement: Any) -> list[Any]:
        """One attempt: what each rank returned or raised. ``stop_at``: rank ``stops`` is told to stop in that step."""
        self.attempts += 1
        port = free_port("127.0.0.1")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))

        def one(rank: int) -> Any:
            def stop_requested() -> bool:
                return rank == stops and f"{stop_at} attempt={self.attempts} rank={rank}" in "".join(
                    self.events("step")
                )

            context = StepContext(
                execution=placement, attempt=self.attempts, assets=self.out, out=self.out,
                stop_requested=stop_requested, rank=rank, world_size=ranks,
            )  # fmt: skip
            try:
                return toy.finetune({}, {}, self.out, context)["value"]
            except Exception as error:
                return error

        with ThreadPoolExecutor(ranks) as pool:
            return list(pool.map(one, range(ranks)))

    def events(self, what: str) -> list[str]:
        path = self.control / "events"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [line for line in lines if line.startswith(what)]

    def executed(self, rank: int = 0) -> list[int]:
        """The steps that a rank did, in order."""
        return [int(line.split()[3]) for line in self.events("step") if f"rank={rank}" in line]


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.setenv("VLMABLATE_FAKES", str(tmp_path / "control"))
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    return Toy(tmp_path)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_number_is_the_same_on_any_number_of_ranks(one: Toy, ranks: int):
    assert one.run(ranks) == [RIGHT] * ranks
    assert read_json(one.out / "value.json") == {"value": RIGHT}
    assert one.executed() == list(range(1, toy.STEPS + 1))
    assert sorted(path.name for path in one.out.glob("checkpoint*")) == ["checkpoint-4", "checkpoint-8"]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("stop_at", [1, 5, 12])
def test_a_stop_loses_no_step(one: Toy, ranks: int, stop_at: int):
    stopped = one.run(ranks, stop_at, stops=ranks - 1)
    assert [type(error) for error in stopped] == [StepStopped] * ranks
    assert one.run(ranks) == [RIGHT] * ranks
    assert one.executed() == list(range(1, toy.STEPS + 1))
    assert f"resumed finetune {ID} {stop_at} attempt=2 rank=0\n" in one.events("resumed")


def test_another_number_of_ranks_goes_on(one: Toy):
    one.run(2, 5)
    assert one.run(3, 9) != [RIGHT] * 3
    assert one.run(1) == [RIGHT]
    assert one.executed() == list(range(1, toy.STEPS + 1))


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("oom", toy.OutOfMemoryError, "CUDA out of memory"),
        ("memory", MemoryError, ""),
        ("nan", Diverged, "the loss of step 7 is nan"),
        ("bug", RuntimeError, "was told to fail"),
    ],
)
def test_a_fault_happens_once_and_costs_what_was_not_saved(one: Toy, fault: str, error: type, message: str):
    one.set("fault-finetune-6", fault)
    (raised,) = one.run()
    assert isinstance(raised, error)
    assert message in str(raised)
    assert one.run() == [RIGHT]
    lost = len(one.executed()) - toy.STEPS
    assert 1 <= lost + 1 <= toy.EVERY


def test_a_full_disk_while_saving(one: Toy):
    one.set("fault-finetune-6", "full rank=1")
    first, second = one.run(2)
    assert isinstance(first, DiskFull)
    assert isinstance(second, OSError)
    assert one.run(2) == [RIGHT] * 2
    assert one.executed()[8:] == list(range(5, 13))


def test_out_of_memory_until_fewer_rows_are_taken(one: Toy):
    one.set("fault-finetune-2", "oom rows=3 always")
    assert isinstance(one.run()[0], toy.OutOfMemoryError)
    assert isinstance(one.run(micro_batch=4)[0], toy.OutOfMemoryError)
    assert one.run(micro_batch=3) == [RIGHT]


@pytest.mark.parametrize(("fault", "resumed"), [("exit", 4), ("exit-saving", 4)])
def test_a_process_that_is_gone_at_once(one: Toy, fault: str, resumed: int):
    one.set("fault-finetune-6", fault)
    program = (
        f"from tests.faults.test_toy import *; one = Toy.__new__(Toy); one.attempts = 0; one.control, one.out = \
Path({str(one.control)!r}), Path({str(one.out)!r}); one.run()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, capture_output=True)
    assert done.returncode == 9, done.stderr
    one.attempts = 1
    assert one.run() == [RIGHT]
    assert one.events("resumed") == [f"resumed finetune {ID} {resumed} attempt=2 rank=0\n"]
