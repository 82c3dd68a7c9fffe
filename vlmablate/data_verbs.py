"""``vlmablate data``: is published data whole (`verify`), and was what is evaluated on trained on (`overlap`)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vlmablate import files, verbs
from vlmablate.errors import UserError, unknown_name

if TYPE_CHECKING:
    from vlmablate.data.overlap import Pictures
    from vlmablate.data.overlap_folders import Used
    from vlmablate.data.overlap_table import Row
    from vlmablate.data.picture_looks import Progress
    from vlmablate.data.verify.folder import Entry
    from vlmablate.evaluation.protocol import Example

HELP = """\
usage: vlmablate data verify NAME=FOLDER [...]
       vlmablate data overlap NAME=FOLDER NAME=FOLDER ... [...]

  verify    is every record well formed, and does every picture that one names decode to its end?
  overlap   which pictures of benchmarks are also in the training data?

`vlmablate data verify --help` and `vlmablate data overlap --help` say more."""

_NAMES = """\
NAME is a source of training data or a benchmark; FOLDER holds its files as they are published:
  training data  {sources}
  benchmarks     {benchmarks}"""

_SECOND = """\
Pictures are decoded by --workers processes (default: one for each core). What was seen of them is kept in the download
cache by path, size and time of change: a second run is quick, and one that was interrupted goes on."""

VERIFY = f"""\
usage: vlmablate data verify NAME=FOLDER [--report FILE] [--keep FILE] [--missing FILE]
                             [--write-manifest FILE | --manifest FILE] [--workers N]

Reads every record and decodes every picture that one names. Told are: malformed records (file and line), records that
occur twice, and pictures that are missing, empty, cut off, damaged, or no pictures. Nothing stops at the first fault.

  --report FILE          every finding as a line of JSON: kind, what, file, line, record, picture, repair
  --keep FILE            the ids of the records that nothing is wrong with, one a line
  --missing FILE         the pictures to fetch again, relative to FOLDER, one a line (for rsync --files-from, aria2c …)
  --write-manifest FILE  size and SHA-256 of every file of the folder
  --manifest FILE        compare the folder with such a list: what changed, appeared, went away

Damage inside a JPEG file that still decodes is seen by checksums alone.

exit code: 0 nothing found, 1 something found, 2 a mistake in the command

{_SECOND}

{{names}}

examples:
  vlmablate data verify llava_v15_mix665k=/data/llava
  vlmablate data verify vqav2=/data/vqav2 --report found.jsonl --missing fetch-again.txt
  vlmablate data verify pope=/data/pope --write-manifest pope.manifest.jsonl"""

OVERLAP = f"""\
usage: vlmablate data overlap NAME=FOLDER NAME=FOLDER ... [--pairs FILE] [--study STUDY] [--ids-only] [--workers N]

Every benchmark against every source of training data: how many evaluation pictures are training pictures, by the id of
their data set (COCO, Visual Genome, Open Images), and how many more by perceptual hash (the same photograph under
another name, at another size or quality), and which share of the questions they touch.

  --pairs FILE    every pair of pictures as a line of JSON: benchmark, source, evaluation, training, by, id or distance
  --study STUDY   show the table in the report of that study as well
  --ids-only      compare ids and open no picture: seconds, and the pictures need not be there

exit code: 0 no overlap, 1 overlap, 2 a mistake in the command

{_SECOND}

{{names}}

