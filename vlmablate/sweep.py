"""``python -m vlmablate.sweep axis=NAME``, or ``study=NAME``: design questions from plan to report.

This module only reads the command line; the work is in :mod:`vlmablate.orchestration.controller`, which is
imported once there is something to do, so that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlmablate.arguments import whole_number
from vlmablate.errors import UserError, unknown_name

if TYPE_CHECKING:
    from vlmablate.orchestration.study import Request, Sweep

MODES = ("plan", "run")
DEFAULT_SEEDS = "3"
DEFAULT_SCALE = "tiny"
DEFAULT_LAUNCHER = "local"
DEFAULT_MAX_SEEDS = "12"
REPLICATE = ("fixed", "adaptive")
DEFAULT_TRIALS = "8"
DEFAULT_SEARCHED = "24"
DEFAULT_CONFIRM = "5"
SEARCHES = ("tpe", "random")
_OWN = (
    *("axis", "seeds", "scale", "mode", "launcher", "study", "detach", "replicate", "max_seeds", "budget"),
    *("tune", "trials", "search", "confirm"),
)
_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Arguments:
    """The command line of a sweep, checked for form; names are checked against the catalogue later.

    ``axis`` is empty for a declared study; seeds and scale are None where its file is to say them. ``max_seeds`` is set
    where seeds are given out by need, with at most ``budget`` runs of every axis (None: no limit), and seeds is None.
    ``axes`` holds the axes of a design space, which ``axis`` then names together; for tune, trials, search and confirm
    see :class:`vlmablate.orchestration.study.Request`.
    """

    axis: str
    seeds: tuple[int, ...] | None
    scale: str | None
    mode: str
    launcher: str
    study: str
    overrides: tuple[str, ...]
    detach: bool = False
    max_seeds: int | None = None
    budget: int | None = None
    tune: str = ""
    trials: int = 0
    axes: tuple[str, ...] = ()
    search: str = ""
    confirm: int = 0

    def command(self) -> str:
        """The command that asks for the same thing, in a fixed form; fit for copying into a shell."""
        named = f"[{','.join(self.axes)}]" if self.axes else self.axis
        words = [f"axis={named}"] if self.axis else [f"study={self.study}"]
        if self.seeds is not None:
            words.append(f"seeds={_seeds_text(self.seeds)}")
        if self.max_seeds is not None:
            words += ["replicate=adaptive", f"max_seeds={self.max_seeds}"]
        if self.budget is not None:
            words.append(f"budget={self.budget}")
        ways = {"tune": self.tune, "search": self.search, "trials": self.trials, "confirm": self.confirm}
        words += [f"{key}={value}" for key, value in ways.items() if value]
        if self.scale is not None:
            words.append(f"scale={self.scale}")
        if self.launcher != DEFAULT_LAUNCHER:
            words.append(f"launcher={self.launcher}")
        if self.study and self.axis:
            words.append(f"study={self.study}")
        return _command(words, self.overrides)


def _command(words: Sequence[str], overrides: Sequence[str]) -> str:
    import shlex

    return shlex.join(["python", "-m", "vlmablate.sweep", *words, *overrides])


def _seeds_text(seeds: tuple[int, ...]) -> str:
    return str(len(seeds)) if seeds == tuple(range(len(seeds))) else f"[{','.join(map(str, seeds))}]"


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
        UserError: for a word that is no ``key=value``, a repeated key, a missing axis, an unknown mode, and for seeds,
            max_seeds or a budget that do not go with the way of replication.
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
    if not own.get("axis") and not own.get("study"):
        raise UserError(
            f"which design question? Name an axis:\n{_axes()}\nor a study of several:\n{_studies()}"
        )
    mode = own.get("mode", "run")
    if mode not in MODES:
        raise unknown_name("mode", mode, MODES)
    study = own.get("study", "")
    if study and not _STUDY_NAME.fullmatch(study):
        raise UserError(f"study={study}: a study's name is one folder name (letters, digits, '.', '_', '-')")
    if own.get("detach", "false") not in ("true", "false"):
        raise UserError(f"detach must be true or false, not '{own['detach']}'")
    axes = _axes_of_space(own.get("axis", ""))
    max_seeds, budget = _adaptive(own)
    ways = _ways(own, axes)
    axis = "-".join(axes) or own.get("axis", "")
    if axis:
        seeds = "1" if ways["search"] else DEFAULT_SEEDS
        usual = {"scale": DEFAULT_SCALE} | ({"seeds": seeds} if max_seeds is None else {})
        own = {**usual, **own}
    return Arguments(
        axis=axis,
        axes=axes,
        **ways,
        seeds=parse_seeds(own["seeds"]) if "seeds" in own else None,
        scale=own.get("scale"),
        mode=mode,
        launcher=own.get("launcher", DEFAULT_LAUNCHER),
        study=study,
        overrides=tuple(overrides),
        detach=own.get("detach") == "true",
        max_seeds=max_seeds,
        budget=budget,
    )


def _axes_of_space(text: str) -> tuple[str, ...]:
    """``[a,b]`` are the axes of a design space; anything else is one axis, and the answer is empty."""
    if not text.startswith("["):
        return ()
    axes = tuple(part.strip() for part in text.removeprefix("[").removesuffix("]").split(","))
    if not text.endswith("]") or len(axes) < 2 or not all(axes):
        raise UserError(
            f"axis={text}: a design space names at least two axes, as in axis=[image_resize,stages]"
        )
    if len(set(axes)) != len(axes):
        raise UserError(f"axis={text} names an axis twice")
    return axes


def _ways(own: Mapping[str, str], axes: tuple[str, ...]) -> dict[str, Any]:
    """tune, trials, search and confirm, checked against each other."""
    tune, search = own.get("tune", ""), own.get("search", "")
    if search and search not in SEARCHES:
        raise unknown_name("search", search, SEARCHES)
    if axes and tune:
        raise UserError("tune= goes with one axis at a time; a design space is compared under one recipe")
    if axes and own.get("replicate", "fixed") != "fixed":
        raise UserError("replicate=adaptive goes with one axis; in a design space every effect uses all runs")
    for key in ("search", "confirm"):
        if key in own and not axes:
            raise UserError(f"{key}= goes with a design space, as in axis=[image_resize,stages]")
    if "trials" in own and not (tune or search):
        raise UserError("trials= counts what tune= or search= may try; neither is there")
    usual = DEFAULT_TRIALS if tune else DEFAULT_SEARCHED
    return {
        "tune": tune,
        "search": search,
        "trials": whole_number("trials", own.get("trials", usual), 2) if tune or search else 0,
        "confirm": whole_number("confirm", own.get("confirm", DEFAULT_CONFIRM), 2) if axes else 0,
    }


def _adaptive(own: Mapping[str, str]) -> tuple[int | None, int | None]:
    """(max_seeds, budget) of replicate=adaptive; (None, None) for a fixed grid."""
    replicate = own.get("replicate", "fixed")
    if replicate not in REPLICATE:
        raise unknown_name("replicate", replicate, REPLICATE)
    if replicate == "fixed":
        for key in ("max_seeds", "budget"):
            if key in own:
                raise UserError(
                    f"{key}={own[key]} is a limit of replicate=adaptive; a fixed grid has seeds=N runs of every choice"
                )
        return None, None
    if "seeds" in own:
        raise UserError(
            f"seeds={own['seeds']} asks for a fixed grid, and replicate=adaptive decides itself who gets seeds; "
            "give max_seeds=N, or leave replicate=adaptive out"
        )
    max_seeds = whole_number("max_seeds", own.get("max_seeds", DEFAULT_MAX_SEEDS), 2)
    return max_seeds, whole_number("budget", own["budget"], 1) if "budget" in own else None


def _axes() -> str:
    from vlmablate.design.catalogue import questions

    return "\n".join(f"  axis={name:<24}{text}" for name, text in questions().items())


def _studies() -> str:
    from vlmablate.design.declarations import study_questions

    return "\n".join(f"  study={name:<23}{text}" for name, text in study_questions().items())


def asked(arguments: Arguments) -> Sweep:
    """The studies that the command line asks for.

    Raises:
        UserError: for a study that is not declared (lists those that are).
    """
    from vlmablate.orchestration.study import Request, Sweep

    if arguments.axis:
        return Sweep.of(_request(arguments))
    from vlmablate.design.declarations import load_declaration

    declared = load_declaration(arguments.study)
    seeds = arguments.seeds
    if seeds is None and arguments.max_seeds is None:
        seeds = parse_seeds(declared.seeds or DEFAULT_SEEDS)
    scale = arguments.scale or declared.scale or DEFAULT_SCALE
    # A study of another scale, or with more overrides than were declared, has a name of its own.
    extra = Request(axis="", overrides=arguments.overrides, tune=arguments.tune).suffix
    name = declared.name + (f"-{scale}" if scale != (declared.scale or DEFAULT_SCALE) else "") + extra
    alone = replace(
        arguments, seeds=seeds, scale=scale, overrides=(*declared.overrides, *arguments.overrides)
    )
    requests = [_request(replace(alone, axis=axis, study=f"{name}-{axis}")) for axis in declared.axes]
    return Sweep(name, tuple(requests), arguments.command())


def _request(arguments: Arguments) -> Request:
    from vlmablate.orchestration.study import Request

    assert arguments.scale is not None
    return Request(
        axis=arguments.axis,
        seeds=arguments.seeds or (),
        max_seeds=arguments.max_seeds,
        budget=arguments.budget,
        tune=arguments.tune,
        trials=arguments.trials,
        axes=arguments.axes,
        search=arguments.search,
        confirm=arguments.confirm,
        scale=arguments.scale,
        launcher=arguments.launcher,
        study=arguments.study,
        overrides=arguments.overrides,
        command=arguments.command(),
    )


def help_text() -> str:
    """The help of the sweep command, with the questions of all axes and the declared studies."""
    return f"""\
