"""``vlmablate logs``: per-sample logs of other harnesses into our tests, and our scores into their format."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmablate import verbs
from vlmablate.errors import UserError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

    from vlmablate.evaluation.logs.table import Imported, Scored

HELP = """\
usage: vlmablate logs import ARM/SEED=LOG [...] --out FILE.parquet
       vlmablate logs export FILE.parquet --out FOLDER

  import    sample logs of lmms-eval and evaluated tables of VLMEvalKit, as a table for `vlmablate analyze`
  export    the scores of a study, or of any such table, as sample logs of lmms-eval

`vlmablate logs import --help` and `vlmablate logs export --help` say more."""

IMPORT = """\
usage: vlmablate logs import ARM[/SEED][:BENCHMARK]=LOG [...] --out FILE.parquet

Joins the logs of several models, sample by sample, into one table of example scores, and prints the command that tests
it. What cannot be paired is refused: other questions, other targets, a benchmark that one model lacks.

  ARM          what is compared: a model, or a choice in its design; the first one is proposed as the baseline
  SEED         the number of the training run, for models that were trained several times (default 0)
  LOG          of lmms-eval (--log_samples): <date>_samples_<task>.jsonl, or the folder of a model with one per task
               of VLMEvalKit: the table with scores, …_results, …_auxmatch or …_<judge>_result (.tsv, .csv, .json, and
               .xlsx where openpyxl is installed; PRED_FORMAT=tsv makes it write .tsv)
  BENCHMARK    its name, where the file does not tell it
  --out FILE   where the table goes; must not exist

Samples are paired by doc_id or index, which number the questions of one version of a data set.

examples:
  vlmablate logs import llava=logs/llava prism=logs/prism --out results.parquet
  vlmablate logs import llava/0=run0/20260301_120000_samples_gqa.jsonl \\
      llava/1=run1/20260302_120000_samples_gqa.jsonl prism/0=… --out results.parquet
  vlmablate logs import llava:TextVQA_VAL=llava_TextVQA_VAL_results.tsv prism:TextVQA_VAL=… --out results.parquet"""

EXPORT = """\
usage: vlmablate logs export FILE.parquet --out FOLDER

Writes results.parquet of a study (or of `vlmablate logs import`) as logs of lmms-eval: for each run a folder
<arm>__<context>__s<seed> with <date>_samples_<benchmark>.jsonl, one line per example, and <date>_results.json with the
means. Ids, clusters and the run stand in a field "vlmablate" of each line, so that `vlmablate logs import` reads them
back as they were.

  --out FOLDER   a new folder"""

ACTIONS = ("export", "import")


def run(arguments: Sequence[str]) -> int:
    """``vlmablate logs``. Raises `verbs.Help` when help is asked for, UserError for a mistake."""
    if not arguments or arguments[0] in ("-h", "--help"):
        raise verbs.Help(HELP)
    if arguments[0] not in ACTIONS:
        raise unknown_name("action", arguments[0], ACTIONS, "vlmablate logs")
    text = IMPORT if arguments[0] == "import" else EXPORT
    words, given = verbs.read_words(arguments[1:], text, values=("--out",), least=1)
    if "--out" not in given:
        raise UserError(f"where is the result to go? Write --out\n{text}")
    out = Path(given["--out"]).expanduser()
    if out.exists():
        raise UserError(f"{out} exists; name another, or move it away")
    if arguments[0] == "import":
        if out.suffix != ".parquet":
            raise UserError(f"--out must end in .parquet, got {out}")
        print("\n".join(import_logs(words, out)))
    else:
        if len(words) > 1:
            raise UserError(f"one table at a time, got {', '.join(words)}")
        print("\n".join(export_logs(Path(words[0]).expanduser(), out)))
    return 0


def import_logs(words: Sequence[str], out: Path) -> list[str]:
    """Read the logs that the words of the command line name, and write the long table.

    Returns what to print: what there is, what to know of it, and the command that goes on.

    Raises UserError, and DataError for what stands in a log, as the readers of `vlmablate.evaluation.logs` do.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlmablate import files
    from vlmablate.evaluation.logs.table import long_table
    from vlmablate.report.collect import SCHEMA

    imported = long_table([each for word in words for each in _named_logs(word)])
    table = pa.Table.from_pandas(imported.table, schema=SCHEMA, preserve_index=False)
    with files.write_with(out) as temporary:
        pq.write_table(table.replace_schema_metadata(None), temporary, compression="zstd")
    return [
        *_overview(imported),
        *(f"note: {note}" for note in imported.notes),
        f"written: {out}",
        f"to test it: {_analyze(imported, out)}",
    ]


def _named_logs(word: str) -> list[Scored]:
    """The logs that ARM[/SEED][:BENCHMARK]=LOG names.

    Raises UserError for a word of another form, and for a file or folder that is not there.
    """
    from vlmablate.evaluation.logs import lmms_eval, vlmevalkit
    from vlmablate.evaluation.logs.table import Scored

    name, equals, text = word.partition("=")
    run, colon, benchmark = name.partition(":")
    arm, slash, seed = run.rpartition("/")
    if not slash:
        arm, seed = run, "0"
    if not (equals and text and arm and seed.isdecimal()) or (colon and not benchmark):
        raise UserError(
            f"cannot read '{word}': write ARM=LOG, ARM/SEED=LOG or ARM/SEED:BENCHMARK=LOG, SEED a whole number"
        )
    path = Path(text).expanduser()
    if path.is_dir():
        if benchmark:
            raise UserError(f"{word}: a benchmark is named for one file, and {path} is a folder")
        found = [lmms_eval.read(each) for each in lmms_eval.sample_files(path)]
    elif not path.is_file():
        raise UserError(f"{word}: there is no file or folder {path.absolute()}")
    elif path.suffix == ".jsonl":
        found = [lmms_eval.read(path, benchmark or None)]
    else:
        found = [vlmevalkit.read(path, benchmark or None)]
    return [Scored(arm, int(seed), log) for log in found]


