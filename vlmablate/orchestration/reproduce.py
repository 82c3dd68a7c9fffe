"""``vlmablate reproduce``: the steps that lead to a run's numbers again, and the comparison with them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmablate.errors import UserError
from vlmablate.files import read_json
from vlmablate.orchestration import provenance
from vlmablate.orchestration.kinship import Spec, kinship
from vlmablate.orchestration.names import Index, KnownRun
from vlmablate.orchestration.parts import Parts
from vlmablate.orchestration.space_line import Line, line_through
from vlmablate.orchestration.store import RESULT, SPEC, Store
from vlmablate.orchestration.tuned import chosen_values

NOT_COMPARED = frozenset({"metrics.jsonl"})
"""Files that hold times as well, so that no two computations give the same bytes."""


@dataclass(frozen=True)
class Made:
    """One step of the run: its role, id, and result (None when it is not done)."""

    role: str
    id: str
    kind: str
    directory: Path
    result: Mapping[str, Any] | None


def reproduce(home: Path, word: str, parts: Parts | None = None) -> list[str]:
    """The recipe as lines of text.

    Args:
        home: the results folder.
        word: one run.
        parts: configuration tree, axes and assets (tests).

    Raises:
        UserError: for a name that means no run, or several.
    """
    index = Index(home)
    run = _run(index, word)
    declared = index.studies[run.study]
    made = read_steps(index, run)
    sections = {
        "the code": _code(home, made, declared),
        "the environment": _environment(home, made, declared),
        "the pretrained parts and pictures": _assets(declared),
        "the run, in a results folder of its own": _command(run, declared),
        "the comparison": _expected(home, run, made),
    }
    lines, number = [f"{run.label}  {run.run_id}"], 0
    for title, section in sections.items():
        body = list(section)
        if body:
            number += 1
            lines += ["", f"{number}. {title}", *(f"   {line}" for line in body)]
    return [*lines, "", *_check(index, run, declared, parts or Parts(home=home))]


def _run(index: Index, word: str) -> KnownRun:
    selection = index.one(word)
    compared = [run for run in selection.runs if run.trial is None]
    if compared:
        return compared[0]
    if selection.step is None:
        raise UserError(
            f"'{word}' has only trials of its tuning so far, and no command leads to one of them alone"
        )
    users = [run for run in index.users(selection.step.id) if run.trial is None]
    if not users:
        raise UserError(
            f"{selection.title} belongs to no run of a study, so there is no command that leads to it"
        )
    if len({run.run_id for run in users}) > 1:
        listing = "\n".join(f"  {run.label}" for run in users[:12])
        raise UserError(f"{selection.title} belongs to {len(users)} runs; name one:\n{listing}")
    return users[0]


def read_steps(index: Index, run: KnownRun) -> list[Made]:
    """The steps of a run with their results, dependencies first."""
    found = []
    for role, step_id in run.steps.items():
        step = index.steps[step_id]
        directory = index.home / step.directory
        try:
            result = read_json(directory / RESULT)
        except (OSError, ValueError):
            result = None
        found.append(Made(role, step_id, step.kind, directory, result))
    return found


# The recipe


def _code(home: Path, made: list[Made], declared: Mapping[str, Any]) -> Iterator[str]:
    digests: dict[str, list[str]] = {}
    for step in made:
        if step.result is not None:
            digests.setdefault(str(step.result.get("code", "")), []).append(step.role)
    known = {code: provenance.code_record(home, code) for code in digests if code}
    # The steps that a run has for itself come last, and their code decides.
    main = next((code for code in reversed(digests) if known.get(code)), "")
    facts = known.get(main) or {"git": (declared.get("provenance") or {}).get("git") or {}}
    yield from _checkout(home, facts)
    if len(digests) > 1:
        yield "the steps of this run were made by different code:"
        for code, roles in digests.items():
            git = (known.get(code) or {}).get("git") or {}
            commit = f"commit {git['sha'][:12]}" if git.get("sha") else "commit unknown"
            changed = " with uncommitted changes" if git.get("patch_sha256") else ""
            yield f"  {', '.join(roles)}: {code or 'not recorded'} ({commit}{changed})"
    now = provenance.science_digest()
    if main and main != now:
        yield f"the code here is another one now: {main} then, {now} now"


def _checkout(home: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    git = facts["git"]
    if not git.get("sha"):
        version = f"version {facts['version']}" if facts.get("version") else "an unknown version"
        yield f"it was {version} of the installed package, outside of a git checkout"
        return
    yield f"git checkout {git['sha']}"
    patch = home / provenance.FOLDER / "patches" / f"{git.get('patch_sha256')}.patch"
    if git.get("patch_too_large"):
        yield f"there were uncommitted changes, too large to keep ({git['patch_too_large']:,} bytes)"
    elif git.get("patch_sha256") and patch.exists():
        yield f"git apply {shlex.quote(str(patch))}   # the uncommitted changes"
    elif git.get("patch_sha256"):
        yield f"there were uncommitted changes, and {patch} is gone"


def _environment(home: Path, made: list[Made], declared: Mapping[str, Any]) -> Iterator[str]:
    locks = [str(step.result["lock"]) for step in made if step.result is not None and step.result.get("lock")]
    lock = locks[-1] if locks else (declared.get("provenance") or {}).get("lock")
    path = home / provenance.FOLDER / "locks" / f"{lock}.txt"
    versions: dict[str, str] = _last(made, "versions") or {}
    python = ".".join(str(versions.get("python", "3")).split(".")[:2])
    yield f"python{python} -m venv .venv && source .venv/bin/activate"
    if lock and path.exists():
        yield f"pip install -r {shlex.quote(str(path))}"
        if "+" in path.read_text(encoding="utf-8"):
            yield "  # versions with a + (builds for one kind of GPU) come from the index of their maker"
    else:
        pins = [
            f"{name}=={version}" for name, version in versions.items() if name not in ("python", "vlmablate")
        ]
        yield f"pip install {' '.join(pins)}   # what was recorded; the full list is not there"
    yield "pip install --no-deps --editable ."
    if len(set(locks)) > 1:
        yield f"the steps of this run were made in {len(set(locks))} environments; this is the last one"
    gpus = _last(made, "gpus") or ()
    host = _last(made, "host") or {}
    yield f"it was made on: {host.get('cpu', 'an unknown processor')}{''.join(f', {gpu}' for gpu in gpus)}"


def _last(made: list[Made], name: str) -> Any:
    """What the last finished step says under ``name``; None when none says anything."""
    return next((s.result[name] for s in reversed(made) if s.result is not None and s.result.get(name)), None)


def _assets(declared: Mapping[str, Any]) -> Iterator[str]:
    digests = (declared.get("provenance") or {}).get("assets") or {}
    if not digests:
        return
    yield f"vlmablate fetch {' '.join(sorted(digests))}"
    yield from (f"  # {name}: {digest}" for name, digest in sorted(digests.items()))


def sweep_words(run: KnownRun, declared: Mapping[str, Any]) -> list[str]:
    """Arguments of a sweep of the run's axis, restricted to its seed; of a design space, of one of its axes.

    What tuning chose for the run's arm comes last, because it was chosen instead of what was configured.
    """
    line = _line(run, declared)
    words = [f"axis={line.axis}", f"seeds=[{run.seed}]", f"scale={declared['scale']}"]
    return [*words, *line.overrides, *declared["overrides"], *_chosen(run, declared)]


def _chosen(run: KnownRun, declared: Mapping[str, Any]) -> list[str]:
    values = chosen_values(declared.get("tuning"), run.arm, run.context)
    return [f"{path}={json.dumps(value)}" for path, value in values.items()]


def _line(run: KnownRun, declared: Mapping[str, Any]) -> Line:
    space = declared.get("exploration")
    if space is not None:
        return line_through(space, run.arm)
    axis = declared["axis"]
    return Line(axis["name"], run.arm, len(axis.get("arms") or {}), ())


def _command(run: KnownRun, declared: Mapping[str, Any]) -> Iterator[str]:
    line = _line(run, declared)
    yield "export VLMABLATE_HOME=$PWD/reproduced"
    yield f"python -m vlmablate.sweep {shlex.join(sweep_words(run, declared))}"
    yield f"  # trains the {line.arms} arms of the axis with seed {run.seed}; this run is {line.arm}"
    if _chosen(run, declared):
        yield "  # with what tuning chose for this arm; the study compared it with arms that have values of their own"


def _expected(home: Path, run: KnownRun, made: list[Made]) -> Iterator[str]:
    first = f"VLMABLATE_HOME={shlex.quote(str(home))}"
    yield f"{first} vlmablate reproduce {run.run_id} --compare $PWD/reproduced"
    yield f"  # expected: run {run.run_id}, and in each step's result.json"
    for step in made:
        if step.result is None:
            yield f"  #   {step.role:<10} {step.id}  not done yet"
            continue
        files = [f"{n} {facts['sha256'][:12]}" for n, facts in _comparable(step.result).items()]
        more = f" and {len(files) - 3} more files" if len(files) > 3 else ""
        yield f"  #   {step.role:<10} {step.id}  {', '.join(files[:3])}{more}"
        for name, mean in _means(step.result).items():
            yield f"  #              {name}: {mean:.6g}"


def _check(index: Index, run: KnownRun, declared: Mapping[str, Any], parts: Parts) -> Iterator[str]:
    from vlmablate.orchestration.today import run_today

    try:
        today = run_today(declared, run.arm, run.context, run.seed, parts)
    except UserError as error:
        yield f"today's configuration here cannot be composed into this run: {error}"
        return
    if today is None:
        yield "today's axis has no such arm or context any more: the checkout above is needed"
        return
    if today.run_id == run.run_id:
        yield "checked: today's code and configuration here give the same run"
        return
    yield f"today's configuration here gives another run, {today.run_id}: the checkout above is needed. It differs in"
    now = {step.id: step.to_dict() for step in today.steps.values()}

    def spec(step_id: str) -> Spec | None:
        if step_id in now:
            return now[step_id]
        try:
            found: Spec = read_json(index.home / index.steps[step_id].directory / SPEC)
        except (OSError, ValueError, KeyError):
            return None
        return found

    before = spec(run.run_id)
    lines = kinship(before, now[today.run_id], spec).lines() if before is not None else []
    yield from (f"  {line}" for line in lines or ["fields that were not kept: the run was never started"])


# The comparison


def _comparable(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: facts for name, facts in result["files"].items() if os.path.basename(name) not in NOT_COMPARED
    }


def _means(result: Mapping[str, Any]) -> dict[str, float]:
    """Benchmark -> mean score, of an evaluation."""
    benchmarks = (result.get("payload") or {}).get("benchmarks")
    if not isinstance(benchmarks, dict):
        return {}
    return {name: float(facts["mean"]) for name, facts in benchmarks.items() if "mean" in facts}


def compare(home: Path, word: str, other: Path) -> tuple[list[str], bool]:
    """Compare a run with its reproduction under another results folder.

    Returns:
        (lines of text, whether every finished step of the run is there with the same files).

    Raises:
        UserError: for a name that means no run, or several, and when there is no folder ``other``.
    """
    if not (other / "steps").is_dir():
        raise UserError(f"{other} is no results folder: it has no steps/")
    index = Index(home)
    run = _run(index, word)
    there = Store(other)
    lines, same = [f"{run.label}  {run.run_id}"], True
    for step in read_steps(index, run):
        if step.result is None:
            lines.append(f"  {step.role}: not done in {home}")
            continue
        folder = there.find(step.kind, step.id)
        try:
            result = read_json(folder / RESULT) if folder is not None else None
        except (OSError, ValueError):
            result = None
        if result is None:
            lines.append(f"  {step.role}: {step.id} is not done in {other}")
            same = False
            continue
        text = _difference(step.result, result)
        lines += [f"  {step.role}: {text[0]}", *(f"    {line}" for line in text[1:])]
        same &= text == [_SAME]
    lines.append("the run was reproduced, bit by bit" if same else "the run was not reproduced exactly")
    return lines, same


_SAME = "the same"


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, after = _comparable(then), _comparable(now)
    names = sorted(
        name
        for name in {*before, *after}
        if (before.get(name) or {}).get("sha256") != (after.get(name) or {}).get("sha256")
    )
    means = _means(now)
    scores = [
        f"{name}: {mean:.6g} then, {means[name]:.6g} now"
        for name, mean in _means(then).items()
        if name in means and means[name] != mean
    ]
    if not names and not scores:
        return [_SAME]
    return [f"differs in {', '.join(names) or 'its scores'}", *scores]
