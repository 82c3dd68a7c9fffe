"""``python -m vlmablate.analyze``: the statistics of a sweep for anybody's table of example scores.

This module reads the command line and writes the files; the numbers come from :mod:`vlmablate.stats`. Heavy
modules are imported once there is something to do, so that ``--help`` and mistakes are answered at once. Files
are made in a folder of their own beside the target and moved there when all of them are finished.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vlmablate.arguments import fractions, key_values, score_range, setting_values
from vlmablate.errors import UserError
from vlmablate.files import TEMPORARY_PREFIX, read_json, sha256_file, write_json, write_with
from vlmablate.stats.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from vlmablate.report.analysis_page import Source
    from vlmablate.stats.declaration import Design
    from vlmablate.stats.table import Analysis

HELP = """\
Test what a table of example scores can bear: does an arm differ from the baseline, by how much, how sure is
that, and what would settle it. Any table will do; no sweep, no GPU and no downloads are needed.

usage: python -m vlmablate.analyze results=FILE baseline=ARM [KEY=VALUE ...]

the table, CSV, TSV (also with .gz) or Parquet: one row for every arm, training run and example
  arm           what is compared: a model, or a choice in its design
  benchmark     which test set the example belongs to
  example_id    the same example has the same id in all arms; rows are paired by it, never by their order
  score         of this one example: right or wrong (1 or 0), VQA accuracy, IoU, ...
  seed          the training run. Without it every arm counts as trained once: then these checkpoints can be
                compared, but nothing can be said about training again
  cluster_id    what related questions share, as a rule their picture. Without it every example stands alone
  context, metric, split, question, target    used if they are there

what to compare
  results=FILE            the table
  baseline=ARM            the arm that all others are compared with; a wrong name lists the arms
  columns.OURS=THEIRS     how a column is called in the table: columns.arm=model columns.score=hit
  score_range=LOW,HIGH    range of the scores (default 0,1); score_range=0,100 for points
  axis=NAME               what the arms differ in, for the title (default arm)
  metric.BENCH=NAME       the metric of a benchmark that has several
  majority.BENCH=SCORE    what always giving the most frequent answer scores, in the unit of the scores; a benchmark
                          on which the baseline is not signal_margin above it is shown and decides nothing
  family.BENCH=NAME       benchmarks of one family count as one when asking about other benchmarks
  out=FOLDER              where the files go (default: ./<name of FILE>_analysis)

how to decide; to be chosen before the scores are seen
  alpha=0.05  margin=2 (points that matter)  signal_margin=10  power=0.8  alternative=two-sided|greater|less
  correction=holm|hochberg|bh|by  paired_seeds=false (true: runs of one seed share their data order)  seed=0

examples
  python -m vlmablate.analyze results=scores.csv baseline=letterbox
  python -m vlmablate.analyze results=all.parquet baseline=LLaVA columns.arm=model columns.benchmark=dataset \\
      columns.example_id=index columns.cluster_id=image columns.score=hit
  python -m vlmablate.analyze results=all.csv baseline=A score_range=0,100 margin=1 majority.POPE=50 \\
      family.RefCOCO=refer family.RefCOCOg=refer

Prints the verdicts. Writes analysis.html (one file), analysis.ipynb (executed; derives the numbers a second
time), significance.csv (every test) and further tables, the scores as results.parquet, figures/ and design.json.
"""

RECORD = "design.json"
"""Written last; tells an earlier analysis from somebody else's folder."""

MADE_BY = "vlmablate.analyze"

FILES = {
    "analysis.html": "this page",
    "analysis.ipynb": "derives the numbers again",
    "significance.csv": "every test",
    "sensitivity.csv": "the contrasts that decide, with other suites",
    "pairwise.csv": "all pairs of arms",
    "components.csv": "where the scores vary",
    "improvement.csv": "how often a run of an arm is the better one",
    "duplicates.csv": "questions asked more than once",
    "null_p.csv": "runs of the baseline compared with each other",
    "mde_curve.csv": "what more seeds would show",
    "results.parquet": "every score",
    RECORD: "what was declared",
}
"""Every file at the top of the folder that can be this command's own, with what it holds."""

PLAIN = ("results", "baseline", "out", "axis", "score_range")
PREFIXES = ("columns", "metric", "majority", "family")

