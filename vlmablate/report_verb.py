"""``vlmablate report``: the report of a study again, or the page over all axes of a study.

The page needs neither torch nor numpy; what a single report needs is imported when one is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vlmablate.errors import UserError, unknown_name

if TYPE_CHECKING:
    from vlmablate.report.study_page_facts import Index

HELP = """\
usage: vlmablate report STUDY
       vlmablate report study=NAME [scale=…] [group=option …]
       vlmablate report study=STUDY,STUDY,...

The first writes results.parquet, significance.csv, report.ipynb and report.html of a study from what is there.

The others write one page about several: verdicts on every benchmark, what is open and what settling it takes, what
sharing steps saved, and the paper's readings beside it. NAME is a declared study (sweeps/NAME.yaml), with the words
that its sweep was given; or name studies that exist. The page is studies/NAME/index.html below the results
(studies/overview/index.html for studies named one by one), opens from disk, and links to the reports beside it.
It computes nothing: axes that were not computed are shown with their command.

Names of studies: vlmablate status"""


def run(arguments: list[str]) -> int:
    """The report verb; returns the exit code.

    Raises:
        UserError: for anything but one study or a study= (prints the usage), and for unknown names (lists those there
            are).
    """
    if any(word in ("-h", "--help") for word in arguments):
        print(HELP)
        return 0
    if any(word.startswith("study=") for word in arguments):
        return _several(arguments)
    if len(arguments) != 1 or arguments[0].startswith("-") or "=" in arguments[0]:
        raise UserError(HELP)
    return _one(arguments[0])


def _one(study: str) -> int:
    from vlmablate.orchestration.controller import rebuild_report
    from vlmablate.paths import home

    made = rebuild_report(study, home())
    for verdict in made["verdicts"]:
        print(verdict)
    print(f"report: {made['html']}")
    return 0


def _several(arguments: list[str]) -> int:
    from vlmablate.paths import home
    from vlmablate.report.study_page import write_page

    print(f"page: {write_page(_index(arguments, home()), home())}")
    return 0


def _index(arguments: list[str], home: Path) -> Index:
    """What ``study=`` means: a declared study, else studies that exist."""
    from vlmablate.design.declarations import declaration_names
    from vlmablate.report.study_page_declared import index_of_folders, index_of_sweep

    named = next(word.partition("=")[2] for word in arguments if word.startswith("study="))
    declared = declaration_names()
    if named in declared:
        from vlmablate.sweep import asked, parse

        return index_of_sweep(asked(parse(arguments)))
    names = [name.strip() for name in named.split(",") if name.strip()]
    if len(arguments) > 1:
        raise UserError(
            f"'{' '.join(word for word in arguments if not word.startswith('study='))}' belongs to a declared study "
            f"(sweeps/: {', '.join(declared)}); studies that exist are named alone: study=STUDY,STUDY"
        )
    if len(names) == 1 and not (home / "studies" / names[0] / "study.json").exists():
        known = sorted(path.parent.name for path in (home / "studies").glob("*/study.json"))
        raise unknown_name("study", names[0], [*declared, *known], where="sweeps/ and the results")
    if not names:
        raise UserError(HELP)
    return index_of_folders(names, home)