examples:
  vlmablate data overlap lvis_instruct_4v=/data/lvis vqav2=/data/vqav2 pope=/data/pope --pairs pairs.jsonl
  vlmablate data overlap llava_v15_mix665k=/data/llava gqa=/data/gqa --ids-only"""


def run(arguments: Sequence[str]) -> int:
    """``vlmablate data``. Raises `verbs.Help` when help is asked for, UserError for a mistake."""
    known = {"verify": _verify, "overlap": _overlap}
    if not arguments or arguments[0] in ("-h", "--help"):
        raise verbs.Help(HELP)
    if arguments[0] not in known:
        raise unknown_name("verb of `vlmablate data`", arguments[0], known)
    try:
        return known[arguments[0]](arguments[1:])
    except KeyboardInterrupt:
        print("interrupted; what was looked at is kept, the same command goes on from there", file=sys.stderr)
        return 130


def _verify(arguments: Sequence[str]) -> int:
    lists = ("--report", "--keep", "--missing", "--write-manifest", "--manifest")
    words, given = _words(arguments, VERIFY, values=(*lists, "--workers"))
    if "--write-manifest" in given and "--manifest" in given:
        raise UserError(
            "--write-manifest writes a manifest and --manifest compares with one: give one of them"
        )
    named = _folders(words)
    if len(named) != 1:
        raise UserError(VERIFY.format(names=_known()))
    [(name, folder)] = named.items()
    from vlmablate.data.verify import findings, manifest
    from vlmablate.data.verify.folder import sound, verify

    workers, begun = _workers(given), time.monotonic()
    repeated = "duplicate_record" if name in _sources() else "duplicate_id"
    with _bar("pictures") as progress:
        seen = verify(_entries(name, folder), folder, repeated=repeated, workers=workers, progress=progress)
    found = seen.findings
    with _bar("files") as progress:
        if "--manifest" in given:
            found += manifest.compare(folder, Path(given["--manifest"]), workers=workers, progress=progress)
        if "--write-manifest" in given:
            count = manifest.write_manifest(
                folder, Path(given["--write-manifest"]), workers=workers, progress=progress
            )
            print(f"{given['--write-manifest']}: {count:,} files")
    if "--report" in given:
        findings.write_report(found, Path(given["--report"]))
    if "--missing" in given:
        _write_lines(Path(given["--missing"]), findings.to_fetch(found))
    if "--keep" in given:
        _write_lines(Path(given["--keep"]), sound(_entries(name, folder), found))
    took = time.monotonic() - begun
    print(f"{name} in {folder}: {seen.records:,} records, {seen.pictures:,} pictures, {took:.1f} s")
    print(_printable(findings.table(found)) or "nothing is wrong")
    return 1 if found else 0


def _overlap(arguments: Sequence[str]) -> int:
    words, given = _words(
        arguments, OVERLAP, flags=("--ids-only",), values=("--pairs", "--study", "--workers")
    )
    named = _folders(words)
    trained = {name: folder for name, folder in named.items() if name in _sources()}
    asked = {name: folder for name, folder in named.items() if name not in trained}
    if not trained or not asked:
        lacks = "no source of training data" if not trained else "no benchmark"
        raise UserError(f"there is {lacks} to compare\n{OVERLAP.format(names=_known())}")
    place = _study_table(given["--study"]) if "--study" in given else None
    from vlmablate.data.overlap import matches, pair_lines, row
    from vlmablate.data.overlap_folders import by_id_only, in_folder, used
    from vlmablate.data.overlap_table import text_table, write_table

    workers = _workers(given)

    def opened(name: str, folder: Path) -> tuple[Sequence[Used], Pictures]:
        pictures = used(_trained(name, folder) if name in trained else _asked(name, folder))
        if "--ids-only" in given:
            return pictures, by_id_only(pictures)
        with _bar(name) as progress:
            return pictures, in_folder(folder, pictures, workers=workers, progress=progress)

    sources = {name: opened(name, folder)[1] for name, folder in trained.items()}
    rows: list[Row] = []
    lines: list[str] = []
    for benchmark, folder in asked.items():
        pictures, evaluation = opened(benchmark, folder)
        times = {number: one.times for number, one in enumerate(pictures)}
        for source, training in sources.items():
            found = matches(evaluation, training)
            rows.append(row(benchmark, source, evaluation, training, times, found))
            if "--pairs" in given:
                lines += map(json.dumps, pair_lines(benchmark, source, evaluation, training, found))
    if "--pairs" in given:
        _write_lines(Path(given["--pairs"]), lines)
    if place is not None:
        write_table(rows, place)
        print(f"in the report of the study from now on: vlmablate report {given['--study']}")
    print(text_table(rows))
    return 1 if any(one.touched for one in rows) else 0


def _entries(name: str, folder: Path) -> Iterator[Entry]:
    """The records of a source or a benchmark, malformed ones among them."""
    from vlmablate.data.verify.folder import Entry

    if name in _sources():
        from vlmablate.data.records.formats import parts_in
        from vlmablate.data.records.index import walk

        for part in parts_in(name, folder):
            for element, record, problem in walk(part):
                if record is None:
                    yield Entry("", None, "", str(part.path), element.line, problem)
                else:
                    once = repr((record.picture, record.turns))
                    yield Entry(record.id, record.picture, once, str(part.path), element.line)
        return
    from vlmablate.evaluation.tasks.reading import telling

    told: list[UserError] = []
    try:
        with telling(told.append):
            for example in _examples(name, folder):
                yield Entry(example.example_id, example.picture, example.example_id)
    except UserError as error:  # a file that is missing or no JSON
        told.append(error)
    yield from (Entry("", None, "", problem=str(error)) for error in told)


def _trained(name: str, folder: Path) -> Iterator[tuple[str, str | None]]:
    """(picture, id) of every record with a picture. Raises UserError for a malformed record."""
    from vlmablate.data.picture_ids import known_id
    from vlmablate.data.records.formats import parts_in
    from vlmablate.data.records.index import walk

    for part in parts_in(name, folder):
        for element, record, problem in walk(part):
            if record is None:
                raise UserError(
                    f"{part.path}, line {element.line}: {problem}\n`vlmablate data verify {name}={folder}` lists all"
                )
            if record.picture is not None:
                yield record.picture, known_id(record.picture)


def _asked(name: str, folder: Path) -> Iterator[tuple[str, str | None]]:
    """(picture, id) of every question about a picture."""
    from vlmablate.data.picture_ids import shared_id

    for example in _examples(name, folder):
        if example.picture is not None:
            yield example.picture, shared_id(example.cluster_id)


def _examples(name: str, folder: Path) -> Iterator[Example]:
    from vlmablate.evaluation.tasks import task_named

    read = task_named(name).examples
    assert read is not None  # every published benchmark is read out of a folder
    return read(folder)


def _sources() -> Collection[str]:
    from vlmablate.data.records.formats import FORMATS

    return FORMATS


def _benchmarks() -> Collection[str]:
    """Those that lie in folders."""
    from vlmablate.evaluation.tasks import TASKS, task_named

    return [name for name in TASKS if task_named(name).folder]


def _known() -> str:
    return _NAMES.format(sources=" ".join(_sources()), benchmarks=" ".join(_benchmarks()))


def _words(
    arguments: Sequence[str], help_text: str, *, values: Collection[str], flags: Collection[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """As the other verbs; the names of data sets stand in the help."""
    return verbs.read_words(arguments, help_text.format(names=_known()), values=values, flags=flags)


def _folders(words: Iterable[str]) -> dict[str, Path]:
    """NAME=FOLDER of the command line. Raises UserError for an unknown name, one given twice, and no folder."""
    named: dict[str, Path] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or not folder:
            raise UserError(
                f"cannot read '{word}': data sets are given as NAME=FOLDER; --help lists the names"
            )
        known = [*_sources(), *_benchmarks()]
        if name not in known:
            raise unknown_name("data set", name, known)
        if name in named:
            raise UserError(f"{name} is given twice: {named[name]} and {folder}")
        place = Path(folder).expanduser().absolute()
        if not place.is_dir():
            raise UserError(f"{name}={folder}: there is no such folder")
        named[name] = place
    return named


def _workers(given: dict[str, str]) -> int:
    from vlmablate.data.picture_workers import cores

    text = given.get("--workers", str(cores()))
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--workers must be a whole number of at least 1, got '{text}'")
    return int(text)


def _study_table(name: str) -> Path:
    """Where the report of a study looks for the table. Raises UserError for a study that is not there."""
    from vlmablate.data.overlap_table import FILE
    from vlmablate.paths import home

    folder = home() / "studies" / name
    if not (folder / "study.json").is_file():
        studies = [path.parent.name for path in (home() / "studies").glob("*/study.json")]
        raise unknown_name("study", name, studies, str(home()))
    return folder / FILE


def _printable(text: str) -> str:
    """Halves of letters, which a damaged record may hold, as their numbers: a terminal refuses them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with (
        files.write_with(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as target,
    ):
        target.writelines(f"{line}\n" for line in lines)


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """A progress bar on stderr, where somebody looks."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
