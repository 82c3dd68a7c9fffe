"""What the commands of bench_plan.py ask for; apart, so that they import nothing else of the benchmark."""

from __future__ import annotations

from pathlib import Path

from vlmablate.orchestration.parts import Parts
from vlmablate.orchestration.study import Request

SEEDS = 10


def request() -> Request:
    return Request(axis="wide", seeds=tuple(range(SEEDS)), scale="smoke", command="the same command")


def parts(home: Path) -> Parts:
    return Parts(home=home, axes=home / "axes", report=lambda text: None)
