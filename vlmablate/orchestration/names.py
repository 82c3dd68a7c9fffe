"""What people call a run or a step, and what is meant by it.

A run has an id and a label, ``study/arm/s0`` or ``study/arm/context/s0``. Ids may be shortened to four characters or
more, the study may be left out where that is not ambiguous, and a study's name alone, or ``study/arm``, names all of
its runs. A step is named by its id or by the name of its folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmablate.errors import UserError
from vlmablate.files import read_json

SHORTEST_ID = 4
_ID_LENGTH = 16
_SEED = re.compile(r"s(\d+)")
_LISTED = 12


@dataclass(frozen=True)
class KnownStep:
    """A step as a declaration, or its folder, knows it. ``directory`` is relative to the results folder."""

    id: str
    kind: str
    slug: str
    directory: str

    def __str__(self) -> str:
        return f"{self.kind} {self.slug}"


@dataclass(frozen=True)
class KnownRun:
    """A run of a study; ``steps`` is role -> step id. ``trial``: its number, of one that is only made to choose by."""

    study: str
    arm: str
    context: str
    seed: int
    run_id: str
    steps: Mapping[str, str] = field(hash=False)
    trial: int | None = None

    @property
    def label(self) -> str:
        """``study/arm/s0``, with the context between arm and seed unless it is the default one; of a trial
        ``study/arm/trial 3``.
        """
        place = "" if self.context == "default" else f"/{self.context}"
        last = f"s{self.seed}" if self.trial is None else f"trial {self.trial}"
        return f"{self.study}/{self.arm}{place}/{last}"


@dataclass(frozen=True)
class Selection:
    """What a word means: runs, or one step that is no run. ``title`` is the proper name of it."""

    title: str
    runs: tuple[KnownRun, ...] = ()
    step: KnownStep | None = None


def studies_named(word: str, studies: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The studies that a name means: the one that is called so, or those that ``study=<name>`` started together.

    Args:
        word: the name.
        studies: name -> the content of its ``study.json``.
    """
    if word in studies:
        return [word]
    asked = f"study={word}"
    return [name for name, declared in studies.items() if asked in str(declared.get("command")).split()]


