"""Which module may import what: light commands stay light, and only workers load torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vlmablate.paths

PACKAGE = Path(vlmablate.paths.__file__).parent
TORCH_FREE = (
    "design",
    "orchestration",
    "stats",
    "report",
    "analyze.py",
    "arguments.py",
    "calibrate.py",
    "cli.py",
    "replay.py",
    "report_verb.py",
    "sweep.py",
    "verbs.py",
    "paths.py",
    "files.py",
    "errors.py",
)
HEAVY = ("torch", "numpy", "pandas", "hydra", "omegaconf", "yaml", "submitit", "rich", "scipy", "matplotlib")


def sources() -> list[Path]:
    return [
        path
        for name in TORCH_FREE
        for path in ([PACKAGE / name] if name.endswith(".py") else sorted((PACKAGE / name).rglob("*.py")))
    ]


def imported(path: Path) -> set[str]:
    """Every module that a source file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_torch_outside_the_working_packages(path: Path):
    for name in imported(path):
        assert name.split(".")[0] not in ("torch", "torchvision", "transformers"), name
        assert not name.startswith(("vlmablate.training", "vlmablate.evaluation")), name


def test_design_knows_nothing_of_the_layers_above():
    for path in sorted((PACKAGE / "design").glob("*.py")):
        for name in imported(path):
            if name.startswith("vlmablate."):
                assert name.split(".")[1] in ("design", "errors", "paths"), f"{path.name}: {name}"


def loaded_after(code: str, home: Path) -> set[str]:
    """Top-level modules in memory after running code in a fresh interpreter."""
    program = (
        f"{code}\nimport sys, json\nprint()\nprint(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
        env={"VLMABLATE_HOME": str(home), "PATH": "/usr/bin:/bin"},
    )
    import json

    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "from vlmablate.cli import main; main(['--help'])",
        "from vlmablate.cli import main; main(['status'])",
        "from vlmablate.cli import main; main(['why', 'nothing'])",
        "from vlmablate.cli import main; main(['tail', 'nothing'])",
        "from vlmablate.cli import main; main(['cancel', 'nothing'])",
        "from vlmablate.cli import main; main(['retry', 'nothing'])",
        "from vlmablate.cli import main; main(['gc', '--yes'])",
        "from vlmablate.cli import main; main(['reproduce', 'nothing'])",
        "from vlmablate.cli import main; main(['sweep', '--help'])",
        "from vlmablate.cli import main; main(['data', '--help'])",
        "from vlmablate.cli import main; main(['logs', '--help'])",
        "from vlmablate.sweep import main; main(['--help'])",
        "from vlmablate.analyze import main; main(['--help'])",
        "from vlmablate.calibrate import main; main(['--help'])",
        "from vlmablate.sweep import main; main([])",
    ],
)
def test_help_and_status_load_nothing_heavy(code: str, tmp_path: Path):
    assert not loaded_after(code, tmp_path) & set(HEAVY)


def test_the_controller_loads_neither_torch_nor_numpy_nor_pandas(tmp_path: Path):
    code = "from vlmablate.sweep import main; main(['axis=stages', 'scale=smoke', 'mode=plan'])"
    loaded = loaded_after(code, tmp_path)
    assert "hydra" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "submitit", "scipy", "matplotlib"}
