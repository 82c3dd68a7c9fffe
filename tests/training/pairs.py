"""Two ranks that train together: real processes, started once, that wait for scenarios."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from vlmablate.orchestration.gang import free_port

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0


class Pair:
    """Two processes of ``python -m module RANK``, which read a JSON object a line and answer each with one."""

    def __init__(self, module: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._ranks = [
            subprocess.Popen(
                [sys.executable, "-m", module, str(rank)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment,
            )
            for rank in range(2)
        ]  # fmt: skip

    def run(self, out: Path, **scenario: Any) -> list[dict[str, Any]]:
        """What each rank answers; ranks that wait for each other for ever are killed, which is an error here."""
        line = json.dumps({"out": str(out), "ranks": 2, "port": free_port("127.0.0.1"), **scenario})
        timer = threading.Timer(DEADLINE_S, self.close)
        timer.start()
        try:
            for process in self._ranks:
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
            return [json.loads(process.stdout.readline()) for process in self._ranks]
        finally:
            timer.cancel()

    @property
    def alive(self) -> bool:
        """Whether both wait for work."""
        return all(process.poll() is None for process in self._ranks)

    def close(self) -> None:
        """End both."""
        for process in self._ranks:
            process.kill()
            process.wait()
