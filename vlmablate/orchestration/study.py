"""A study: the cells of one axis at one scale, times its seeds, and the ``study.json`` that declares them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from vlmablate.design.catalogue import Axis, load_axis
from vlmablate.design.compose import Composer
from vlmablate.design.crossing import CrossedAxis, Sets, cross, excluded
from vlmablate.design.crossing_conflicts import check_apart
from vlmablate.design.identity import short_id
from vlmablate.design.patches import Patches
from vlmablate.design.published import check_published
from vlmablate.design.seeds import with_seeds
from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.design.stage_choices import check_stages
from vlmablate.design.steps import build_run
from vlmablate.errors import UserError, unknown_name
from vlmablate.files import read_json
from vlmablate.orchestration.plan import unique_steps
from vlmablate.orchestration.provenance import cpu_flags
from vlmablate.orchestration.store import Store

Report = Callable[[str], None]


class AssetSource(Protocol):
    """What the controller needs of :mod:`vlmablate.data.assets`."""

    def required(self, config: dict[str, Any]) -> list[str]:
        """Names of the asset sets that a composed configuration needs."""
        ...

    def ensure(self, names: list[str], report: Report = print) -> dict[str, str]:
        """Fetch what is missing; name -> digest."""
        ...

    def pictures(self, config: dict[str, Any]) -> list[str]:
        """Those of them that the scenes are composed from."""
        ...

    def weights(self, config: dict[str, Any], digests: dict[str, str]) -> dict[str, str]:
        """Name of a tower or pretrained language model -> which weights it has, ``random`` for one without."""
        ...

    def published(self, config: dict[str, Any]) -> dict[str, str]:
        """Name of a source of records, or a benchmark, that is read out of a folder -> digest of its annotations."""
        ...

    def status(self) -> Sequence[Any]:
        """Rows with ``name``, ``bytes`` and ``state`` (``ready…`` when the set is whole); fetches nothing."""
        ...


NO_IDENTITY = frozenset({"analysis", "estimates", "execution", "policy", "slurm", "tracking"})
"""Parts of a configuration that enter no step: how to run, and what is concluded. A study keeps its name, and what it
has computed, whatever they say.
"""
PLACES = ("benchmark.folder", "data.folders")
"""The same for keys that say where something lies on a machine."""


def _enters_no_id(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return key.partition(".")[0] in NO_IDENTITY or any(f"{key}.".startswith(f"{place}.") for place in PLACES)


@dataclass(frozen=True)
class Request:
    """What the user asked for: one axis, its seeds, one scale, where to run, and overrides of the
    configuration.

    ``max_seeds`` is set where replication is adaptive: :mod:`vlmablate.orchestration.adaptive` then says which runs are
    wanted, at most ``budget`` of them (None: no limit), and ``seeds`` plays no part.

    Attributes:
        tune: the search space (conf/search) in which every arm is tuned before the arms are compared; empty: not at
            all.
        trials: of every tuned arm, or of a design space that is searched.
        axes: the axes that span a design space; ``axis`` then only names them all. Empty: one axis.
        search: how a design space is looked at: empty for every configuration, or a method of proposals (``tpe``).
        confirm: fresh seeds with which the best configuration of a space is estimated again.
    """

    axis: str
    seeds: tuple[int, ...] = (0, 1, 2)
    scale: str = "tiny"
    launcher: str = "local"
    study: str = ""
    overrides: tuple[str, ...] = ()
    command: str = ""
    max_seeds: int | None = None
    budget: int | None = None
    tune: str = ""
    trials: int = 0
    axes: tuple[str, ...] = ()
    search: str = ""
    confirm: int = 0

    @property
    def replicate(self) -> dict[str, int | None] | None:
        """What is declared about adaptive replication; None for a fixed grid of seeds."""
        return None if self.max_seeds is None else {"max_seeds": self.max_seeds, "budget": self.budget}

    @property
    def how(self) -> dict[str, dict[str, Any]]:
        """What is declared about the way to a result beside the settings of the analysis; empty for a fixed grid of
        seeds in one axis."""
        found: dict[str, dict[str, Any]] = {}
        if self.replicate is not None:
            found["replicate"] = dict(self.replicate)
        if self.tune:
            found["tune"] = {"space": self.tune, "trials": self.trials}
        if self.axes:
            searched = {"search": self.search, "trials": self.trials} if self.search else {}
            found["space"] = {"axes": list(self.axes), **searched, "confirm": self.confirm}
        return found

    @property
    def name(self) -> str:
        """The study's name: as given, or axis and scale, with a short digest of the overrides when there are
        any.
        """
        return self.study or f"{self.axis}-{self.scale}{self.suffix}"

    @property
    def suffix(self) -> str:
        """What tells this study from a plain one: how it is searched or tuned, a short digest of the overrides."""
        ways = f"{f'-{self.search}' if self.search else ''}{f'-tuned_{self.tune}' if self.tune else ''}"
        return ways + (f"-{short_id(list(self.of_runs))[:6]}" if self.of_runs else "")

    @property
    def of_runs(self) -> tuple[str, ...]:
        """The overrides that can change a result (see :data:`NO_IDENTITY` for the others)."""
        return tuple(text for text in self.overrides if not _enters_no_id(text))


@dataclass(frozen=True)
class Sweep:
    """What one command works on: the studies of one or several axes at one scale, with the same seeds, launcher and
    overrides. Their union is planned and computed once; each is written down and reported on its own.
    """

    name: str
    requests: tuple[Request, ...]
    command: str

    @classmethod
    def of(cls, request: Request) -> Sweep:
        """The sweep of a single study."""
        return cls(request.name, (request,), request.command)


@dataclass(frozen=True)
class Cell:
    """An arm in a context: one composed configuration, without a seed."""

    arm: str
    context: str
    config: dict[str, Any]


def compose_cells(request: Request, composer: Composer, axes: Path | None = None) -> tuple[Axis, list[Cell]]:
    """The axis as it stands at the scale, and its cells: contexts in order, arms in order.

    Raises:
        UserError: for unknown names or overrides, each with a list of what exists.
    """
    for group, choice in (("scale", request.scale), ("launcher", request.launcher)):
        options = composer.options(group)
        if choice not in options:
            raise unknown_name(group, choice, options)
    of = [load_axis(name, request.scale, axes) for name in request.axes or (request.axis,)]
    base = [f"scale={request.scale}", f"launcher={request.launcher}"]
    # The user's overrides are tried on the plain configuration first, so that a mistake is reported as
    # theirs.
    if request.overrides:
        composer.compose([*base, *request.overrides])
    if request.axes:
        space = cross(of)
        return space, _cells_of_space(space, composer, base, request.overrides)
    (axis,) = of
    patches = Patches(composer, base, request.overrides)
    cells = []
    for context in axis.contexts:
        for arm in axis.arms:
            config = _compose_cell(patches, [context.overrides, arm.overrides])
            cells.append(Cell(arm.name, context.name, config))
    return axis, cells


def _compose_cell(patches: Patches, sets: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The configuration of a cell, checked. Raises UserError for one that cannot be."""
    config = patches.compose(sets)
    check_stages(config)
    check_published(config)
    config["precision"] = resolve_precision(config.get("precision"))
    return config


