"""``vlmablate evaluate``: published benchmarks put to finished models.

This module reads the command line, scores what was answered, and writes the files; the questions are put by
:mod:`vlmablate.evaluation.runner`. Heavy modules are imported once there is something to do, so that ``--help`` and
mistakes are answered at once.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmablate.arguments import key_values, whole_number
from vlmablate.errors import UserError, unknown_name
from vlmablate.files import write_json, write_with
from vlmablate.paths import home

if TYPE_CHECKING:
    from vlmablate.evaluation.published import Asking
    from vlmablate.evaluation.runner import Checkpoint
    from vlmablate.training.ranks import Ranks

HELP = """\
Put published benchmarks to finished models, and score every answer as the official scorers do.

usage: vlmablate evaluate checkpoint=MODEL benchmark=NAME[,NAME ...] folder=ROOT [KEY=VALUE ...]

the model
  checkpoint=MODEL          a run of yours (study/arm/s0, or the first characters of its id), a step, the folder of
                            one, or a folder that LlavaForConditionalGeneration of transformers reads
  checkpoint.ARM=MODEL      several, to be compared: one of these for each; checkpoint.ARM/SEED=MODEL where an arm was
                            trained several times
  template=NAME             how prompts are written; a run knows its own, a LLaVA needs one (LLaVA-1.5: vicuna_v1.5)
  image=after_bos|mark      where the picture stands: behind the first token (default for runs), or in a line in front
                            of the question (default for a LLaVA)
  resize=NAME               another transform than the model's own: letterbox, resize_naive, resize_crop, …

the benchmarks
  benchmark=NAME,...        {tasks}
  folder=ROOT               holds a folder for each, by these names; RefCOCO, RefCOCO+ and RefCOCOg share refcoco, and
                            both TextVQAs textvqa. Each as its authors publish it: conf/benchmark/published.yaml
                            safety_probes has none: it comes with the package
  folders.NAME=FOLDER       the folder of one benchmark, if it lies elsewhere
  slim=N                    ask N questions of each, always the same; a larger N contains a smaller one
  variants.NAME=VARIANT     another way to read and score its answers; a wrong name lists those there are
  frames.NAME=FRAME         what numbers of a box are shares of: square (what the model saw) or picture
  verbosity=true            tell as well how long written answers are beside those of people (extra_words, words_ratio)

how
  out=FOLDER                where files go (default: ./evaluation)
  device=cpu|cuda  precision=fp32|bf16  threads=N (prepare pictures; default 2)
  batch=N                   tokens and patches that are read at once (default 8192): less where memory runs out, more
                            on a large GPU

examples
  vlmablate evaluate checkpoint=my-study/letterbox/s0 benchmark=pope,vqav2 folder=/data slim=1024
  vlmablate evaluate checkpoint=./llava-1.5-7b-hf template=vicuna_v1.5 benchmark=gqa folder=/data device=cuda
  vlmablate evaluate checkpoint.naive=k3xw checkpoint.letterbox=p2ma benchmark=refcoco folder=/data
  torchrun --nproc-per-node 8 -m vlmablate.evaluate …      the same on eight GPUs

