"""What to try next, as a pure function of what was tried.

Optuna proposes and remembers nothing: its study lives in memory for the length of one call and is rebuilt from the
trials that the caller knows. There is no journal that a crash could tear, and no number that it could hand out twice.
Every proposal draws from a stream of its own, given by the seed and the proposal's number, so the same trials lead to
the same proposals on any machine, whether asked for one by one or together.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from vlmablate.errors import UserError
from vlmablate.search.space import Categorical, Float, Parameter, Space, grid, spelled

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_DRAWS = 32
"""Draws that may hit what is already there before something else is done about it."""


class TrialState(StrEnum):
    """What became of a trial. A censored one was stopped early: its score is what it had by then."""

    RUNNING = "running"
    FINISHED = "finished"
    CENSORED = "censored"
    FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """A configuration that was proposed, as the store of results knows it now.

    Attributes:
        number: the number it was proposed under.
        values: parameter -> value.
        state: what became of it.
        score: of a finished or censored trial; one that is not finite counts as failed.
        steps: training steps that a censored trial got to.
    """

    number: int
    values: Mapping[str, Any] = field(hash=False)
    state: TrialState
    score: float | None = None
    steps: int = 0


def propose(space: Space, trials: Sequence[Trial], count: int, seed: int) -> list[dict[str, Any]]:
    """Configurations that were not tried yet.

    Args:
        space: what may be tried. Trials outside of it (it was changed since) are not learnt from.
        trials: everything tried so far, in any order; gaps in the numbers do not matter.
        count: how many are wanted.
        seed: of the draws.

    Returns:
        ``{"number": …, "values": {parameter: value}}`` for each, with numbers above all those of the trials. Fewer than
        ``count`` when the space or its grid has no more.

    Raises:
        UserError: for two trials with one number, a negative count, and without Optuna when it is needed.
    """
    known = sorted(trials, key=lambda trial: trial.number)
    for trial, following in itertools.pairwise(known):
        if trial.number == following.number:
            raise UserError(f"two trials have the number {trial.number}")
    if count < 0:
        raise UserError(f"{count} proposals cannot be made")
    proposed: list[dict[str, Any]] = []
    for _ in range(count):
        number = known[-1].number + 1 if known else 0
        values = _next(space, known, f"{seed}/{number}")
        if values is None:
            break
        proposed.append({"number": number, "values": values})
        known.append(Trial(number, values, TrialState.RUNNING))
    return proposed


def _next(space: Space, known: Sequence[Trial], stream: str) -> dict[str, Any] | None:
    """A configuration that none of the known trials has; None when there is no more."""
    taken = {spelled(trial.values) for trial in known}
    if space.method == "grid":
        return _first(grid(space), taken)
    learnt = [trial for trial in known if space.holds(trial.values)]
    draw = _draw_tpe if space.method == "tpe" else _draw_at_random
    # Where the good region is used up, anything new will do; where nearly everything is, it has to be looked for.
    draws = itertools.chain(draw(space, learnt, stream), _draw_at_random(space, learnt, f"{stream}/any"))
    values = _first(draws, taken)
    if values is not None or space.size() == math.inf:
        return values
    rest = grid(space)
    random.Random(f"{stream}/rest").shuffle(rest)
    return _first(rest, taken)


def _first(points: Iterable[dict[str, Any]], taken: set[str]) -> dict[str, Any] | None:
    return next((values for values in points if spelled(values) not in taken), None)


def _draw_at_random(space: Space, learnt: Sequence[Trial], stream: str) -> Iterable[dict[str, Any]]:
    source = random.Random(stream)
    for _ in range(_DRAWS):
        yield {name: parameter.at(source.random()) for name, parameter in space.parameters.items()}


def _draw_tpe(space: Space, learnt: Sequence[Trial], stream: str) -> Iterable[dict[str, Any]]:
    if sum(_scored(trial) for trial in learnt) < space.startup:
        yield from _draw_at_random(space, learnt, stream)
        return
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UserError(
            "method: tpe needs the package optuna, which is not installed: pip install 'vlmablate[search]'\n"
            "Or choose method: random."
        ) from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(parameter) for name, parameter in space.parameters.items()}
    number = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:4], "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Running trials count as bad ones, so that proposals made together do not crowd into one place.
        sampler = optuna.samplers.TPESampler(
            seed=number, n_startup_trials=0, multivariate=True, constant_liar=True
        )
    study = optuna.create_study(direction=space.direction, sampler=sampler)
    study.add_trials([_frozen(space, trial, distributions) for trial in learnt])
    for _ in range(_DRAWS):
        asked = study.ask(distributions)
        yield _values(space, asked.params)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)  # it was tried before


def _scored(trial: Trial) -> bool:
    return (
        trial.state in (TrialState.FINISHED, TrialState.CENSORED)
        and trial.score is not None
        and math.isfinite(trial.score)
    )


def _distribution(parameter: Parameter) -> BaseDistribution:
    from optuna import distributions

    if isinstance(parameter, Categorical):
        # As texts, because for Optuna 1, 1.0 and true are one choice.
        return distributions.CategoricalDistribution([spelled(choice) for choice in parameter.choices])
    if isinstance(parameter, Float):
        return distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log)
    return distributions.IntDistribution(parameter.low, parameter.high, log=parameter.log)


def _frozen(space: Space, trial: Trial, distributions: dict[str, BaseDistribution]) -> FrozenTrial:
    """The trial in Optuna's words."""
    from optuna.trial import TrialState as State
    from optuna.trial import create_trial

    params = {
        name: spelled(trial.values[name]) if isinstance(parameter, Categorical) else trial.values[name]
        for name, parameter in space.parameters.items()
    }
    if trial.state is TrialState.RUNNING:
        return create_trial(state=State.RUNNING, params=params, distributions=distributions)
    if not _scored(trial):
        return create_trial(state=State.FAIL, params=params, distributions=distributions)
    assert trial.score is not None
    if trial.state is TrialState.CENSORED:
        return create_trial(
            state=State.PRUNED,
            params=params,
            distributions=distributions,
            intermediate_values={trial.steps: trial.score},
        )
    return create_trial(value=trial.score, params=params, distributions=distributions)


def _values(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna proposes, in our words."""
    values: dict[str, Any] = {}
    for name, parameter in space.parameters.items():
        if isinstance(parameter, Categorical):
            values[name] = {spelled(choice): choice for choice in parameter.choices}[params[name]]
        elif isinstance(parameter, Float):
            values[name] = parameter.tidy(params[name])
        else:
            values[name] = int(params[name])
    return values
