"""Runs a conversion in a Python process of its own, so that the controller never imports torch for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vlmablate.errors import DiskFull, UserError


def convert_in_subprocess(function: str, archives: Sequence[Path], folder: Path) -> None:
    """Run a conversion in a Python process of its own.

    Raises:
        UserError: when it fails, with its last words; DiskFull when they say so.
    """
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "vlmablate.data.conversions", function, str(folder), *map(str, archives)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    words = "\n".join(f"    {line}" for line in done.stderr.strip().splitlines()[-4:])
    if "No space left on device" in words or "Disk quota exceeded" in words:
        raise DiskFull(
            f"no space left while converting into {folder.parent}; nothing half-written was kept.\n{words}"
        )
    hint = ""
    if "No module named" in words:
        hint = "\n  The conversion of weights needs the `train` extra: pip install 'vlmablate[train]'."
    raise UserError(f"{function} could not convert {', '.join(p.name for p in archives)}:\n{words}{hint}")
