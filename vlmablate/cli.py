"""The ``vlmablate`` command. Verbs are told apart before anything heavy is imported."""

from __future__ import annotations

import os
import sys

from vlmablate.errors import EXIT_USER_ERROR, UserError, unknown_name

VERBS = ("analyze", "calibrate", "fetch", "replay", "report", "status", "sweep")

HELP = """\
vlmablate: does a design choice of a vision-language model matter, by how much, how sure are we,
and what did it cost?

usage: vlmablate VERB [...]

  sweep axis=NAME ...      train every choice of one design question, compare, report
                           (the same as python -m vlmablate.sweep)
  status [STUDY] [--json]  what is done, running and failed; needs no running sweep
  report STUDY             write the report of a study again, also of an unfinished one
  analyze results=FILE baseline=ARM ...
                           the same tests and page for any table of example scores, no sweep needed
  calibrate results=FILE   how often these tests err for data of this shape (a file, or the name of a study)
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
    if verb == "status":
        return _status(rest)
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
    if verb == "replay":
        from vlmablate.replay import run as replay

        return replay(rest)
    raise unknown_name("verb", verb, VERBS)


def _wants_help(arguments: list[str], text: str) -> bool:
    if any(word in ("-h", "--help") for word in arguments):
        print(text)
        return True
    return False


STATUS_HELP = """\
usage: vlmablate status [STUDY] [--json]

Studies under $VLMABLATE_HOME (default ./outputs): runs and steps done, steps at work with their progress,
failures with cause and log, and the command that goes on."""

REPORT_HELP = """\
usage: vlmablate report STUDY

Writes results.parquet, significance.csv, report.ipynb and report.html of a study from what is there.
Names of studies: vlmablate status"""


def _status(arguments: list[str]) -> int:
    if _wants_help(arguments, STATUS_HELP):
        return 0
    from vlmablate.orchestration.status import read_status, render, to_json
    from vlmablate.paths import home

    names = [word for word in arguments if word != "--json"]
    if len(names) > 1 or any(name.startswith("-") for name in names):
        raise UserError(STATUS_HELP)
    statuses = read_status(home(), names[0] if names else "")
    print(to_json(statuses) if "--json" in arguments else render(statuses, home()))
    return 0


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
