"""From a study folder to its tables, figures, notebook and page.

Order: collect -> results.parquet, benchmarks.json -> analyse -> the CSV tables -> figures/ -> report.ipynb
(executed) -> report.html -> report.json, last. A report whose inputs have not changed is not made again; finding
that out needs neither numpy nor pandas.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    "report.ipynb",
    "report.html",
)


def fingerprint(study: Study) -> str:
    """Digest of everything a report depends on: study.json, the steps' results and specs, this code, the
    templates."""
    digest = hashlib.sha256((study.folder / "study.json").read_bytes())
    for step_id in sorted(study.facts["steps"]):
        for name in ("result.json", "spec.json"):
            path = study.directory(step_id) / name
            digest.update(f"{step_id}/{name}:".encode() + (path.read_bytes() if path.exists() else b"absent"))
    package = Path(__file__).resolve().parents[1]
    analysis = resource("analysis")
    sources = [
        *package.glob("stats/*.py"),
        *package.glob("report/*.py"),
        *analysis.glob("report.*"),
        *analysis.glob("macros.*"),
    ]
    for path in sorted(sources, key=lambda path: path.name + str(path.parent.name)):
        digest.update(f"{path.name}:".encode() + path.read_bytes())
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
    state = fingerprint(study)
    record = study.folder / "report.json"
    if not force and record.exists() and all((study.folder / name).exists() for name in OUTPUTS):
        try:
            known = read_json(record)
        except ValueError:
            known = {}
        if known.get("fingerprint") == state:
            return _answer(study, known, rebuilt=False)
    known = {"fingerprint": state, **_build(study)}
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
    )


def write_tables(analysis: Any, folder: Path) -> None:
    """Write TABLES of an analysis as CSV files into `folder`, each whole or not at all."""
    for name in TABLES:
        with write_with(folder / f"{name}.csv") as temporary:
            getattr(analysis, name).to_csv(temporary, index=False, lineterminator="\n")


def _build(study: Study) -> dict[str, Any]:
    # Heavy imports stay here: a finished sweep that is started again must not pay for them.
    from vlmablate.report import collect, figures, html, notebook, page
    from vlmablate.stats.table import analyse

    collected = collect.collect(study)
    collect.write_results(collected, study.folder)
    analysis = analyse(collected.results, declare(study, collected))
    write_tables(analysis, study.folder)
    drawn = figures.save_all(study, analysis, study.folder / "figures")
    values = page.page(study, collected, analysis)
    verdicts = [verdict["text"] for verdict in values["verdicts"]]

    source = (resource("analysis") / "report.py").read_text(encoding="utf-8")
    lines = "\n\n".join(f"**{verdict}**" for verdict in verdicts)
    document = notebook.from_percent(source, {"question": values["question"], "verdicts": lines})
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
    text = html.render({**values, "digests": digests, "notebook_note": note}, drawn, resource("analysis"))
    html.write(text, study.folder / "report.html")
    return {"verdicts": verdicts, "missing": collected.missing, "digests": dict(digests)}
