"""``python -m vlmablate.calibrate results=FILE``: can the verdicts be trusted for data of this shape?

This module reads the command line, prints and writes; the simulation is :mod:`vlmablate.stats.calibration`. Heavy
modules are imported once there is something to do, so that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmablate.arguments import fractions, key_values, score_range, setting_values, whole_number
from vlmablate.errors import UserError, unknown_name
from vlmablate.stats.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from vlmablate.stats.calibration import Calibration, Progress
    from vlmablate.stats.declaration import Design

HELP = """\
Calibrate the tests for data of the shape of yours: how often do they err when the truth is known?

usage: python -m vlmablate.calibrate results=FILE_OR_STUDY [baseline=ARM] [KEY=VALUE ...]

From the scores it estimates how many seeds, benchmarks, examples and clusters there are, how much scores spread
between seeds, how that spread correlates between benchmarks, and how noisy single examples are. Then it draws
thousands of studies of that shape in which the arms are equally good (or differ by exactly the margin) and runs
the tests of this package on every one. A test that keeps its promise calls equal arms different in alpha of the
studies; an interval holds the truth in 1 - alpha of them. The differences between the arms play no part, so a
calibration may be made, and acted upon, before the verdicts are looked at.

  results=FILE           a table of scores, CSV, TSV or Parquet, one row per training run and example; the columns
                         and their meaning are those of: python -m vlmablate.analyze --help
  results=STUDY          or the name of a study under $VLMABLATE_HOME (default ./outputs); see: vlmablate status
  baseline=ARM           the arm that the others are compared with (a study knows its own)
  repetitions=2000       simulated studies; 2,000 take half a minute to a few minutes and place an error rate of
                         .05 within .015
  seed=0                 equal seeds give equal results
  out=FOLDER             writes calibration.csv and calibration.json there (default: into the study's folder; for
                         a file nothing is written)

about a file
  columns.OURS=THEIRS    how a column is called there: columns.arm=model columns.cluster_id=image
  score_range=LOW,HIGH   range of the scores (default 0,1); score_range=0,100 for points
  metric.BENCH=NAME      the metric of a benchmark that has several
  majority.BENCH=SCORE   what always giving the most frequent answer scores, in the unit of the scores; a benchmark
                         on which the baseline is not signal_margin above it is left out

how the verdicts are made (a study has declared it; these words ask what another declaration would do)
  alpha=0.05  margin=2 (points that matter)  signal_margin=10  alternative=two-sided|greater|less
  correction=holm|hochberg|bh|by  paired_seeds=false (true: runs of one seed share their data order)

examples
  python -m vlmablate.calibrate results=image_resize-tiny
  python -m vlmablate.calibrate results=scores.csv baseline=letterbox score_range=0,100
  python -m vlmablate.calibrate results=scores.parquet baseline=base columns.arm=model columns.cluster_id=image out=.