class Index:
    """All that is declared under a results folder.

    Attributes:
        home: the results folder.
        studies: name -> the content of its ``study.json``.
        unreadable: names of studies whose declaration is damaged.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.studies: dict[str, dict[str, Any]] = {}
        self.unreadable: list[str] = []
        for path in sorted((home / "studies").glob("*/study.json")):
            try:
                self.studies[path.parent.name] = read_json(path)
            except FileNotFoundError:
                continue  # just deleted
            except (OSError, ValueError):
                self.unreadable.append(path.parent.name)

    @cached_property
    def runs(self) -> tuple[KnownRun, ...]:
        """The runs of all studies; one that several studies declare is there once for each."""
        return tuple(
            KnownRun(study, run["arm"], run["context"], run["seed"], run["run_id"], run["steps"])
            for study, declared in self.studies.items()
            for run in declared["runs"]
        )

    @cached_property
    def trials(self) -> tuple[KnownRun, ...]:
        """The trials of all tuned studies that have not ended."""
        return tuple(
            KnownRun(
                study, cell["arm"], cell["context"], declared["tuning"]["seed"], trial["run_id"], trial["steps"],
                trial["number"],
            )
            for study, declared in self.studies.items()
            for cell in (declared.get("tuning") or {}).get("cells", ())
            for trial in cell["trials"]
            if trial["state"] == "running"
        )  # fmt: skip

    @cached_property
    def steps(self) -> dict[str, KnownStep]:
        """id -> step, over all studies."""
        return {
            step_id: KnownStep(step_id, step["kind"], step["slug"], step["dir"])
            for declared in self.studies.values()
            for step_id, step in declared["steps"].items()
        }

    def users(self, step_id: str) -> list[KnownRun]:
        """The runs, and the trials, that need a step."""
        return [run for run in (*self.runs, *self.trials) if step_id in run.steps.values()]

    def folders(self) -> Iterable[KnownStep]:
        """Every step that has a folder, declared or not."""
        root = self.home / "steps"
        for kind in _listed(root):
            for name in _listed(root / kind):
                slug, _, step_id = name.rpartition("-")
                if len(step_id) == _ID_LENGTH and not name.startswith("."):
                    yield KnownStep(step_id, kind, slug, f"steps/{kind}/{name}")

    def select(self, word: str) -> Selection:
        """What a word of the command line means: a study, some of its runs, one run, or one step.

        Raises:
            UserError: when nothing has that name (lists what is close to it), or an id is cut too short to tell.
        """
        word = word.strip().rstrip("/")
        studies = studies_named(word, self.studies)
        if studies:
            every = (*self.trials, *self.runs)
            return Selection(word, tuple(run for run in every if run.study in studies))
        found = self._by_label(word)
        if found:
            title = found[0].label if len({run.run_id for run in found}) == 1 else word
            return Selection(title, tuple(found))
        step = self._by_id(word.rpartition("/")[2])
        if step is None:
            raise self._unknown(word)
        runs = tuple(run for run in self.runs if run.run_id == step.id)
        return Selection(runs[0].label, runs) if runs else Selection(str(step), (), step)

    def one(self, word: str) -> Selection:
        """As :meth:`select`, for verbs that take one run or one step.

        Raises:
            UserError: also when several runs are meant; lists them.
        """
        found = self.select(word)
        labels = {run.run_id: run.label for run in reversed(found.runs)}
        if len(labels) > 1:
            listing = _listing([f"{label}  {run_id}" for run_id, label in reversed(labels.items())])
            raise UserError(f"'{word}' means {len(labels)} runs; name one:\n{listing}")
        return found

    def _by_label(self, word: str) -> list[KnownRun]:
        parts = [part for part in re.split(r"[/\s]+", word) if part]
        runs: Sequence[KnownRun] = self.runs
        if len(parts) > 1 and parts[0] in self.studies:
            runs = [run for run in runs if run.study == parts[0]]
            parts = parts[1:]
        seed = _SEED.fullmatch(parts[-1]) if parts else None
        if seed:
            parts = parts[:-1]
            runs = [run for run in runs if run.seed == int(seed[1])]
        if not 1 <= len(parts) <= 2:
            return []
        return [run for run in runs if run.arm == parts[0] and (len(parts) == 1 or run.context == parts[1])]

    def _by_id(self, word: str) -> KnownStep | None:
        word = word.lower()
        if len(word) < SHORTEST_ID:
            return None
        known = {**{step.id: step for step in self.folders()}, **self.steps}
        exact = known.get(word) or known.get(word.rpartition("-")[2])
        if exact is not None:
            return exact
        found = [step for step_id, step in known.items() if step_id.startswith(word)]
        if len(found) > 1:
            listing = _listing([f"{step.id}  {step}" for step in found])
            raise UserError(f"'{word}' is the beginning of {len(found)} ids; give more of it:\n{listing}")
        return found[0] if found else None

    def _unknown(self, word: str) -> UserError:
        if not self.studies:
            return UserError(f"nothing is called '{word}': there are no studies under {self.home}")
        import difflib

        labels = [run.label for run in self.runs]
        names = [*self.studies, *labels]
        close = difflib.get_close_matches(word, names, n=_LISTED, cutoff=0.5)
        if not close:
            close = difflib.get_close_matches(
                word, [label.partition("/")[2] for label in labels[:2000]], n=_LISTED
            )
        listing = _listing(close or list(self.studies))
        return UserError(
            f"nothing is called '{word}': give a study, a run (study/arm/s0, or the first "
            f"{SHORTEST_ID} characters of its id), or a step's folder name\n"
            f"{'close to it' if close else 'the studies'}:\n{listing}"
        )


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _listing(names: Sequence[str]) -> str:
    more = [f"  … and {len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return "\n".join([*(f"  {name}" for name in names[:_LISTED]), *more])
