"""The ``vlmablate`` command. Verbs are told apart before anything heavy is imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from vlmablate.errors import EXIT_USER_ERROR, UserError, unknown_name

LIVED_WITH = ("cancel", "export", "gc", "reproduce", "retry", "status", "tail", "why")
"""Verbs of :mod:`vlmablate.verbs`."""
MODULES = {
    "analyze": "vlmablate.analyze",
    "calibrate": "vlmablate.calibrate",
    "cost": "vlmablate.cost",
    "data": "vlmablate.data_verbs",
    "evaluate": "vlmablate.evaluate",
    "logs": "vlmablate.logs",
    "replay": "vlmablate.replay",
    "report": "vlmablate.report_verb",
    "track": "vlmablate.tracking.sync",
}
"""Verbs that have a module of their own, with a function `run`."""
VERBS = tuple(sorted((*LIVED_WITH, *MODULES, "fetch", "sweep")))

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
  report study=NAME        one page over all axes of a study: verdicts, open questions, cost, the paper beside it
  analyze results=FILE baseline=ARM ...
                           the same tests and page for any table of example scores, no sweep needed
  evaluate checkpoint=RUN benchmark=NAME,... folder=FOLDER
                           published benchmarks put to a finished run, or to a LLaVA of transformers
  data verify|overlap ...  what is missing or damaged in published data; which pictures are in training and evaluation
  logs import ARM=LOG ...  sample logs of lmms-eval and VLMEvalKit as a table for analyze
  logs export FILE ...     scores as sample logs of lmms-eval
  calibrate results=FILE   how often these tests err for data of this shape (a file, or the name of a study)
  cost study=prismatic     operations, GPU-hours and memory of training the paper's models, from their sizes
  track sync               send what tracking=wandb wrote while it was offline, once
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
    if verb == "fetch":
        return _fetch(rest)
    if verb not in VERBS:
        raise unknown_name("verb", verb, VERBS)
    from vlmablate import verbs

    work: Callable[[list[str]], int]
    if verb in LIVED_WITH:
        work = getattr(verbs, verb)
    else:
        work = importlib.import_module(MODULES[verb]).run
    try:
        return work(rest)
    except verbs.Help as asked:
        print(asked)
        return 0


def _fetch(arguments: list[str]) -> int:
    from vlmablate.data.fetch import main as fetch

    try:
        return fetch(arguments)
    except SystemExit as end:  # argparse ends this way for --help and for words it cannot read
        return int(end.code or 0)


if __name__ == "__main__":
    raise SystemExit(main())
