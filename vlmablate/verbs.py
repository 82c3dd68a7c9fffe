"""The verbs people live with while sweeps run: their words, their help, and nothing heavy before it is needed."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from vlmablate.errors import UserError, unknown_name

NAMES = """\
A run is named by study/arm/s0 (seed 0; study/arm/context/s0 where there are contexts), by its id, or by the first four
or more characters of it. A study's name, or study/arm, means all of its runs. A step is named by its folder or id."""

STATUS = """\
usage: vlmablate status [STUDY] [--watch] [--json]

What is done, running, queued, failed and cancelled, with progress, speed, last loss, place and last sign of life; the
losses of the arms at equal training steps; the cause and the log of every failure; and the command that goes on.
Needs no running sweep. Slurm is asked once, and only when jobs are open; what it does not know is shown as unknown.

  --watch   redraw every 2 seconds until nothing is at work (Ctrl-C ends the looking, not the work)
  --json    {schema: 1, home, studies: [{name, state, axis, scale, runs, runs_done, steps, steps_done,
            counts: {state: steps}, controller, report, command,
            current: [{id, kind, what, state, attempts, done, total, eta_s, metrics, heartbeat_s, node, job, owner,
                       cause, log}]            steps that are neither done nor waiting
            unfinished: [{label, run_id, state, left}],
            comparisons: [{kind, context, seed, step, losses: {arm: loss}}]}]}
            states of steps: done running queued failed cancelled stopped unknown waiting;
            states of studies: done running queued unknown failed cancelled incomplete

examples:
  vlmablate status                                  all studies
  vlmablate status image_resize-tiny --watch        one study, live
  vlmablate status --json | jq '.studies[].counts'  for scripts"""

WHY = f"""\
usage: vlmablate why RUN

Why each step of a run was, is or would be computed or reused: when, where and by which command it was done, with which
code and libraries then and now; or how it failed, what it waits for, who cancelled it, what is damaged; and field by
field how it differs from the nearest step that is stored. Also says whether today's configuration is still this run.

{NAMES}

examples:
  vlmablate why image_resize-tiny/letterbox/s0
  vlmablate why k3xw                                the beginning of an id"""

TAIL = f"""\
usage: vlmablate tail RUN [-f] [-n 40] [--rank R]

The end of the log of the step at work, or of the last one.

  -f         follow it, from step to step, until nobody works on the run (Ctrl-C ends the looking, not the work)
  -n 40      how many lines of what is there
  --rank R   what rank R of a job of several ranks printed

{NAMES}

examples:
  vlmablate tail image_resize-tiny/letterbox/s0 -f
  vlmablate tail k3xw -n 200 --rank 1"""

CANCEL = f"""\
usage: vlmablate cancel STUDY|RUN... [--why TEXT] [--force]

Stop the unfinished steps and keep them from being started again, until `vlmablate retry`. Workers on this machine are
told to stop, jobs in Slurm's queue are cancelled; a training saves a checkpoint first. Steps that other unfinished runs
need are left alone (--force takes them as well). Finished steps are kept.

{NAMES}

examples:
  vlmablate cancel image_resize-tiny                the whole study
  vlmablate cancel image_resize-tiny/letterbox/s2 --why 'diverges'"""

RETRY = f"""\
usage: vlmablate retry STUDY|RUN... [--run]

Take cancellations back and forgive failures, then print the commands that compute the steps; --run gives them as well.
What is done is kept, and a training goes on from its last checkpoint.

{NAMES}

examples:
  vlmablate retry image_resize-tiny                 prints the command that goes on
  vlmablate retry image_resize-tiny/letterbox --run"""

GC = """\
usage: vlmablate gc [WHAT...] [--older-than DAYS] [--yes | --dry-run]

Lists what can be deleted, with sizes; deletes nothing without --yes. What a study, a worker or a job in the queue uses
is never touched, so it may run beside a sweep.

{categories}

  --older-than 1   leave what was changed within so many days (the default is one day)

examples:
  vlmablate gc                                      look
  vlmablate gc checkpoints quarantine --yes         delete only these
  vlmablate gc --older-than 30 --yes"""

