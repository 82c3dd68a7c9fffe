"""From a study folder to its tables, figures, notebook and page.

Order: collect -> results.parquet, benchmarks.json -> analyse -> the CSV tables -> figures/ -> report.ipynb
(executed) -> report.html -> report.json, last. A report whose inputs have not changed is not made again; finding
that out needs neither numpy nor pandas.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmablate.data.overlap_table import FILE as OVERLAP
from vlmablate.files import read_json, sha256_file, write_json, write_with
from vlmablate.paths import resource
from vlmablate.report.study import Study

if TYPE_CHECKING:
    from vlmablate.report.collect import Collected
    from vlmablate.stats.declaration import Design

TABLES = ("significance", "sensitivity", "pairwise", "components", "improvement", "null_p", "mde_curve")
"""Tables of an analysis that are written as NAME.csv; `significance` holds every test that decides."""

OUTPUTS = (
    "results.parquet",
    "benchmarks.json",
    *(f"{name}.csv" for name in TABLES),
    "secondary.csv",
    "report.ipynb",
    "report.html",
)

SPACE_OUTPUTS = ("effects.csv", "importance.csv")
"""What the report of a design space has beside them."""


def _records(study: Study) -> Iterator[tuple[str, str]]:
    """(name, path) of the results and specs of the study's steps, and of the table of shared pictures beside it."""
    home = str(study.home)
    yield OVERLAP, f"{study.folder}/{OVERLAP}"
    for step_id, step in sorted(study.facts["steps"].items()):
        for name in ("result.json", "spec.json"):
            yield f"{step_id}/{name}", f"{home}/{step['dir']}/{name}"


def _sources() -> list[tuple[str, str]]:
    """(name, path) of the code and the templates of reports."""
    package, analysis = str(Path(__file__).resolve().parents[1]), str(resource("analysis"))
    found = [
        (f"{folder.rpartition('/')[2]}/{name}", f"{folder}/{name}")
        for folder in (
            *(f"{package}/{name}" for name in ("stats", "stats/adaptive", "stats/factorial", "report")),
            analysis,
        )
        for name in os.listdir(folder)
        if (name.endswith(".py") if folder != analysis else name.startswith(("report.", "macros.")))
    ]
    return sorted(found)


def stamp(study: Study) -> str:
    """Digest of the sizes, times and inodes of the files a report depends on; no content is read.

    While it stands, :func:`fingerprint` does: every way of changing a file sets its ctime, or gives it another inode.
    """
    digest = hashlib.sha256()
    for name, path in ("study.json", f"{study.folder}/study.json"), *_records(study), *_sources():
        try:
            found = os.stat(path)
        except OSError:
            digest.update(f"{name}:absent\n".encode())
            continue
        facts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(f"{name}:{facts}\n".encode())
    return digest.hexdigest()


