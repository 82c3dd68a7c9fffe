"""The ``vlmablate`` command. Verbs are told apart before anything heavy is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from vlmablate.errors import EXIT_USER_ERROR, UserError, unknown_name

LIVED_WITH = ("cancel", "export", "gc", "reproduce", "retry", "status", "tail", "why")
"""Verbs of :mod:`vlmablate.verbs`."""
VERBS = tuple(sorted((*LIVED_WITH, "analyze", "calibrate", "cost", "fetch", "replay", "report", "sweep")))

HELP = """\
vlmablate: does a design choice of a vision-language model matter, by how much, how sure are we,
and what did it cost?

usage: vlmablate VERB [...]

  sweep axis=NAME ...      train every choice of one design question, compare, report
                           (the same as python -m vlmablate.sweep)
  status [STUDY] [--watch] what is done, running, queued and failed; needs no running sweep
  why RUN                  why each of its steps was, or would be, computed or reused
  tail RUN [-f]            the log of the step at work
  cancel STUDY|RUN ...     stop it, and keep it from being started again
  retry STUDY|RUN ...      take a cancellation or a failure back
  reproduce RUN            the way to its numbers again: commit, changes, packages, parts, command, digests
  gc [--yes]               what can be deleted, with sizes
  export RUN --layout L --out FOLDER
                           its model for transformers (llava_hf), Prismatic or the original LLaVA
  report STUDY             write the report of a study again, also of an unfinished one
  analyze results=FILE baseline=ARM ...
                           the same tests and page for any table of example scores, no sweep needed
  calibrate results=FILE   how often these tests err for data of this shape (a file, or the name of a study)
  cost study=prismatic     operations, GPU-hours and memory of training the paper's models, from their sizes
  replay [benchmarks=..]   derive the published p-values of Prismatic VLMs again (reproduction, not evidence)
  fetch [--list] [SET..]   download the pretrained parts and pictures, or list them with their source,
                           licence, size and state

first steps:
  vlmablate sweep --help                           the questions there are
  vlmablate sweep axis=image_resize mode=plan      what would be done, and how long it takes
  vlmablate sweep axis=image_resize                do it; the report is named at the end
  vlmablate sweep axis=image_resize scale=smoke    the whole way in seconds, without downloads

Results: $VLMABLATE_HOME (default ./outputs). Downloads: $VLMABLATE_CACHE (default: the user's cache folder).
"""


def main(argv: list[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit code: 0 done, 1 some work failed, 2 a mistake of the user, 130 interrupted.
    """
    try:
        code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        # `vlmablate status | head` closed our output; that is no error. Nothing more can be written there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(version("vlmablate"))
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb == "sweep":
        from vlmablate.sweep import run

        return run(rest)
    if verb in LIVED_WITH:
        from vlmablate import verbs

        run_verb: Callable[[list[str]], int] = getattr(verbs, verb)
        try:
            return run_verb(rest)
        except verbs.Help as asked:
            print(asked)
            return 0
    if verb == "report":
        return _report(rest)
    if verb == "fetch":
        return _fetch(rest)
    if verb == "analyze":
        from vlmablate.analyze import run as analyze

        return analyze(rest)
    if verb == "calibrate":
        from vlmablate.calibrate import run as calibrate

        return calibrate(rest)
    if verb == "cost":
        from vlmablate.cost import run as cost

        return cost(rest)
    if verb == "replay":
        from vlmablate.replay import run as replay

        return replay(rest)
    raise unknown_name("verb", verb, VERBS)


def _wants_help(arguments: list[str], text: str) -> bool:
    if any(word in ("-h", "--help") for word in arguments):
        print(text)
        return True
    return False


REPORT_HELP = """\
usage: vlmablate report STUDY

Writes results.parquet, significance.csv, report.ipynb and report.html of a study from what is there.
Names of studies: vlmablate status"""


def _report(arguments: list[str]) -> int:
    if _wants_help(arguments, REPORT_HELP):
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError(REPORT_HELP)
    from vlmablate.orchestration.controller import rebuild_report
    from vlmablate.paths import home

    made = rebuild_report(arguments[0], home())
    for verdict in made["verdicts"]:
        print(verdict)
    print(f"report: {made['html']}")
    return 0


def _fetch(arguments: list[str]) -> int:
    from vlmablate.data.fetch import main as fetch

    try:
        return fetch(arguments)
    except SystemExit as end:  # argparse ends this way for --help and for words it cannot read
        return int(end.code or 0)


if __name__ == "__main__":
    raise SystemExit(main())