def _cells_of_space(
    space: CrossedAxis, composer: Composer, base: Sequence[str], overrides: Sequence[str]
) -> list[Cell]:
    """One cell for every combination.

    Raises UserError for axes that undo each other, and for levels that exclude each other, naming them.
    """
    (context,) = space.contexts
    around = [*base, *context.overrides]
    check_apart(space, composer, around, overrides)
    patches = Patches(composer, around, overrides)

    def compose(sets: Sets) -> dict[str, Any]:
        return _compose_cell(patches, sets)

    cells = []
    for arm in space.arms:
        try:
            config = compose(space.sets(space.levels(arm.name)))
        except UserError as error:
            raise excluded(space, arm.name, compose, error) from error
        cells.append(Cell(arm.name, context.name, config))
    return cells


def resolve_precision(asked: Any, flags: frozenset[str] | None = None) -> str:
    """``bf16`` or ``fp32``; ``auto`` is bf16 only where the processor multiplies bfloat16 matrices natively.

    The outcome is part of every id it can change, so a result never claims a precision it was not computed
    in.
    """
    if asked == "auto":
        return "bf16" if "amx_bf16" in (cpu_flags() if flags is None else flags) else "fp32"
    if asked not in ("bf16", "fp32"):
        raise unknown_name("precision", str(asked), ("auto", "bf16", "fp32"))
    return str(asked)


def build_runs(
    cells: Sequence[Cell],
    seeds: Sequence[int],
    digests: dict[str, str],
    source: AssetSource,
    scale: str,
    validation: bool = False,
) -> list[RunSpec]:
    """Runs in the order seed, context, arm, so that whole contrasts finish early.

    Args:
        digests: asset set -> digest, for the sets that the cells need.
        source: says which of them hold weights and which the pictures of the scenes.
        validation: whether they are evaluated on scenes that no comparison is made on.

    Raises:
        UserError: when two arms of a context turn out to be the same configuration.
    """
    of_cells: list[list[RunSpec]] = []
    known: dict[str, StepSpec] = {}
    for cell in cells:
        pictures, weights = source.pictures(cell.config), source.weights(cell.config, digests)
        first = build_run(
            cell.config,
            arm=cell.arm,
            context=cell.context,
            seed=seeds[0],
            assets={name: digests[name] for name in sorted(pictures)},
            weights=weights,
            published=source.published(cell.config),
            scale=scale,
            known=known,
            validation=validation,
        )
        of_cells.append([first, *with_seeds(first, seeds[1:])])
    runs = [of_cell[index] for index in range(len(seeds)) for of_cell in of_cells]
    seen: dict[tuple[str, str], str] = {}
    for run in runs:
        other = seen.setdefault((run.context, run.run_id), run.arm)
        if other != run.arm:
            raise UserError(
                f"the arms {other} and {run.arm} are the same configuration, so there is nothing to compare: "
                "an override sets what the axis varies; leave it out"
            )
    return runs