EXIT_INTERRUPTED = 130

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Set to 1 before numpy is imported, unless they are set: the many small matrix products of the tests gain nothing
from more threads, and on a machine that is also used by others they wait for each other, six times as long."""

MOST_SENTENCES = 8
"""With more contrasts the terminal shows how many came out how, and the page has the sentences."""

COPIED_ROWS = 1_000_000
"""Rows of the copy that are written at a time, so that it costs little memory."""


@dataclass(frozen=True)
class Arguments:
    """The command line, checked for form; `majority` are fractions, `words` the arguments as they were given."""

    results: Path
    baseline: str | None
    out: Path
    axis: str
    score_range: tuple[float, float]
    columns: Mapping[str, str]
    metrics: Mapping[str, str]
    majority: Mapping[str, float]
    families: Mapping[str, str]
    settings: Settings
    words: tuple[str, ...]

    def command(self) -> str:
        """The command that asks for the same thing; fit for copying into a shell."""
        return shlex.join(["python", "-m", MADE_BY, *self.words])


def parse(argv: Sequence[str]) -> Arguments:
    """Read the arguments; names of arms, columns and benchmarks are checked against the table later.

    Raises UserError for a word that is no KEY=VALUE, an unknown or repeated key, an empty or wrong value, and a
    command without results=.
    """
    names = tuple(field.name for field in fields(Settings))
    given, named = key_values(argv, (*PLAIN, *names), PREFIXES)
    if "results" not in given:
        raise UserError(
            "results=FILE is missing: the table of scores, CSV, TSV or Parquet; --help shows its columns"
        )
    results = Path(given["results"]).expanduser()
    out = Path(given.get("out", f"{_stem(results)}_analysis")).expanduser()
    low, high = score_range(given.get("score_range", "0,1"))
    try:
        settings = Settings.from_mapping(
            setting_values({name: given[name] for name in names if name in given})
        )
    except UserError as error:  # a sweep's config calls them analysis.alpha and so on
        raise UserError(str(error).replace("analysis.", "")) from None
    return Arguments(
        results=results,
        baseline=given.get("baseline"),
        out=out.absolute(),
        axis=given.get("axis", "arm"),
        score_range=(low, high),
        columns=named["columns"],
        metrics=named["metric"],
        majority=fractions(named["majority"], "majority", low, high),
        families=named["family"],
        settings=settings,
        words=tuple(argv),
    )


def _stem(path: Path) -> str:
    """The file's name without its endings, of which there may be two (.csv.gz)."""
    name = path.name
    while Path(name).suffix.lower() in (".gz", ".csv", ".tsv", ".parquet", ".pq"):
        name = Path(name).stem
    return name


def earlier_files(folder: Path) -> list[str]:
    """The files that an earlier analysis left in `folder`; none for a folder that is new or empty.

    Raises UserError if the folder cannot take the files: it is a file, it cannot be written, or it holds other
    things and no earlier analysis. Other things beside an earlier analysis are left alone.
    """
    another = "name another folder with out=FOLDER"
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{parent} is a file, so the analysis cannot be written to {folder}; {another}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{parent} may not be written; {another}")
    held = [path.name for path in folder.iterdir()] if folder.exists() else []
    held = sorted(name for name in held if not name.startswith(TEMPORARY_PREFIX))
    if not held:
        return []
    try:
        record = read_json(folder / RECORD)
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or record.get("made_by") != MADE_BY:
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        raise UserError(
            f"{folder} holds other things ({', '.join(held[:3])}{more}) and no earlier analysis, so nothing is "
            f"written there; {another}"
        )
    listed = [name for name in record.get("files") or [] if _is_own(str(name))]
    foreign = [name for name in FILES if name in held and name not in listed]
    if foreign:
        raise _in_the_way(folder / foreign[0])
    return listed


def _in_the_way(path: Path) -> UserError:
    return UserError(
        f"{path} was not made by the earlier analysis and would be overwritten; move it away, or name another folder "
        "with out=FOLDER"
    )


