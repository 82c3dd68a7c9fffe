"""``python -m vlmablate.replay``: the p-values that Prismatic VLMs printed, derived again from its tables.

Reproduction, not evidence. This module reads the command line and writes the files; the numbers come from
:mod:`vlmablate.stats.paper`. Heavy modules are imported once there is something to do, so that ``--help`` and
mistakes are answered at once.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmablate.arguments import key_values
from vlmablate.errors import UserError

if TYPE_CHECKING:
    from vlmablate.stats.paper import Replay

_OWN = ("benchmarks", "out")

HELP = """\
Derive the p-values that "Prismatic VLMs" (Karamcheti et al., ICML 2024) printed again from its published
tables, and show what those tables can and cannot bear. Reproduction, not evidence.

usage: python -m vlmablate.replay [benchmarks=NAME,NAME,...] [out=FOLDER]

  benchmarks=NAME,...   replay with these columns of the published tables instead of the paper's 12; a wrong
                        name lists them
  out=FOLDER            where the files go (default: $VLMABLATE_HOME/replay, ./outputs/replay)

examples:
  python -m vlmablate.replay                           all 12 comparisons, a few seconds, no downloads
  python -m vlmablate.replay benchmarks=VQAv2,GQA      what two benchmarks alone would say
  python -m vlmablate.replay out=/tmp/replay

Prints one row per comparison: the printed p, the p of the rule behind it (two-sided t over relative
differences, pairs x benchmarks pooled), the range that rounding of the tables allows, the p after Holm, the
difference in points, and s*, the SD between trainings above which that difference is not significant.

Writes replay.html, replay.ipynb (executed; derives the numbers a second time), replay.csv and the published
tables into the folder.
"""


@dataclass(frozen=True)
class Arguments:
    """The command line of a replay; benchmarks None means the paper's 12, out None the default folder."""

    benchmarks: tuple[str, ...] | None = None
    out: Path | None = None

    def folder(self) -> Path:
        """Where the files go; absolute."""
        from vlmablate.paths import home

        return self.out if self.out is not None else home() / "replay"

    def command(self) -> str:
        """The command that asks for the same thing; fit for copying into a shell."""
        words = [f"benchmarks={','.join(self.benchmarks)}"] if self.benchmarks is not None else []
        words += [f"out={self.out}"] if self.out is not None else []
        return shlex.join(["python", "-m", "vlmablate.replay", *words])


def parse(argv: list[str]) -> Arguments:
    """Read the arguments; names of benchmarks are checked against the tables later.

    Raises:
        UserError: for a word that is no key=value, an unknown or repeated key, or an empty value.
    """
    own, _ = key_values(argv, _OWN)
    names = None
    if "benchmarks" in own:
        names = tuple(name.strip() for name in own["benchmarks"].strip("[]").split(",") if name.strip())
    out = Path(own["out"]).expanduser().absolute() if "out" in own else None
    return Arguments(names, out)


def table(replay: Replay) -> list[str]:
    """The comparisons as aligned lines of plain text."""
    from vlmablate.stats.paper_words import agreement
    from vlmablate.stats.rounding import band, like_printed, short

    head = (
        "comparison",
        "printed",
        "the rule",
        "rounding band",
        "agreement",
        "Holm",
        "points",
        "s*",
        "verdict",
    )
    rows = [
        (
            str(row["comparison"]),
            str(row["printed"]),
            like_printed(row["p"], row["printed"]),
            band(row["p_low"], row["p_high"]),
            agreement({str(key): value for key, value in row.items()}),
            short(row["p_holm"], 2),
            f"{row['delta_points']:+.2f}",
            f"{row['tipping_seed_sd']:.2f}",
            str(row["verdict"]),
        )
        for row in replay.table.to_dict("records")
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def write(replay: Replay, folder: Path, command: str) -> dict[str, Any]:
    """Write the tables, figures, notebook and page into `folder`; returns {html, notebook, csv}.

    Raises DiskFull, OSError for a folder that cannot be written, and nbclient's CellExecutionError if the
    notebook's own derivation disagrees with replay.csv.
    """
    from vlmablate.files import sha256_file, write_bytes, write_json, write_with
    from vlmablate.paths import resource
    from vlmablate.report import html, notebook, replay_page
    from vlmablate.stats.paper import LABEL
    from vlmablate.stats.reference import DIGESTS, load_reference, reference_folder

    for name in DIGESTS:
        write_bytes(folder / name, (reference_folder() / name).read_bytes())
    with write_with(folder / "replay.csv") as temporary:
        replay.table.to_csv(temporary, index=False, lineterminator="\n")
    facts = {
        "label": LABEL,
        "benchmarks": list(replay.benchmarks),
        "summary": replay.summary(),
        **replay.counts,
    }
    write_json(folder / "replay.json", facts)
    rates = replay_page.error_rates()
    drawn = replay_page.save_figures(replay, rates, folder / "figures")

    source = (resource("analysis") / "replay.py").read_text(encoding="utf-8")
    document = notebook.from_percent(source, {"summary": replay.summary()})
    try:
        seconds = notebook.execute(document, folder)
        note = f"The notebook derived the p-values a second time in {seconds:.0f} s and agreed."
    except notebook.KernelError as error:
        note = f"The notebook beside this page was not executed: {error}."
    notebook.write(document, folder / "replay.ipynb")

    values = replay_page.page(replay, load_reference(), rates, command, note)
    digests = [(name, sha256_file(folder / name)) for name in (*DIGESTS, "replay.csv")]
    text = html.render({**values, "digests": digests}, drawn, resource("analysis"), template="replay.html.j2")
    html.write(text, folder / "replay.html")
    return {
        name: folder / f"replay.{end}"
        for name, end in (("html", "html"), ("notebook", "ipynb"), ("csv", "csv"))
    }


def run(argv: list[str]) -> int:
    """The replay verb; returns the exit code. Raises UserError for mistakes."""
    if any(word in ("-h", "--help", "help") for word in argv):
        print(HELP, end="")
        return 0
    arguments = parse(argv)
    from vlmablate.stats.paper import LABEL, replay

    replayed = replay(arguments.benchmarks)
    suite = "the paper's 12 benchmarks" if replayed.complete else ", ".join(replayed.benchmarks)
    print(f"{LABEL}: the p-values of Prismatic VLMs (arXiv 2402.07865 v2) on {suite}\n")
    print("\n".join(table(replayed)))
    print(f"\n{replayed.summary()}")
    print(
        "s*: the SD between trainings of one recipe (points of the mean over benchmarks) above which the difference\n"
        "is not significant at 0.05; every model was trained once, so that SD is unknown and nothing is resolved"
    )
    try:
        made = write(replayed, arguments.folder(), arguments.command())
    except (NotADirectoryError, FileExistsError, PermissionError) as error:
        raise UserError(
            f"cannot write into {arguments.folder()}: {error.strerror}; name another folder with out=FOLDER"
        ) from error
    print(f"table:    {made['csv']}\nnotebook: {made['notebook']}\npage:     {made['html']}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m vlmablate.replay``: a mistake is one message on stderr and exit code 2."""
    from vlmablate.cli import main as cli

    return cli(["replay", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