def required_assets(cells: Sequence[Cell], source: AssetSource) -> list[str]:
    """The asset sets that the cells need together, sorted."""
    return sorted({name for cell in cells for name in source.required(cell.config)})


def declared_analysis(cells: Sequence[Cell]) -> dict[str, Any]:
    """The settings of the analysis (conf/analysis), checked: one set for the whole study.

    Raises:
        UserError: for a setting that is unknown or out of range, a family of a benchmark that is not there, and an
            arm or context that changes a setting.
    """
    from vlmablate.stats.declaration import read_analysis

    first = dict(cells[0].config.get("analysis") or {})
    for cell in cells:
        if (cell.config.get("analysis") or {}) != first:
            raise UserError(
                f"arm {cell.arm}, context {cell.context} changes the analysis; all arms of a study are judged "
                "alike, so give analysis.… on the command line"
            )
    _, families = read_analysis(first)
    known = list((cells[0].config.get("benchmark") or {}).get("names", []))
    for benchmark in families:
        if benchmark not in known:
            raise unknown_name("benchmark", benchmark, known, "analysis.families")
    return first


def analysis_history(
    before: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    runs_with_scores: int,
    how: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Which settings were declared, oldest first, and how many runs had scores by then.

    An entry is added when the settings differ from the last one, or the way to a result does (`Request.how`; its parts
    are in the entry): the error rates of an adaptive study, for one, hold for limits that were declared beforehand.
    Settings that nobody saw the scores of replace the last entry: they were still free to choose.
    """
    entries = [dict(entry) for entry in before]
    declared: dict[str, Any] = {"settings": dict(settings), **{key: dict(part) for key, part in how.items()}}
    if (
        entries
        and {key: value for key, value in entries[-1].items() if key != "runs_with_scores"} == declared
    ):
        return entries
    if entries and not runs_with_scores and not entries[-1]["runs_with_scores"]:
        entries.pop()
    return [*entries, {**declared, "runs_with_scores": runs_with_scores}]


def declaration(
    request: Request,
    axis: Axis,
    runs: Sequence[RunSpec],
    store: Store,
    analysis: Mapping[str, Any],
    provenance: Mapping[str, Any],
    trials: Sequence[RunSpec] = (),
) -> dict[str, Any]:
    """The content of ``study.json``. trials: runs that were only made to choose by; their steps are listed too."""
    steps = unique_steps([*runs, *trials])
    folders = {kind: store.listing(kind) for kind in {step.kind for step in steps.values()}}
    seeds = list(request.seeds) if request.replicate is None else sorted({run.seed for run in runs})
    return {
        "name": request.name,
        "axis": axis.to_dict(),
        "scale": request.scale,
        "seeds": seeds,
        **request.how,
        "baseline": axis.baseline,
        "contexts": [context.name for context in axis.contexts],
        "overrides": list(request.of_runs),
        "command": request.command,
        "analysis": dict(analysis),
        "runs": [run.to_dict() for run in runs],
        "steps": {
            step.id: {
                "kind": step.kind,
                "slug": step.slug,
                "dir": f"steps/{step.kind}/{folders[step.kind].get(step.id, step.name)}",
            }
            for step in steps.values()
        },
        "provenance": dict(provenance),
    }


def check_same_study(folder: Path, request: Request) -> dict[str, Any] | None:
    """The existing declaration of a study, or None.

    Raises:
        UserError: when the name is taken by a study of another axis, scale or overrides.
    """
    try:
        existing = read_json(folder / "study.json")
    except FileNotFoundError:
        return None
    except ValueError:
        return None  # damaged; it is derived data and is written anew
    tuned = (existing.get("tune") or {}).get("space", "")
    search = (existing.get("space") or {}).get("search", "")
    then = (existing["axis"]["name"], existing["scale"], existing["overrides"], tuned, search)
    now = (request.axis, request.scale, list(request.of_runs), request.tune, request.search)
    if then != now:
        ways = f"{f' tune={tuned}' if tuned else ''}{f' search={search}' if search else ''}"
        raise UserError(
            f"the study {folder.name} exists with axis={then[0]} scale={then[1]}{ways} {' '.join(then[2])}".rstrip()
            + "\nchoose another name with study=NAME"
        )
    assert isinstance(existing, dict)
    return existing