REPRODUCE = f"""\
usage: vlmablate reproduce RUN [--compare RESULTS_FOLDER]

The way to the run's numbers again: commit and uncommitted changes, the installed packages, pretrained parts and
pictures with their digests, the command restricted to the run's axis and seed, and the expected ids and digests.
Checks whether today's code and configuration still give the same run, and if not, which fields differ.

  --compare FOLDER   compare the run with its reproduction in another results folder, file by file;
                     the exit code is 0 when every file is the same, else 1

{NAMES}

examples:
  vlmablate reproduce image_resize-tiny/letterbox/s0
  vlmablate reproduce k3xw --compare ./reproduced"""


EXPORT = f"""\
usage: vlmablate export RUN|FOLDER --layout LAYOUT --out FOLDER [--dtype float32]

Write the trained model of a run (or of a step, or of a folder with a model.json) into a new folder that other people's
code reads. What a layout has no place for is refused, with what to use instead.

layouts:
{{layouts}}

  --dtype    float32 (default) or bfloat16

{NAMES}

examples:
  vlmablate export image_resize-small/letterbox/s0 --layout prismatic --out ./exported
  vlmablate export k3xw --layout mm_projector --out ./projector --dtype bfloat16"""


def status(arguments: Sequence[str]) -> int:
    """``vlmablate status``."""
    words, given = read_words(arguments, STATUS, flags=("--json", "--watch"))
    if len(words) > 1 or len(given) > 1:
        raise UserError(STATUS)
    from vlmablate.orchestration.status import Look, read_status, render, to_json
    from vlmablate.paths import home

    name = words[0] if words else ""
    if "--watch" in given:
        from vlmablate.orchestration.watch import watch

        return watch(home(), name)
    look = Look(home())
    found = read_status(home(), name, look)
    print(to_json(found, home()) if "--json" in given else render(found, home()))
    if look.trouble:
        print(look.trouble, file=sys.stderr)
    return 0


def why(arguments: Sequence[str]) -> int:
    """``vlmablate why``."""
    words, _ = read_words(arguments, WHY, least=1, most=1)
    from vlmablate.orchestration.why import why as reasons
    from vlmablate.paths import home

    print("\n".join(reasons(home(), words[0])))
    return 0


def tail(arguments: Sequence[str]) -> int:
    """``vlmablate tail``."""
    words, given = read_words(arguments, TAIL, flags=("-f",), values=("-n", "--rank"), least=1, most=1)
    from vlmablate.orchestration.tail import tail as show
    from vlmablate.paths import home

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    lines, rank = _count(given, "-n", 40), _count(given, "--rank", 0)
    try:
        show(home(), words[0], lines=lines, follow="-f" in given, rank=rank, write=write)
    except KeyboardInterrupt:
        return 130
    return 0


def cancel(arguments: Sequence[str]) -> int:
    """``vlmablate cancel``."""
    words, given = read_words(arguments, CANCEL, flags=("--force",), values=("--why",), least=1)
    from vlmablate.orchestration.cancel import cancel as take_back
    from vlmablate.paths import home

    take_back(home(), words, given.get("--why", ""), "--force" in given, print)
    return 0


def retry(arguments: Sequence[str]) -> int:
    """``vlmablate retry``."""
    words, given = read_words(arguments, RETRY, flags=("--run",), least=1)
    from vlmablate.orchestration.retry import go_on
    from vlmablate.orchestration.retry import retry as forgive
    from vlmablate.paths import home

    commands = forgive(home(), words, print)
    if "--run" in given:
        return go_on(commands)
    for command in commands:
        print(f"to go on: {command}")
    return 0