def fingerprint(study: Study) -> str:
    """Digest of everything a report depends on: study.json, the steps' results and specs, this code, the
    templates."""
    digest = hashlib.sha256((study.folder / "study.json").read_bytes())
    for name, path in *_records(study), *_sources():
        try:
            content = Path(path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            content = b"absent"
        digest.update(f"{name}:".encode() + content)
    return digest.hexdigest()


def build_study(study_dir: Path, home: Path, force: bool = False) -> dict[str, Any]:
    """Write the tables, figures, notebook and page of a study; returns {verdicts, html, notebook, missing,
    rebuilt}.

    verdicts: list of sentences; html, notebook: paths; missing: runs without scores; rebuilt: whether
    anything had to be done (always with `force`). Raises UserError for a study without finished runs and for
    scores that disagree about their examples, DiskFull, and nbclient's CellExecutionError if the notebook's
    own derivation of the numbers disagrees with significance.csv.
    """
    study = Study.load(Path(study_dir).absolute(), Path(home).absolute())
    seen = stamp(study)  # before any content is read, so that what changes in between is seen next time
    record = study.folder / "report.json"
    known: dict[str, Any] = {}
    outputs = (*OUTPUTS, *(SPACE_OUTPUTS if study.facts.get("exploration") else ()))
    if not force and record.exists() and all((study.folder / name).exists() for name in outputs):
        with suppress(ValueError):
            known = read_json(record)
        if known.get("stamp") == seen:
            return _answer(study, known, rebuilt=False)
    state = fingerprint(study)
    if known.get("fingerprint") == state:
        write_json(record, {**known, "stamp": seen})
        return _answer(study, known, rebuilt=False)
    known = {"fingerprint": state, "stamp": seen, **_build(study)}
    write_json(record, known)
    return _answer(study, known, rebuilt=True)


def _answer(study: Study, known: dict[str, Any], rebuilt: bool) -> dict[str, Any]:
    return {
        "verdicts": list(known["verdicts"]),
        "html": study.folder / "report.html",
        "notebook": study.folder / "report.ipynb",
        "missing": list(known["missing"]),
        "rebuilt": rebuilt,
    }


def declare(study: Study, collected: Collected) -> Design:
    """The design of a study: what its declaration says is compared with what, and the facts of its benchmarks.

    The baseline belongs to the arms also while none of its runs is finished. Raises UserError for settings of the
    analysis that do not exist.
    """
    from vlmablate.stats.declaration import Design, read_analysis

    settings, families = read_analysis(study.facts.get("analysis"))
    replicate = study.facts.get("replicate") or {}
    arms = study.arms if study.baseline in study.arms else [study.baseline, *study.arms]
    known: dict[str, dict[str, Any]] = {key: {} for key in ("metric", "majority")}
    for name, facts in collected.benchmarks.items():
        for key, values in known.items():
            if facts.get(key) is not None:
                values[name] = facts[key]
    return Design(
        axis=study.axis_name,
        baseline=study.baseline,
        arms=tuple(arms),
        contexts=tuple(study.contexts),
        metrics=known["metric"],
        majority=known["majority"],
        families=families,
        settings=settings,
        max_seeds=replicate.get("max_seeds"),
        budget=replicate.get("budget"),
    )


def write_tables(analysis: Any, folder: Path) -> None:
    """Write TABLES of an analysis as CSV files into `folder`, each whole or not at all."""
    for name in TABLES:
        with write_with(folder / f"{name}.csv") as temporary:
            getattr(analysis, name).to_csv(temporary, index=False, lineterminator="\n")


def _build(study: Study) -> dict[str, Any]:
    # Heavy imports stay here: a finished sweep that is started again must not pay for them.
    from vlmablate.report import (
        behaviour,
        behaviour_tests,
        collect,
        exploration,
        figures,
        html,
        notebook,
        page,
    )
    from vlmablate.stats.table import analyse

    collected = collect.collect(study)
    collect.write_results(collected, study.folder)
    compared = collected if study.compared is study else collected.of(study.compared)
    analysis = analyse(compared.results, declare(study.compared, compared))
    write_tables(analysis, study.folder)
    secondary = behaviour_tests.secondary(compared.results, analysis.design)
    behaviour.write_secondary(secondary, study.folder)
    explored = exploration.explore(study, collected, analysis)
    if explored is not None:
        exploration.write_exploration(explored, study.folder)
    drawn = figures.save_all(study, analysis, explored, study.folder / "figures")
    values = page.page(study, collected, analysis, secondary, explored)
    verdicts = [verdict["text"] for verdict in values["verdicts"]]

    source = (resource("analysis") / "report.py").read_text(encoding="utf-8")
    lines = "\n\n".join(f"**{verdict}**" for verdict in verdicts)
    tags = ["space"] if explored is not None else []
    document = notebook.from_percent(source, {"question": values["question"], "verdicts": lines}, tags)
    try:
        seconds = notebook.execute(document, study.folder)
        note = f"The notebook derived the numbers of this page a second time in {seconds:.0f} s and agreed."
    except notebook.KernelError as error:
        note = f"The notebook beside this page was not executed: {error}."
    notebook.write(document, study.folder / "report.ipynb")

    digests = [
        (name, sha256_file(study.folder / name))
        for name in ("study.json", "results.parquet", "significance.csv")
    ]
    values |= {"replication": analysis.replication, "digests": digests, "notebook_note": note}
    text = html.render(values, drawn, resource("analysis"))
    html.write(text, study.folder / "report.html")
    return {"verdicts": verdicts, "missing": collected.missing, "digests": dict(digests)}