Pictures are read once for all that is asked about them. Answers are kept in out/answers as they are given: a command
that was killed goes on where it was, one that is finished asks nothing, and one with more benchmarks or arms asks only
these. Writes results.parquet (a row for every answer and metric of what the command names, fit for vlmablate analyze)
and summary.json."""

RESULTS, SUMMARY = "results.parquet", "summary.json"
PLAIN = (
    "checkpoint", "template", "image", "resize", "benchmark", "folder", "slim", "verbosity", "out", "device",
    "precision", "threads", "batch",
)  # fmt: skip
PREFIXES = ("checkpoint", "folders", "variants", "frames")
DEVICES = ("cpu", "cuda")
IMAGES = ("after_bos", "mark")
EXIT_INTERRUPTED = 130
_TOLD_EVERY_S = 30.0
_FIGURES = 4
"""Further figures of a benchmark that the terminal shows."""


@dataclass(frozen=True)
class Arm:
    """A model that is asked: the name and the seed under which its scores stand."""

    name: str
    seed: int
    checkpoint: str


@dataclass(frozen=True)
class Arguments:
    """The command line, checked for form. root: of the benchmarks that are not in `folders`."""

    arms: tuple[Arm, ...]
    benchmarks: tuple[str, ...]
    root: Path | None
    folders: Mapping[str, Path]
    variants: Mapping[str, str]
    frames: Mapping[str, str]
    slim: int | None
    verbosity: bool
    template: str | None
    image: str | None
    resize: str | None
    out: Path
    device: str
    precision: str
    threads: int
    batch: int | None


def parse(argv: Sequence[str]) -> Arguments:
    """Read the arguments. Raises UserError for a word that is no KEY=VALUE, a key that is unknown, missing or given
    twice, and a value that is wrong by its form."""
    given, named = key_values(argv, PLAIN, PREFIXES)
    names = [name.strip() for name in given.get("benchmark", "").split(",") if name.strip()]
    if not names:
        raise UserError("benchmark=NAME is missing, one or several with commas; --help lists them")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"benchmark={name} is given twice")
    for prefix in ("folders", "variants", "frames"):
        for name in named[prefix]:
            if name not in names:
                raise unknown_name("benchmark", name, names, f"{prefix}.{name}")
    root = Path(given["folder"]).expanduser() if "folder" in given else None
    if root is None:
        _check_folders([name for name in names if name not in named["folders"]])
    return Arguments(
        arms=_arms(given.get("checkpoint"), named["checkpoint"]),
        benchmarks=tuple(names),
        root=root,
        folders={name: Path(folder).expanduser() for name, folder in named["folders"].items()},
        variants=named["variants"],
        frames=named["frames"],
        slim=whole_number("slim", given["slim"], 1) if "slim" in given else None,
        verbosity=_one_of("verbosity", given.get("verbosity", "false"), ("true", "false")) == "true",
        template=given.get("template"),
        image=_one_of("image", given["image"], IMAGES) if "image" in given else None,
        resize=given.get("resize"),
        out=Path(given.get("out", "evaluation")).expanduser().absolute(),
        device=_one_of("device", given.get("device", "cpu"), DEVICES),
        precision=given.get("precision", "fp32"),
        threads=whole_number("threads", given.get("threads", "2"), 1),
        batch=whole_number("batch", given["batch"], 1) if "batch" in given else None,
    )


def _check_folders(names: Sequence[str]) -> None:
    """Raises UserError for a benchmark that is not there, and for one that lies in a folder."""
    from vlmablate.evaluation.tasks import task_named

    missing = [name for name in names if task_named(name).folder]
    if missing:
        raise UserError(
            f"folder=ROOT is missing, the folder that holds one for each benchmark; or folders.{missing[0]}=FOLDER"
        )


def _arms(single: str | None, several: Mapping[str, str]) -> tuple[Arm, ...]:
    if (single is None) == (not several):
        raise UserError(
            "name the model with checkpoint=MODEL, or several with checkpoint.ARM=MODEL each; --help says more"
        )
    if single is not None:
        return (Arm(single.rstrip("/"), 0, single),)
    arms = []
    for key, word in several.items():
        name, _, seed = key.rpartition("/") if "/" in key else (key, "", "0")
        arms.append(Arm(name, whole_number(f"the seed of checkpoint.{key}", seed, 0), word))
    if len({(arm.name, arm.seed) for arm in arms}) < len(arms):
        raise UserError("two checkpoints have the same arm and seed")
    return tuple(arms)


def _one_of(key: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise unknown_name("value", value, known, key)
    return value


def run(argv: Sequence[str]) -> int:
    """The evaluate verb; returns the exit code. Raises UserError for mistakes."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        from vlmablate.evaluation.tasks import TASKS

        print(HELP.format(tasks=_wrapped(sorted(TASKS))))
        return 0
    arguments = parse(argv)
    if (arguments.out / RESULTS).exists() and not (arguments.out / SUMMARY).exists():
        raise UserError(
            f"{arguments.out / RESULTS} is not of an evaluation and would be overwritten: name another folder with "
            "out=FOLDER"
        )
    try:
        return _evaluate(arguments)
    except KeyboardInterrupt:
        print(
            "\ninterrupted; the answers so far are kept, and the same command goes on from there",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED


def _wrapped(names: Sequence[str]) -> str:
    import textwrap

    return textwrap.fill(" ".join(names), 92).replace("\n", "\n" + " " * 28)


def _evaluate(arguments: Arguments) -> int:
    from vlmablate.evaluation.published import asking

    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    asked, notes = asking(
        arguments.benchmarks,
        arguments.folders,
        arguments.variants,
        arguments.frames,
        arguments.slim,
        arguments.root or Path(),
        verbosity=arguments.verbosity,
    )
    if rank == 0:
        for note in notes:
            print(note, file=sys.stderr)
    from vlmablate.evaluation.checkpoint_models import checkpoint_of
    from vlmablate.orchestration.context import StepContext
    from vlmablate.training.ranks import ranks_of
    from vlmablate.vlm.features_step import check_precision

    check_precision(arguments.precision, arguments.device)
    image: Any = arguments.image
    checkpoints = {
        arm: checkpoint_of(home(), arm.checkpoint, arguments.template, image, arguments.resize)
        for arm in arguments.arms
    }
    context = StepContext(
        execution={"device": arguments.device},
        attempt=1,
        assets=arguments.out,
        out=arguments.out,
        rank=rank,
        world_size=size,
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )
    rows: list[tuple[Any, ...]] = []
    said: list[dict[str, Any]] = []
    with ranks_of(context) as ranks:
        for arm, checkpoint in checkpoints.items():
            found, summary = _score(arguments, arm, checkpoint, asked, ranks)
            rows += found
            said.append(
                {"arm": arm.name, "seed": arm.seed, "checkpoint": arm.checkpoint,
                 "identity": checkpoint.identity(), "benchmarks": summary}
            )  # fmt: skip
    if rank == 0:
        _write(rows, said, notes, arguments)
        print("\n".join(_told(said, arguments.out)))
    return 0


def _score(
    arguments: Arguments, arm: Arm, checkpoint: Checkpoint, asked: Sequence[Asking], ranks: Ranks
) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """Rows of the table and a summary of each benchmark, for one model; nothing on other ranks than 0."""
    from vlmablate.evaluation.answers_store import FOLDER
    from vlmablate.evaluation.generation import CELLS_AT_ONCE
    from vlmablate.evaluation.published import scored
    from vlmablate.evaluation.runner import put_all

    what = arm.name if ranks.size == 1 else f"{arm.name} (the first of {ranks.size} ranks)"
    with _progress(what, ranks.rank == 0) as progress:
        given = put_all(
            checkpoint,
            asked,
            arguments.out / FOLDER,
            ranks,
            precision=arguments.precision,
            threads=arguments.threads,
            cells_at_once=arguments.batch or CELLS_AT_ONCE,
            progress=progress,
        )
    if not given:
        return [], {}
    rows, summary = scored(asked, given)
    return [(arm.name, arm.seed, *row) for row in rows], summary


def _write(
    rows: Sequence[tuple[Any, ...]],
    said: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    arguments: Arguments,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vlmablate.evaluation.scores import COLUMNS

    columns = zip(*rows, strict=True)
    table = pa.table(
        {name: list(column) for name, column in zip(("arm", "seed", *COLUMNS), columns, strict=True)}
    )
    with write_with(arguments.out / RESULTS) as target:
        pq.write_table(table, target, compression="zstd")
    record = {
        "precision": arguments.precision,
        "slim": arguments.slim,
        "notes": list(notes),
        "arms": list(said),
    }
    write_json(arguments.out / SUMMARY, record)


def _told(said: Sequence[Mapping[str, Any]], out: Path) -> list[str]:
    """What the terminal shows: a line for each arm and benchmark, and how to go on."""
    from vlmablate.analyze import text_table

    rows = []
    for one in said:
        for name, found in one["benchmarks"].items():
            figures = {**found.get("further", {}), **found.get("summary", {})}
            shown = [f"{key} {value:.3f}" for key, value in figures.items() if value is not None][:_FIGURES]
            arm = (
                one["arm"]
                if len(said) == len({each["arm"] for each in said})
                else f"{one['arm']}/{one['seed']}"
            )
            rows.append([
                str(arm), name, f"{found['n']:,}", f"{100 * found['mean']:.2f}", f"{100 * found['majority']:.2f}",
                found["metric"], ", ".join(shown),
            ])  # fmt: skip
    head = ["model", "benchmark", "n", "score", "constant answer", "metric", "further figures"]
    lines = [*text_table(head, rows), "", f"{out / RESULTS}", f"{out / SUMMARY}"]
    arms = list(dict.fromkeys(one["arm"] for one in said))
    if len(arms) > 1:
        metrics = {name: found["metric"] for name, found in said[0]["benchmarks"].items()}
        words = [f"results={out / RESULTS}", f"baseline={arms[0]}"]
        words += [f"metric.{name}={metric}" for name, metric in metrics.items()]
        lines += ["", "to compare them:", f"  vlmablate analyze {shlex.join(words)}"]
    return lines


@contextmanager
def _progress(what: str, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A function that is told (questions answered, all): a bar with the time left, or now and then a line."""
    if not shown:
        yield lambda done, total: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _lines(what, time.monotonic)


def _lines(what: str, clock: Callable[[], float]) -> Callable[[int, int], None]:
    began = last = clock()

    def told(done: int, total: int) -> None:
        nonlocal last
        now = clock()
        if now - last < _TOLD_EVERY_S and done < total:
            return
        last = now
        left = (now - began) * (total - done) / done
        print(f"{what}: {done:,} of {total:,} questions, {left:,.0f} s left", file=sys.stderr, flush=True)

    return told


if __name__ == "__main__":
    from vlmablate.cli import main

    raise SystemExit(main(["evaluate", *sys.argv[1:]]))