def _overview(imported: Imported) -> list[str]:
    table = imported.table
    runs = table[["arm", "seed"]].drop_duplicates()
    lines = [f"{len(runs)} runs of {runs['arm'].nunique()} arms"]
    for benchmark, metrics in imported.metrics.items():
        rows = table[(table["benchmark"] == benchmark) & (table["metric"] == metrics[0])]
        means = rows.groupby("arm", sort=False)["score"].mean()
        shown = ", ".join(f"{arm} {100 * mean:.2f}" for arm, mean in means.items())
        examples, clusters = rows["example_id"].nunique(), rows["cluster_id"].nunique()
        lines.append(f"  {benchmark}: {examples:,} samples in {clusters:,} clusters; {metrics[0]}: {shown}")
    return lines


def _analyze(imported: Imported, out: Path) -> str:
    choices = [
        f"metric.{benchmark}={metrics[0]}"
        for benchmark, metrics in imported.metrics.items()
        if len(metrics) > 1
    ]
    baseline = imported.table["arm"].iloc[0]
    return shlex.join(["vlmablate", "analyze", f"results={out}", f"baseline={baseline}", *choices])


def export_logs(path: Path, out: Path) -> list[str]:
    """Write the runs of a long table as logs of lmms-eval into the folder `out`. Returns what to print.

    Raises UserError for a file that cannot be read, and DataError for one that lacks a column.
    """
    import os
    import shutil

    from vlmablate import files

    table = _results(path)
    date = datetime.now().strftime("%Y%m%d_%H%M%S")
    temporary = out.with_name(f"{files.TEMPORARY_PREFIX}{os.getpid()}-{out.name}")
    lines = []
    try:
        for (arm, context, seed), of_run in table.groupby(["arm", "context", "seed"], sort=False):
            model = f"{arm}__{context}__s{seed}".replace("/", "_")
            sizes = _write_run(path, of_run, temporary / model, date)
            lines.append(f"  {model}: {', '.join(f'{name} ({n:,})' for name, n in sizes.items())}")
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return [f"logs of lmms-eval in {out}:", *lines]


def _write_run(path: Path, of_run: pd.DataFrame, folder: Path, date: str) -> dict[str, int]:
    """Write the logs of one run. Returns benchmark -> examples."""
    from vlmablate import files
    from vlmablate.evaluation.logs import lmms_eval

    means: dict[str, dict[str, float]] = {}
    sizes: dict[str, int] = {}
    for benchmark, rows in of_run.groupby("benchmark", sort=False):
        scores = _scores(path, rows)
        text = _text(rows, scores)
        files.write_bytes(folder / f"{date}_samples_{benchmark}.jsonl", text.encode())
        of_each = rows.groupby("metric", sort=False)["score"].mean()
        means[str(benchmark)] = {str(name): float(score) for name, score in of_each.items()}
        sizes[str(benchmark)] = len(scores)
    summary = lmms_eval.results_summary(folder.name, date, means, sizes)
    files.write_json(folder / f"{date}_results.json", summary)
    return sizes


def _results(path: Path) -> pd.DataFrame:
    import pandas as pd

    from vlmablate.errors import DataError
    from vlmablate.report.collect import SCHEMA

    if not path.is_file():
        raise UserError(f"there is no file {path.absolute()}; a study has results.parquet in its folder")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # of pyarrow: ArrowInvalid is a ValueError
        raise UserError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    absent = [name for name in SCHEMA.names if name not in table.columns]
    if absent:
        raise DataError(f"{path} lacks the columns {', '.join(absent)} of results.parquet")
    if not len(table):
        raise DataError(f"{path} has no rows")
    return table


def _scores(path: Path, rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Example -> its scores by metric, in the order of the ids. Raises DataError for an example that is there twice."""
    from vlmablate.errors import DataError

    found: dict[str, dict[str, float]] = {}
    for example_id, metric, score in zip(rows["example_id"], rows["metric"], rows["score"], strict=True):
        scores = found.setdefault(example_id, {})
        if metric in scores:
            raise DataError(f"{path}: one run scores {example_id} twice by {metric}")
        scores[metric] = float(score)
    return dict(sorted(found.items()))


def _text(rows: pd.DataFrame, scores: dict[str, dict[str, float]]) -> str:
    from vlmablate.evaluation.logs import lmms_eval

    once = rows.drop_duplicates("example_id").set_index("example_id", drop=False)
    records: dict[str, Any] = {str(row["example_id"]): row for row in once.to_dict("records")}
    return "".join(
        lmms_eval.sample_line(doc_id, records[example_id], of_example) + "\n"
        for doc_id, (example_id, of_example) in enumerate(scores.items())
    )