def gc(arguments: Sequence[str]) -> int:
    """``vlmablate gc``."""
    from vlmablate.orchestration.gc import CATEGORIES, DAY_S, find, remove, size_text, table
    from vlmablate.paths import home

    listing = "\n".join(f"  {name:<14} {words}" for name, words in CATEGORIES.items())
    text = GC.format(categories=listing)
    words, given = read_words(arguments, text, flags=("--yes", "--dry-run"), values=("--older-than",))
    for word in words:
        if word not in CATEGORIES:
            raise unknown_name("kind of rubbish", word, CATEGORIES)
    if "--yes" in given and "--dry-run" in given:
        raise UserError("--yes deletes and --dry-run does not: give one of them")
    older_than_s = _days(given) * DAY_S
    items = find(home(), words or list(CATEGORIES), older_than_s, print)
    if not items:
        print(f"nothing to delete under {home()}")
        return 0
    print("\n".join(table(items, home())))
    if "--yes" in given:
        print(f"freed {size_text(remove(home(), items, print))}")
    else:
        print("nothing was deleted; to delete this: the same command with --yes")
    return 0


def reproduce(arguments: Sequence[str]) -> int:
    """``vlmablate reproduce``."""
    words, given = read_words(arguments, REPRODUCE, values=("--compare",), least=1, most=1)
    from vlmablate.orchestration.reproduce import compare
    from vlmablate.orchestration.reproduce import reproduce as recipe
    from vlmablate.paths import home

    if "--compare" in given:
        lines, same = compare(home(), words[0], Path(given["--compare"]).expanduser().absolute())
        print("\n".join(lines))
        return 0 if same else 1
    print("\n".join(recipe(home(), words[0])))
    return 0


def export(arguments: Sequence[str]) -> int:
    """``vlmablate export``."""
    from vlmablate.export import FORMATS, LAYOUTS, model_folder
    from vlmablate.export import export as write
    from vlmablate.paths import home

    text = EXPORT.format(layouts="\n".join(f"  {name:<14} {words}" for name, words in LAYOUTS.items()))
    words, given = read_words(arguments, text, values=("--layout", "--out", "--dtype"), least=1, most=1)
    if "--layout" not in given or "--out" not in given:
        raise UserError(f"an export needs --layout and --out\n{text}")
    if given["--layout"] not in LAYOUTS:
        raise unknown_name("layout", given["--layout"], LAYOUTS, "--layout")
    dtype = given.get("--dtype", FORMATS[0])
    if dtype not in FORMATS:
        raise unknown_name("number format", dtype, FORMATS, "--dtype")
    out = Path(given["--out"])
    write(model_folder(home(), words[0]), given["--layout"], out, dtype)
    print(f"{given['--layout']}: {out}")
    return 0


class Help(Exception):  # noqa: N818
    """The help of a verb was asked for; its text is the message."""


def read_words(
    arguments: Sequence[str],
    help_text: str,
    *,
    flags: Collection[str] = (),
    values: Collection[str] = (),
    least: int = 0,
    most: int | None = None,
) -> tuple[list[str], dict[str, str]]:
    """(words, {option: its value, empty for a flag}).

    Raises:
        Help: when the help is asked for.
        UserError: for an option that does not exist, one without its value, and too few or too many words.
    """
    words: list[str] = []
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-h", "--help"):
            raise Help(help_text)
        if word in flags:
            given[word] = ""
        elif name in values and equals:
            given[name] = value
        elif word in values:
            if not rest:
                raise UserError(f"{word} needs a value\n{help_text}")
            given[word] = rest.pop(0)
        elif word.startswith("-") and len(word) > 1:
            raise unknown_name("option", word, [*flags, *values, "--help"])
        else:
            words.append(word)
    if len(words) < least or (most is not None and len(words) > most):
        raise UserError(help_text)
    return words, given


def _count(given: dict[str, str], option: str, default: int) -> int:
    text = given.get(option, str(default))
    if not text.isdecimal():
        raise UserError(f"{option} must be a whole number of at least 0, got '{text}'")
    return int(text)


def _days(given: dict[str, str]) -> float:
    text = given.get("--older-than", "1")
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise UserError(f"--older-than must be a number of days of at least 0, got '{text}'")
    return days