How to read it: "value" has to lie in "target"; rows without a target promise nothing and are there to compare with.
One seed per arm cannot be calibrated: nothing is known then of the spread between seeds, and no test can know it.
"""

PLAIN = ("results", "baseline", "repetitions", "seed", "out", "score_range")
PREFIXES = ("columns", "metric", "majority")
DECLARED = tuple(field.name for field in fields(Settings) if field.name not in ("seed", "power"))
"""What a verdict depends on; the power and the seed of an analysis change no verdict."""

EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Arguments:
    """The command line, checked for form. declared: the settings that were given; majority: fractions."""

    results: str
    baseline: str | None = None
    repetitions: int = 2000
    seed: int = 0
    out: Path | None = None
    score_range: tuple[float, float] = (0.0, 1.0)
    columns: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, str] = field(default_factory=dict)
    majority: Mapping[str, float] = field(default_factory=dict)
    declared: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, known: Settings) -> Settings:
        """The settings with what was given. Raises UserError for values of the wrong kind or size."""
        try:
            return Settings.from_mapping({**asdict(known), **self.declared})
        except UserError as error:  # a sweep's config calls them analysis.alpha and so on
            raise UserError(str(error).replace("analysis.", "")) from None


def parse(argv: list[str]) -> Arguments:
    """Read the arguments; names of arms, columns and benchmarks are checked against the table later.

    Raises:
        UserError: for a word that is no key=value, an unknown or repeated key, a missing results=, and values that
            cannot be read or make no sense.
    """
    given, named = key_values(argv, (*PLAIN, *DECLARED), PREFIXES)
    if "results" not in given:
        raise UserError("which scores? Name a table or a study: results=scores.csv (more with --help)")
    low, high = score_range(given.get("score_range", "0,1"))
    arguments = Arguments(
        results=given["results"],
        baseline=given.get("baseline"),
        repetitions=whole_number("repetitions", given.get("repetitions", "2000"), 100),
        seed=whole_number("seed", given.get("seed", "0"), 0),
        out=Path(given["out"]).expanduser().absolute() if "out" in given else None,
        score_range=(low, high),
        columns=named["columns"],
        metrics=named["metric"],
        majority=fractions(named["majority"], "majority", low, high),
        declared=setting_values({name: given[name] for name in DECLARED if name in given}),
    )
    arguments.settings(Settings())
    return arguments


@dataclass(frozen=True)
class Source:
    """The scores, what was declared about them, and the folder where the result belongs (None: nowhere)."""

    results: pd.DataFrame
    design: Design
    folder: Path | None


def load(arguments: Arguments) -> Source:
    """Read the table or the study that results= names.

    Raises:
        UserError: for a name that is neither, and whatever is wrong with the table.
    """
    from vlmablate.paths import home
    from vlmablate.stats.tablefiles import SUFFIXES

    path = Path(arguments.results).expanduser()
    if path.name.lower().endswith(SUFFIXES) or path.is_file():
        return _of_file(path, arguments)
    studies = home() / "studies"
    known = sorted(found.parent.name for found in studies.glob("*/study.json"))
    if arguments.results not in known:
        raise UserError(
            f"results={arguments.results} is neither a file ({', '.join(SUFFIXES)}) nor a study\n"
            f"{unknown_name('study', arguments.results, known, str(studies))}"
        )
    return _of_study(studies / arguments.results, arguments)


def _of_file(path: Path, arguments: Arguments) -> Source:
    from vlmablate.stats.longtable import design_from_table, read_long_table

    results = read_long_table(path, arguments.columns, score_range=arguments.score_range)
    design = design_from_table(
        results,
        baseline=arguments.baseline,
        metrics=arguments.metrics,
        majority=arguments.majority,
        settings=arguments.settings(Settings()),
    )
    return Source(results, design, None)


def _of_study(folder: Path, arguments: Arguments) -> Source:
    for what, given in (
        ("columns.", arguments.columns),
        ("metric.", arguments.metrics),
        ("majority.", arguments.majority),
    ):
        if given:
            raise UserError(f"{what}NAME= is for files; the study {folder.name} has declared it")
    if arguments.score_range != (0.0, 1.0):
        raise UserError(f"score_range= is for files; the study {folder.name} has fractions")
    import pandas as pd

    from vlmablate.files import read_json
    from vlmablate.paths import home
    from vlmablate.report.build import declare
    from vlmablate.report.collect import Collected
    from vlmablate.report.study import Study

    needed = [folder / "results.parquet", folder / "benchmarks.json"]
    absent = [path.name for path in needed if not path.is_file()]
    if absent:
        raise UserError(
            f"the study {folder.name} has no {' and no '.join(absent)} yet; write them with: "
            f"vlmablate report {folder.name}"
        )
    study = Study.load(folder, home())
    facts = read_json(needed[1])
    collected = Collected(pd.read_parquet(needed[0]), facts["missing_runs"], facts["benchmarks"])
    if study.compared is not study:  # a design space is calibrated on what its verdict uses
        study = study.compared
        collected = collected.of(study)
    design = declare(study, collected)
    baseline = arguments.baseline or design.baseline
    if baseline not in design.arms:
        raise unknown_name("baseline", baseline, design.arms, f"the study {folder.name}")
    design = replace(design, baseline=baseline, settings=arguments.settings(design.settings))
    return Source(collected.results, design, folder)


def show(calibration: Calibration) -> None:
    """Print the shape, the table of checks, a sentence per check, and what follows for the verdicts."""
    from rich.console import Console
    from rich.table import Table

    from vlmablate.stats.calibration.record import describe
    from vlmablate.stats.calibration.simulated_examples import EXAMPLES_CAP

    title = f"{calibration.repetitions:,} simulated studies, seed {calibration.seed}"
    table = Table(title=title, title_justify="left")
    table.add_column("check")
    table.add_column("estimates")
    table.add_column("value", justify="right")
    table.add_column("target", justify="right")
    table.add_column("kept")
    for row in calibration.table.to_dict("records"):
        promised = not math.isnan(float(row["target_low"]))
        target = f"{row['target_low']:.3f} to {row['target_high']:.3f}" if promised else "-"
        kept = ("yes" if row["ok"] else "[bold]NO[/bold]") if promised else "-"
        value = f"{row['value']:.3f} +- {row['mc_se']:.3f}"
        table.add_row(str(row["check"]), str(row["estimates"]), value, target, kept)
    # A pipe has no width of its own; 80 columns would break the names of the checks.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    for line in describe(calibration.shape):
        console.print(line, markup=False)
    console.print(table)
    console.print(
        f"Examples are simulated with at most {EXAMPLES_CAP} per benchmark; seed effects are scaled so that they weigh "
        "against the examples' noise as in the full data.\n"
    )
    for sentence in calibration.sentences:
        console.print(f"- {sentence}", markup=False)
    console.print("\nCan verdicts about data of this shape be trusted?")
    for sentence in calibration.conclusion:
        console.print(sentence, markup=False, style="bold")


def write(calibration: Calibration, folder: Path) -> list[Path]:
    """Write calibration.csv and calibration.json into `folder`; returns their paths. Raises DiskFull, and UserError
    for a folder that cannot be written."""
    from vlmablate.files import write_json, write_with
    from vlmablate.stats.calibration.record import as_json

    paths = [folder / "calibration.csv", folder / "calibration.json"]
    try:
        with write_with(paths[0]) as temporary:
            calibration.table.to_csv(temporary, index=False, lineterminator="\n")
        write_json(paths[1], as_json(calibration))
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise UserError(
            f"cannot write into {folder}: {error.strerror}; name another folder with out=FOLDER"
        ) from error
    return paths


@contextmanager
def _progress(repetitions: int) -> Iterator[Progress | None]:
    """A bar on stderr while somebody is watching it, otherwise one line."""
    if not sys.stderr.isatty():
        print(f"simulating {repetitions:,} studies", file=sys.stderr, flush=True)
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=None)

        def report(name: str, done: int, total: int) -> None:
            bar.update(task, description=name, completed=done, total=total)

        yield report


def run(argv: list[str]) -> int:
    """The calibrate verb; returns the exit code. Raises UserError for mistakes."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        print(HELP, end="")
        return 0
    arguments = parse(argv)
    source = load(arguments)
    from vlmablate.stats.calibration import calibrate, shape_of

    settings = source.design.settings
    shape = shape_of(source.results, source.design)
    try:
        with _progress(arguments.repetitions) as report:
            calibration = calibrate(
                shape,
                repetitions=arguments.repetitions,
                alpha=settings.alpha,
                margin=settings.margin,
                seed=arguments.seed,
                progress=report,
            )
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    show(calibration)
    folder = arguments.out or source.folder
    if folder is not None:
        print("\nwritten: " + ", ".join(str(path) for path in write(calibration, folder)))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m vlmablate.calibrate``: a mistake is one message on stderr and exit code 2."""
    from vlmablate.cli import main as cli

    return cli(["calibrate", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