Answer a design question of a vision-language model: train every choice with several seeds, compare, report.

usage: python -m vlmablate.sweep axis=NAME [seeds=3] [scale=tiny] [mode=run] [launcher=local] [study=NAME]
                                 [replicate=adaptive] [tune=lr] [group=option ...] [key.sub=value ...]
       python -m vlmablate.sweep axis=[NAME,NAME] [search=tpe] [...]
       python -m vlmablate.sweep study=NAME [...]

the questions:
{_axes()}

studies of several questions (sweeps/NAME.yaml), planned and computed together, reported one by one:
{_studies()}

  seeds=3             independent trainings of every choice: 3 means the seeds 0, 1, 2; [0,4] lists them
  replicate=adaptive  instead of seeds=: more seeds only for the choices that are neither told apart from the baseline
                      nor equivalent to it, up to max_seeds=12 of each and, with budget=30, 30 runs of a question;
                      chances of error hold over all looks, and the report says why each choice stopped
  tune=lr             first tune every choice by itself, trials=8 each, on pictures of their own (conf/search names what
                      is tuned: lr, recipe; a trial that does worse than the median before it is stopped), then compare
                      them with fresh seeds
  axis=[a,b]          a design space: every combination of the choices, the effect of each axis and what depends on
                      what; then the best combination again, with confirm=5 fresh seeds
  search=tpe          with axis=[a,b]: trials=24 combinations, proposed one after the other, in place of all
  scale=tiny          model and data size: tiny (pretrained parts, real pictures), smoke (seconds, no downloads),
                      small (a pretrained language model, for a GPU), 7b and 13b (published data, many GPUs;
                      vlmablate cost prices them)
  mode=plan           only show the steps (new, failed, live, done, shared), hours and disk, what sharing saves, and
                      the differences that the seeds could find; exit code 0: nothing to do, 10: there is work
  launcher=local      worker processes, as many as the cores allow; debug runs everything in this process; slurm submits
                      arrays (mode=plan prints their scripts)
  detach=true         with launcher=slurm: submit and leave; the same command goes on from there
  study=NAME          with axis=: where the results go, outputs/studies/NAME (default: axis and scale);
                      without: the declared study, every axis in outputs/studies/NAME-AXIS
  analysis.margin=2   the smallest difference that matters, in points, and what else is declared before there are
                      scores (conf/analysis/); a later change computes nothing and is told in the report
  anything else       changes the configuration of every choice: a group (projector=linear) or a value
                      (stages.finetune.epochs=2); what exists is under conf/, and a mistake lists it

examples:
  python -m vlmablate.sweep axis=image_resize mode=plan             what would be done, and how long it takes
  python -m vlmablate.sweep axis=image_resize                       do it; Ctrl-C and the same command goes on
  python -m vlmablate.sweep axis=fusion seeds=5                     more seeds: only the new ones are trained
  python -m vlmablate.sweep axis=fusion replicate=adaptive          more seeds only where they decide something
  python -m vlmablate.sweep axis=projector tune=lr                  each projector at the learning rate that suits it
  python -m vlmablate.sweep 'axis=[image_resize,stages]'            two axes at once: do they depend on each other?
  python -m vlmablate.sweep axis=image_resize scale=smoke seeds=2   the whole way in seconds
  python -m vlmablate.sweep study=quickstart mode=plan              three questions at once, and what that saves

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

    controller = Controller(asked(arguments))
    return controller.plan() if arguments.mode == "plan" else controller.run(arguments.detach)


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m vlmablate.sweep``: a mistake is one message on stderr and exit code 2."""
    from vlmablate.cli import main as cli

    return cli(["sweep", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    raise SystemExit(main())