def _is_own(name: str) -> bool:
    """Whether a name can be a file of this command, so that no record can make it delete anything else."""
    parts = PurePosixPath(name).parts
    return name in FILES or (len(parts) == 2 and parts[0] == "figures" and parts[1].endswith(".png"))


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that vanishes at the end, with whatever is still in it."""
    temporary = folder.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}-{folder.name}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(made: Path, folder: Path, earlier: Sequence[str]) -> None:
    """Move the finished files of `made` into `folder`, the record last; those of an `earlier` analysis that are
    not made any more go. Raises UserError, with nothing moved, if a file of somebody else is in the way."""
    names = [path.relative_to(made).as_posix() for path in sorted(made.rglob("*")) if path.is_file()]
    names.sort(key=lambda name: name == RECORD)
    for name in names:
        if name not in earlier and (folder / name).exists():
            raise _in_the_way(folder / name)
    for name in sorted({*earlier} - {*names}):
        (folder / name).unlink(missing_ok=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, folder / name)


@contextmanager
def _stage(text: str) -> Iterator[None]:
    """Say on stderr what is being done, and how long it took; on a terminal with a running clock."""
    started = time.monotonic()
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            progress.add_task(text, total=None)
            yield
        print(f"{text}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
        return
    print(text, end="", file=sys.stderr, flush=True)
    try:
        yield
        print(f": {time.monotonic() - started:.1f} s", end="", file=sys.stderr)
    finally:
        print(file=sys.stderr, flush=True)


def copy_results(results: pd.DataFrame, path: Path) -> None:
    """Write the long table as Parquet, a part at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = pa.Table.from_pandas(results.iloc[:COPIED_ROWS], preserve_index=False)
    schema = first.schema.remove_metadata()
    with (
        write_with(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", dictionary_pagesize_limit=2**26) as writer,
    ):
        writer.write_table(first.cast(schema))
        for start in range(COPIED_ROWS, len(results), COPIED_ROWS):
            part = results.iloc[start : start + COPIED_ROWS]
            writer.write_table(pa.Table.from_pandas(part, schema=schema, preserve_index=False))


def write(analysis: Analysis, source: Source, arguments: Arguments, folder: Path) -> dict[str, Any]:
    """Write the tables, figures, notebook, page and record into `folder`, which holds results.parquet already;
    returns the values of the page.

    Raises DiskFull, and nbclient's CellExecutionError if the notebook's own derivation disagrees with
    significance.csv.
    """
    from importlib.metadata import version

    from vlmablate.paths import resource
    from vlmablate.report import analysis_page, figures, html, notebook

    with _stage("writing the tables"):
        for name in FILES:
            table = getattr(analysis, Path(name).stem, None) if name.endswith(".csv") else None
            if table is not None and (len(table) or name == "significance.csv"):
                with write_with(folder / name) as temporary:
                    table.to_csv(temporary, index=False, lineterminator="\n")
    with _stage("drawing the figures"):
        drawn = figures.save_analysis(analysis, folder / "figures")

    libraries = ("vlmablate", "numpy", "scipy", "pandas")
    versions = [(name, version(name)) for name in libraries]
    values = analysis_page.page(analysis, source, arguments.command(), versions)
    record = {
        "made_by": MADE_BY,
        "versions": dict(versions),
        "command": arguments.command(),
        "input": {"name": source.name, "sha256": source.sha256, "scores": source.rows},
        "columns": dict(arguments.columns),
        "score_range": list(arguments.score_range),
        "declared_with_the_command": sorted(analysis_page.given_settings(arguments.settings)),
        "design": asdict(analysis.design),
        "signal": [name for name, signal in analysis.signal.items() if signal.carries],
    }
    write_json(folder / RECORD, record)
    text = (resource("analysis") / "analyze.py").read_text(encoding="utf-8")
    sentences = "\n\n".join(f"**{verdict['text']}**" for verdict in values["verdicts"])
    document = notebook.from_percent(text, {"title": values["title"], "verdicts": sentences})
    with _stage("deriving the numbers a second time in the notebook"):
        try:
            seconds = notebook.execute(document, folder)
            note = (
                f"The notebook derived the numbers of this page a second time in {seconds:.0f} s and agreed."
            )
        except notebook.KernelError as error:
            note = f"The notebook beside this page was not executed: {error}."
    notebook.write(document, folder / "analysis.ipynb")

    made = [name for name in FILES if (folder / name).exists()]
    values |= {
        "notebook_note": note,
        "digests": [(name, sha256_file(folder / name)) for name in ("results.parquet", "significance.csv")],
        "files": [*((name, FILES[name]) for name in made), ("figures/", "the pictures of this page")],
    }
    with _stage("writing the page"):
        page = html.render(values, drawn, resource("analysis"), template="analyze.html.j2")
        html.write(page, folder / "analysis.html")
    files = [*FILES, *(path.relative_to(folder).as_posix() for paths in drawn.values() for path in paths)]
    present = sorted(name for name in files if (folder / name).exists())
    digests = {name: sha256_file(folder / name) for name in present if name != RECORD}
    write_json(folder / RECORD, {**record, "files": present, "sha256": digests})
    return values


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines of plain text."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def summary(analysis: Analysis, values: Mapping[str, Any]) -> list[str]:
    """What the terminal shows: the verdicts, a table for each level that speaks, the caveats."""
    from collections import Counter

    from vlmablate.report.analysis_page import suite_cells

    verdicts, contexts = values["verdicts"], analysis.design.contexts
    lines = []
    if len(verdicts) <= MOST_SENTENCES:
        lines += [line for verdict in verdicts for line in (verdict["text"].replace("`", ""), "")]
    else:
        counts = Counter(verdict["verdict"] for verdict in verdicts)
        order = ("better", "worse", "equivalent", "unresolved")
        said = ", ".join(f"{counts[name]} {name}" for name in order if counts[name])
        lines += [
            f"{len(verdicts)} contrasts with {analysis.design.baseline}: {said}. The page has a sentence on each.",
            "",
        ]
    headings = {
        "design": "Retraining, what the verdicts are about (level: design; unit: training run)",
        "items": "New pictures, these trained checkpoints only (level: items; unit: cluster of examples)",
    }
    head = ["arm", "context", "difference", f"{values['level']} % interval", "p"]
    head += [f"{values['correction']} p", "verdict", "n"]
    for level, heading in headings.items():
        rows = []
        for cell in suite_cells(analysis, level):
            n = f"{cell['n_seeds']} seeds" if cell["n_seeds"] != 1 else "1 seed"
            n = n if level == "design" else f"{cell['n_examples']} examples, {cell['n_clusters']} clusters"
            row = [
                cell[name] for name in ("arm", "context", "delta", "interval", "p", "p_adjusted", "verdict")
            ]
            rows.append([*row, n])
        if not rows:
            continue
        kept = [i for i, name in enumerate(head) if name != "context" or len(contexts) > 1]
        shown = text_table([head[i] for i in kept], [[row[i] for i in kept] for row in rows])
        lines += [heading, *(f"  {line}" for line in shown), ""]
    lines += [str(values["suite"]), ""] if values["suite"] else []
    if values["caveats"]:
        lines += ["Caveats", *(f"- {caveat}" for caveat in values["caveats"]), ""]
    return lines


def load(arguments: Arguments) -> tuple[pd.DataFrame, Design, Source]:
    """The scores, what is compared, and what is known of the file. Raises UserError for whatever is wrong with it."""
    from vlmablate.report.analysis_page import Source
    from vlmablate.stats.longtable import design_from_table, read_long_table

    results = read_long_table(
        arguments.results, arguments.columns, score_range=arguments.score_range, metrics=arguments.metrics
    )
    design = design_from_table(
        results,
        baseline=arguments.baseline,
        axis=arguments.axis,
        metrics=arguments.metrics,
        majority=arguments.majority,
        families=arguments.families,
        settings=arguments.settings,
    )
    _check_arms(design)
    source = Source(
        name=arguments.results.name,
        sha256=sha256_file(arguments.results),
        rows=len(results),
        columns=arguments.columns,
        score_range=arguments.score_range,
        questions="question" in results,
    )
    return results, design, source


def _check_arms(design: Design) -> None:
    """Raise UserError for a single arm."""
    if len(design.arms) < 2:
        raise UserError(
            f"the table holds one arm only, {design.baseline}, so there is nothing to compare; add the rows of "
            "another, or name the column that tells arms apart: columns.arm=COLUMN"
        )


def run(argv: list[str]) -> int:
    """The analyze verb; returns the exit code. Raises UserError for mistakes."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print(HELP, end="")
        return 0
    arguments = parse(argv)
    earlier = earlier_files(arguments.out)
    if arguments.out in arguments.results.absolute().parents:
        raise UserError(
            f"results={arguments.results} lies in the folder that would be written, {arguments.out}; name another "
            "folder with out=FOLDER"
        )
    for variable in THREADS:
        os.environ.setdefault(variable, "1")
    try:
        _analyze(arguments, earlier)
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _analyze(arguments: Arguments, earlier: Sequence[str]) -> None:
    with _stage(f"reading {arguments.results.name}"):
        results, design, source = load(arguments)
    from vlmablate.stats.table import analyse

    with _stage(f"testing {len(design.arms)} arms on {source.rows:,} scores"):
        analysis = analyse(results, design)
    try:
        with _staging(arguments.out) as folder:
            with _stage("copying the scores"):
                copy_results(results, folder / "results.parquet")
            del results
            values = write(analysis, source, arguments, folder)
            publish(folder, arguments.out, earlier)
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise UserError(
            f"cannot write into {arguments.out}: {error.strerror}; name another folder with out=FOLDER"
        ) from error
    print("\n".join(summary(analysis, values)))
    print(f"tables: {arguments.out / 'significance.csv'} and others beside it")
    print(f"page:   {arguments.out / 'analysis.html'}")


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m vlmablate.analyze``: a mistake is one message on stderr and exit code 2."""
    from vlmablate.cli import main as cli

    return cli(["analyze", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
