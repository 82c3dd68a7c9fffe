"""Work that costs nothing: a step of ours, and the same as a Hydra application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmablate.orchestration.context import StepContext


def run(config: dict[str, Any], deps: dict[str, Path], out: Path, context: StepContext) -> dict[str, Any]:
    """A step that only says its number."""
    return {"value": config["number"]}


def application() -> None:
    """``python noop.py -m number=0,1,2 hydra/launcher=submitit_local``: every job only says its number."""
    import hydra

    @hydra.main(version_base=None, config_path=None)
    def job(config: Any) -> int:
        return int(config.get("number", 0))

    job()


if __name__ == "__main__":
    application()
