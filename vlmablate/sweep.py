"""``python -m vlmablate.sweep axis=NAME``: one design question from plan to report.

This module only reads the command line; the work is in :mod:`vlmablate.orchestration.controller`, which is
imported once there is something to do, so that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from vlmablate.errors import UserError, unknown_name

MODES = ("plan", "run")
DEFAULT_SEEDS = "3"
DEFAULT_SCALE = "tiny"
DEFAULT_LAUNCHER = "local"
_OWN = ("axis", "seeds", "scale", "mode", "launcher", "study")
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Arguments:
    """The command line of a sweep, checked for form; names are checked against the catalogue later."""

    axis: str
    seeds: tuple[int, ...]
    scale: str
    mode: str
    launcher: str
    study: str
    overrides: tuple[str, ...]

    def command(self) -> str:
        """The command that asks for the same thing, in a fixed form; fit for copying into a shell."""
        import shlex

        count = self.seeds == tuple(range(len(self.seeds)))
        seeds = str(len(self.seeds)) if count else f"[{','.join(map(str, self.seeds))}]"
        words = [f"axis={self.axis}", f"seeds={seeds}", f"scale={self.scale}"]
        if self.launcher != DEFAULT_LAUNCHER:
            words.append(f"launcher={self.launcher}")
        if self.study:
            words.append(f"study={self.study}")
        return shlex.join(["python", "-m", "vlmablate.sweep", *words, *self.overrides])


def parse_seeds(text: str) -> tuple[int, ...]:
    """``3`` means the seeds 0, 1, 2; ``[0,4]`` lists them. Raises UserError for anything else, and for
    repeats.
    """
    listed = re.fullmatch(r"\[\s*(\d+(?:\s*,\s*\d+)*)\s*,?\s*\]", text.strip())
    if listed:
        seeds = tuple(int(part) for part in listed[1].split(","))
        if len(set(seeds)) != len(seeds):
            raise UserError(f"seeds={text} names a seed twice; every seed is one independent replication")
        return seeds
    if re.fullmatch(r"[1-9]\d*", text.strip()):
        return tuple(range(int(text)))
    raise UserError(f"seeds={text}: write how many (seeds=3 means 0, 1, 2) or which (seeds=[0,4])")


def parse(argv: list[str]) -> Arguments:
    """Read the arguments of a sweep.

    Raises:
        UserError: for a word that is no ``key=value``, a repeated key, a missing axis, or an unknown mode.
    """
    own: dict[str, str] = {}
    overrides = []
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals:
            if not word.startswith("~"):
                raise UserError(f"cannot read '{word}': write key=value, for example axis=image_resize")
            overrides.append(word)
        elif key in _OWN:
            if key in own:
                raise UserError(f"{key} is given twice: {key}={own[key]} and {word}")
            own[key] = value
        else:
            overrides.append(word)
    if not own.get("axis"):
        from vlmablate.design.catalogue import questions

        listing = "\n".join(f"  axis={name:<24}{text}" for name, text in questions().items())
        raise UserError(f"which design question? Name an axis:\n{listing}")
    mode = own.get("mode", "run")
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    study = own.get("study", "")
    if study and not _STUDY_NAME.fullmatch(study):
        raise UserError(f"study={study}: a study's name is one folder name (letters, digits, '.', '_', '-')")
    return Arguments(
        axis=own["axis"],
        seeds=parse_seeds(own.get("seeds", DEFAULT_SEEDS)),
        scale=own.get("scale", DEFAULT_SCALE),
        mode=mode,
        launcher=own.get("launcher", DEFAULT_LAUNCHER),
        study=study,
        overrides=tuple(overrides),
    )


def help_text() -> str:
    """The help of the sweep command, with the questions of all axes."""
    from vlmablate.design.catalogue import questions

    listing = "\n".join(f"  axis={name:<24}{text}" for name, text in questions().items())
    return f"""\
Answer one design question of a vision-language model: train every choice with several seeds, compare, report.

usage: python -m vlmablate.sweep axis=NAME [seeds=3] [scale=tiny] [mode=run] [launcher=local] [study=NAME]
                                 [group=option ...] [key.sub=value ...]

the questions:
{listing}

  seeds=3             independent trainings of every choice: 3 means the seeds 0, 1, 2; [0,4] lists them
  scale=tiny          model and data size: tiny (pretrained parts, real pictures), or smoke (seconds,
                      no downloads)
  mode=plan           only show the steps (new, shared, done), the time they will take, and what sharing
                      them saves
  launcher=local      worker processes, as many as the cores allow; debug runs everything in this process
  study=NAME          where the results go: outputs/studies/NAME (default: axis and scale)
  analysis.margin=2   the smallest difference that matters, in points, and what else is declared before there are
                      scores (conf/analysis/); a later change computes nothing and is told in the report
  anything else       changes the configuration of every choice: a group (projector=linear) or a value
                      (stages.finetune.epochs=2); what exists is under conf/, and a mistake lists it

examples:
  python -m vlmablate.sweep axis=image_resize mode=plan             what would be done, and how long it takes
  python -m vlmablate.sweep axis=image_resize                       do it; Ctrl-C and the same command goes on
  python -m vlmablate.sweep axis=fusion seeds=5                     more seeds: only the new ones are trained
  python -m vlmablate.sweep axis=image_resize scale=smoke seeds=2   the whole way in seconds

The same command on a finished study submits nothing. Watch from elsewhere with: vlmablate status
Results go to $VLMABLATE_HOME (default ./outputs), downloads to $VLMABLATE_CACHE (default: the user's
cache folder).
"""


def run(argv: list[str]) -> int:
    """The sweep verb; returns the exit code. Raises UserError for mistakes."""
    if any(word in ("-h", "--help", "help") for word in argv):
        print(help_text(), end="")
        return 0
    arguments = parse(argv)
    from vlmablate.orchestration.controller import Controller
    from vlmablate.orchestration.study import Request

    request = Request(
        axis=arguments.axis,
        seeds=arguments.seeds,
        scale=arguments.scale,
        launcher=arguments.launcher,
        study=arguments.study,
        overrides=arguments.overrides,
        command=arguments.command(),
    )
    controller = Controller(request)
    return controller.plan() if arguments.mode == "plan" else controller.run()


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m vlmablate.sweep``: a mistake is one message on stderr and exit code 2."""
    from vlmablate.cli import main as cli

    return cli(["sweep", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
