"""What the statistics of design spaces promise, in thousands of simulated studies of known truth.

Seed SD 1 point, as conf/scale declares for tiny. A bound is the promise plus three Monte-Carlo standard errors.
pytest -s prints what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from factorial_scores import axes, grid, scores, trained
from scipy import stats

from vlmablate.stats.factorial import Space, effects, importance
from vlmablate.stats.factorial.strata import alike_terms, degrees, squares
from vlmablate.stats.settings import Settings

pytestmark = pytest.mark.slow


def three_errors(p: float, repetitions: int) -> float:
    return 3 * math.sqrt(p * (1 - p) / repetitions)


def noise(
    rng: np.random.Generator, repetitions: int, seeds: int, sizes: Sequence[int], kind: str
) -> np.ndarray:
    """Scores [repetitions, seeds, configurations] without any effect."""
    runs = rng.normal(0, 1, (repetitions, seeds, *sizes))
    rest = (1,) * (len(sizes) - 1)
    if kind == "seeds share luck":
        runs = runs + rng.normal(0, 1, (repetitions, seeds, 1, *rest))
    if kind == "a shared step":
        runs = runs + rng.normal(0, 1, (repetitions, seeds, sizes[0], *rest))
    if kind == "one level twice as noisy":
        runs = runs * np.linspace(1, 2, sizes[0]).reshape(sizes[0], *rest)
    return runs.reshape(repetitions, seeds, -1)


@pytest.mark.parametrize(
    "kind", ["independent", "seeds share luck", "a shared step", "one level twice as noisy"]
)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_level_holds(kind: str, seeds: int) -> None:
    repetitions, space = 20_000, grid((2, 3, 2))
    points = noise(np.random.default_rng(seeds), repetitions, seeds, space.sizes, kind)
    mean = points.mean(axis=1)
    around = {term: s.sum(axis=1) for term, s in squares(points - mean[:, None], space).items()}
    d, lengths = degrees(space), squares(mean, space)
    ids = [[f"{'+'.join(levels)}@{seed}" for levels in space.grid] for seed in range(seeds)]
    steps = trained(space, seeds, (0,) if kind == "a shared step" else (0, 1, 2))
    for known in (None, steps):
        for terms in alike_terms(space, ids, known):
            df = (seeds - 1) * sum(d[term] for term in terms)
            error = sum(around[term] for term in terms) / df
            for term in terms:
                p = stats.f.sf(seeds * lengths[term] / d[term] / error, d[term], df)
                rate = float(np.mean(p < 0.05))
                print(kind, seeds, "known steps" if known else "own strata", space.name(term), rate)
                # Unequal spread over many cells makes an F test on several degrees of freedom a little too keen.
                unequal = 0.02 if kind == "one level twice as noisy" else 0.0
                assert abs(rate - 0.05) < three_errors(0.05, repetitions) + unequal + 0.001


@pytest.mark.parametrize(("sizes", "seeds", "shared"), [((3, 2), 3, False), ((3, 3, 2), 3, True)])
def test_intervals_of_importance_cover(sizes: tuple[int, ...], seeds: int, shared: bool) -> None:
    repetitions, space = 150, grid(sizes)
    rng = np.random.default_rng(0)
    steps = trained(space, seeds, (0,)) if shared else None
    sds = {(0,): 2.0, (1,): 1.0, (0, 1): 0.5}
    of_sd, of_share = [], []
    for repetition in range(repetitions):
        truth = np.zeros(sizes)
        for term, sd in sds.items():
            truth = truth + rng.normal(0, sd, [size if i in term else 1 for i, size in enumerate(sizes)])
        points = noise(rng, 1, seeds, sizes, "a shared step" if shared else "")[0] + truth.reshape(-1)
        table = importance(scores(points, space), space, Settings(seed=repetition), steps=steps)
        variances = np.array(list(squares(truth.reshape(-1), space).values())) / space.size
        for true, low, high, found in (
            (np.sqrt(variances), "sd_low", "sd_high", of_sd),
            (variances / variances.sum(), "ci_low", "ci_high", of_share),
        ):
            found.append((table[low] - 1e-9 <= true) & (true <= table[high] + 1e-9))
    for what, found in (("sd", of_sd), ("share", of_share)):
        covered = np.mean(found, axis=0)
        print(sizes, seeds, what, covered.round(3))
        assert (covered > 0.9 - three_errors(0.9, repetitions)).all()
        assert covered.mean() > 0.94


def proposed(truth: np.ndarray, trials: int, seed: int) -> list[tuple[int, ...]]:
    """The configurations that TPE looks at, the baseline first."""
    import optuna  # slow to import, and the fast tests are collected together with this file

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=trials // 2)
    )
    study.enqueue_trial({str(i): 0 for i in range(truth.ndim)})
    seen: dict[tuple[int, ...], None] = {}
    for _ in range(3 * trials):
        trial = study.ask()
        chosen = tuple(trial.suggest_categorical(str(i), range(size)) for i, size in enumerate(truth.shape))
        study.tell(trial, float(truth[chosen]))
        seen[chosen] = None
        if len(seen) == trials:
            break
    return list(seen)


def test_main_effects_of_a_search_are_not_biased_and_covered() -> None:
    sizes, repetitions = (3, 3, 2, 2), 60
    found, rng = axes(sizes), np.random.default_rng(0)
    errors, covered, outward = [], [], []
    for repetition in range(repetitions):
        truth = sum(rng.normal(0, 1.5, [s if i == j else 1 for j, s in enumerate(sizes)]) for i in range(4))
        truth = truth + rng.normal(0, 0.5, (3, 3, 1, 1))
        points = truth + rng.normal(0, 1, sizes)
        chosen = proposed(points, 20, repetition)
        arms = {"+".join(f"l{j}" for j in levels): tuple(f"l{j}" for j in levels) for levels in chosen}
        records = [(arm, 0, arm, "vqa", points[levels]) for arm, levels in zip(arms, chosen, strict=True)]
        table = pd.DataFrame(records, columns=["arm", "seed", "run_id", "benchmark", "points"])
        main = effects(table, Space(found, arms, searched=True), Settings(), with_signal=[])
        assert main["p"].isna().all()
        for row in main[main["kind"] == "main"].dropna(subset=["delta"]).itertuples():
            place = [axis.name for axis in found].index(row.axis)
            margin = truth.mean(axis=tuple(i for i in range(4) if i != place))
            true = margin[int(row.level[1:])] - margin[0]
            errors.append(row.delta - true)
            outward.append((row.delta - true) * np.sign(true))
            covered.append(row.ci_low <= true <= row.ci_high)
    print("bias", np.mean(errors), "outward", np.mean(outward), "coverage", np.mean(covered), len(covered))
    assert abs(np.mean(errors)) < 0.2
    assert abs(np.mean(outward)) < 0.2
    assert np.mean(covered) > 0.92
