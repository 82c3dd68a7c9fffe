"""A controller in a process of its own, with fake steps: ``run_controller.py HOME CELLS SEEDS LAUNCHER``.

CELLS is a JSON file with the axis and the composed cells, so that a test does not wait for Hydra every time.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from tests.orchestration import fakes
from vlmablate.design.catalogue import Axis, parse_axis
from vlmablate.files import read_json
from vlmablate.orchestration import controller
from vlmablate.orchestration.parts import Parts
from vlmablate.orchestration.progress import PlainDisplay
from vlmablate.orchestration.study import Cell, Request


def main() -> int:
    """Run the study and return its exit code."""
    results, made, seeds, launcher = (
        Path(sys.argv[1]),
        read_json(Path(sys.argv[2])),
        int(sys.argv[3]),
        sys.argv[4],
    )
    name = made["axis"]["name"]

    def cells(*_: Any) -> tuple[Axis, list[Cell]]:
        return parse_axis(made["axis"], "", "test", name), [Cell(**cell) for cell in made["cells"]]

    controller.compose_cells = cells  # type: ignore[assignment]
    controller.composer = lambda *_: contextlib.nullcontext()  # type: ignore[assignment,misc]
    request = Request(
        axis=name,
        seeds=tuple(range(seeds)),
        scale="smoke",
        overrides=("execution.workers=2",),
        launcher=launcher,
        study="study",
        command="the same command",
    )
    parts = Parts(
        home=results,
        cache=results / "cache",
        kinds=fakes.KINDS,
        assets=fakes.Assets(),
        build=fakes.build,
        display=PlainDisplay,
        heartbeat_s=0.1,
    )
    return controller.Controller(request, parts).run()


if __name__ == "__main__":
    raise SystemExit(main())
