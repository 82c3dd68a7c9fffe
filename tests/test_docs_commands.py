"""The commands of the guide: all of them can be read, and those that are marked so are run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.guide import GUIDE, PAGES, Block, blocks, prose, tool_words  # noqa: E402
from vlmablate.cli import MODULES, VERBS, main  # noqa: E402
from vlmablate.design.catalogue import axis_names  # noqa: E402
from vlmablate.design.declarations import study_questions  # noqa: E402
from vlmablate.sweep import parse  # noqa: E402

BASH = [block for page in PAGES for block in blocks(page) if block.language in ("bash", "")]
FILES = [block for page in PAGES for block in blocks(page) if block.path]
RUN = [page for page in GUIDE if any(block.smoke for block in blocks(page))]
CHECKOUT = ("vlmablate", "conf", "sweeps", "analysis", "pyproject.toml")
WITH_ACTIONS = ("data", "logs")
"""Verbs with a help for each of their actions."""
DEADLINE_S = 300
WORK_TO_DO = 10
_OUTPUT = re.compile(r"`(outputs/[\w./-]+)`")


def place(block: Block) -> str:
    return block.where


def groups() -> dict[str, set[str]]:
    """Group of the configuration -> its options, those that the guide shows how to write included."""
    files = [path.relative_to(ROOT / "conf") for path in (ROOT / "conf").glob("*/*.yaml")]
    shown = [Path(block.path).relative_to("conf") for block in FILES if block.path.startswith("conf/")]
    found: dict[str, set[str]] = {}
    for path in (*files, *shown):
        found.setdefault(path.parent.name, set()).add(path.stem)
    return found


def test_the_guide_has_commands_to_run() -> None:
    assert {page.stem for page in RUN} >= {"tutorial", "statistics", "published-data", "slurm"}
    assert len(BASH) > 40


def test_bash_reads_every_block() -> None:
    text = "\n".join(block.text for block in BASH if block.language)
    read = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert read.returncode == 0, read.stderr


@pytest.mark.parametrize("block", [block for block in BASH if block.commands], ids=place)
def test_commands_name_verbs_and_settings_that_exist(block: Block) -> None:
    options = groups()
    for command in block.commands:
        for verb, *words in tool_words(command):
            if verb.startswith("-"):
                continue
            assert verb in VERBS, command
            if verb != "sweep" or "--help" in words:
                continue
            asked = parse(words)
            axes = asked.axes or ((asked.axis,) if asked.axis else ())
            assert set(axes) <= {*axis_names(), *options["axis"]}, command
            assert axes or asked.study in study_questions(), command
            assert not asked.tune or asked.tune in options["search"], command
            assert asked.scale is None or asked.scale in options["scale"], command
            for key, _, option in (word.partition("=") for word in asked.overrides):
                assert key not in options or option in options[key], command


@pytest.mark.parametrize("verb", sorted({*VERBS} - {"sweep"}))
def test_options_of_verbs_are_in_their_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    calls = [words for block in BASH for line in block.commands for words in tool_words(line)]
    for words in (words for words in calls if words[0] == verb):
        action = words[1:2] if verb in WITH_ACTIONS else []
        main([verb, *action, "--help"])
        told = capsys.readouterr().out
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert {option for option in used if option not in told} <= {"--help"}, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_in_running_text_exist(page: Path) -> None:
    named = re.findall(r"`vlmablate ([a-z]+)", prose(page))
    assert set(named) <= {*VERBS}
    modules = re.findall(r"`python -m vlmablate\.([a-z_]+)", prose(page))
    assert {f"vlmablate.{module}" for module in modules} <= {*MODULES.values(), "vlmablate.sweep"}


@pytest.mark.parametrize("block", FILES, ids=place)
def test_files_that_are_shown_can_be_read(block: Block) -> None:
    if block.path.endswith(".yaml"):
        assert isinstance(yaml.safe_load(block.text), dict)
    else:
        compile(block.text, block.path, "exec")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what travels in a checkout, with the command of the tool in bin/."""
    copy = tmp_path / "checkout"
    for name in CHECKOUT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, copy / name)
    command = copy / "bin" / "vlmablate"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vlmablate.cli "$@"\n')
    command.chmod(0o755)
    return copy


def run(command: str, folder: Path, checkout: Path) -> str:
    """Run one line in a shell; its output. A plan may say that there is work to do."""
    environment = {
        **{name: value for name, value in os.environ.items() if name != "VLMABLATE_HOME"},
        "PATH": f"{checkout / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),
        "VLMABLATE_CACHE": str(checkout / "cache"),
    }
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    expected = {0, WORK_TO_DO} if "mode=plan" in command else {0}
    assert done.returncode in expected, f"{command}\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_as_they_stand(page: Path, checkout: Path, tmp_path: Path) -> None:
    """From top to bottom in a new folder, the files that it shows written before; then the results that it speaks of
    are there."""
    folder = tmp_path / "new"
    folder.mkdir()
    for block in blocks(page):
        if block.path:
            target = checkout / block.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text, encoding="utf-8")
            if block.path.endswith(".py"):
                module = block.path.removesuffix(".py").replace("/", ".")
                run(f"python -c 'import {module}'", folder, checkout)
        for command in block.commands if block.smoke else ():
            run(command, folder, checkout)
    for told in _OUTPUT.findall(prose(page)):
        assert (folder / told).exists(), f"{page.name} speaks of {told}"
