"""One proposal from trials that the caller knows, against the same search with a study that Optuna keeps in memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import optuna

from vlmablate.search.proposals import Trial, TrialState, propose
from vlmablate.search.space import Float, Int, Space

SPACE = Space({"rate": Float(1e-5, 1e-1, log=True), "decay": Float(0.0, 0.5), "epochs": Int(1, 8)})
ROUNDS = 7


def best(work: Callable[[], object]) -> float:
    """The shortest of some rounds, in milliseconds."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times) * 1e3


def main() -> None:
    """Print one line for each number of trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for count in (20, 200):
        drawn = propose(Space(SPACE.parameters, "random"), [], count, seed=0)
        trials = [
            Trial(p["number"], p["values"], TrialState.FINISHED, -abs(p["values"]["epochs"] - 5.0))
            for p in drawn
        ]
        kept = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
        distributions = {
            "rate": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
            "decay": optuna.distributions.FloatDistribution(0.0, 0.5),
            "epochs": optuna.distributions.IntDistribution(1, 8),
        }
        for trial in trials:
            kept.add_trial(
                optuna.trial.create_trial(
                    value=trial.score, params=dict(trial.values), distributions=distributions
                )
            )
        ours = best(lambda trials=trials: propose(SPACE, trials, 1, seed=0))  # type: ignore[misc]
        theirs = best(lambda kept=kept, dists=distributions: kept.ask(dists))  # type: ignore[misc]
        print(f"propose after {count} trials: {ours:.1f} ms rebuilt, {theirs:.1f} ms kept in memory")


if __name__ == "__main__":
    main()
