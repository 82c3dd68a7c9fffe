"""Ranks of a tiny training that can be killed: each training is a process of its own.

``python -m tests.training.doomed RANK`` reads scenarios like :mod:`tests.training.tiny`, and forks for each, so that
torch is imported once. It answers with what ``tiny.run`` gave, or with the ``signal`` that ended the process. A
scenario may hold ``kill``: {rank, victims, moment}: when that rank gets to the moment of saving step 8, the
victims (ranks) end by SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed.checkpoint.staging
import torch.distributed.checkpoint.state_dict_loader
import torch.distributed.checkpoint.state_dict_saver
import torch.distributed.fsdp

from tests.training import tiny
from vlmablate.orchestration import checkpoint_folder
from vlmablate.training import checkpoints
from vlmablate.training.ranks import Ranks

KILLED_AT = "checkpoint-8"
UNCOMMITTED = ("begun", "half", "written", "hashed", "committing")
MOMENTS = (*UNCOMMITTED, "renamed")
"""Before a rank writes; with half of its file written; all of it; when all told each other their hashes; before the
draft gets its name; and after."""
ALONE_ON_0 = ("committing", "renamed")


def kill_at(kill: dict[str, Any], out: Path, rank: int) -> None:
    """Arm this rank."""

    def die() -> None:
        for victim in sorted(kill["victims"], key=lambda other: other == rank):  # oneself last
            os.kill(int((out / f"pid-{victim}").read_text()), signal.SIGKILL)

    def armed(moment: str, place: Path) -> bool:
        return kill["rank"] == rank and kill["moment"] == moment and KILLED_AT in str(place)

    write, facts = checkpoints.write, checkpoint_folder._facts
    together, rename = checkpoint_folder.together, os.rename
    hashed: list[Path] = []

    def writes(state: Any, folder: Path, ranks: Ranks) -> list[str]:
        if armed("begun", folder):
            die()
        names = write(state, folder, ranks)
        if armed("half", folder):
            path = folder / next(name for name in names if name != ".metadata")
            os.truncate(path, path.stat().st_size // 2)
            die()
        if armed("written", folder):
            die()
        return names

    def hashes(folder: Path, names: Any) -> Any:
        found = facts(folder, names)
        if armed("hashed", folder):
            hashed.append(folder)
        return found

    def all_told(group: Any, work: Callable[[], Any]) -> Any:
        outcomes = together(group, work)
        if hashed:
            die()
        return outcomes

    def renames(source: Any, target: Any) -> None:
        commits = Path(target).name == KILLED_AT
        if commits and armed("committing", target):
            die()
        rename(source, target)
        if commits and armed("renamed", target):
            die()

    (out / f"pid-{rank}").write_text(str(os.getpid()))
    checkpoints.write, checkpoint_folder._facts = writes, hashes
    checkpoint_folder.together = all_told
    os.rename = renames


def forked(out: Path, rank: int, kill: dict[str, Any] | None, scenario: dict[str, Any]) -> dict[str, Any]:
    """The answer of a training in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        code = 1
        try:
            if kill is not None:
                kill_at(kill, out, rank)
            with redirect_stdout(sys.stderr):
                answer = tiny.run(out, rank=rank, **scenario)
            os.write(writing, json.dumps(answer).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    answer = json.loads(told)
    assert isinstance(answer, dict)
    return answer


def main(rank: int) -> None:
    """Serve scenarios."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        scenario = json.loads(line)
        port, ranks = str(scenario.pop("port")), int(scenario["ranks"])
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, RANK=str(rank), WORLD_SIZE=str(ranks))
        out, kill = Path(scenario.pop("out")), scenario.pop("kill", None)
        out.mkdir(parents=True, exist_ok=True)
        print(json.dumps(forked(out, rank, kill, scenario)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
