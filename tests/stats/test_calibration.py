"""The calibration itself: it recovers what data were made of, its shortcuts equal the functions that fill the table,
and a broken test does not get past it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

from vlmablate.errors import DataError
from vlmablate.stats.calibration import (
    COLUMNS,
    BenchmarkShape,
    Check,
    Parts,
    Shape,
    calibrate,
    checks,
    pictures,
    retraining,
    shape_of,
)
from vlmablate.stats.calibration import studies as simulated
from vlmablate.stats.calibration.batch import design_batch, pooled_batch, pooled_rule_batch
from vlmablate.stats.calibration.latent import latent_correlation, score_correlation
from vlmablate.stats.calibration.simulated_examples import lay_out, simulate_examples
from vlmablate.stats.calibration.simulated_runs import simulate_runs
from vlmablate.stats.calibration.studies import Studies, declared, table_p
from vlmablate.stats.components import two_component_interval
from vlmablate.stats.contrasts import compare
from vlmablate.stats.declaration import Design
from vlmablate.stats.margins import equivalence
from vlmablate.stats.maxt import max_t
from vlmablate.stats.runs import PooledError, design_test
from vlmablate.stats.settings import Settings

PARTS = Parts(0.15, 0.35, 0.05, 0.10, 0.15, 0.20)


def binary(name: str, mean: float = 0.6, groups: int = 40, each: int = 2, sd: float = 6.0) -> BenchmarkShape:
    return BenchmarkShape(name, (0.0, 1.0), (1 - mean, mean), (each,) * groups, sd, PARTS)


Counts = tuple[tuple[int, ...], ...]


def shape(
    seeds: int | Counts = 3, arms: int = 3, contexts: int = 1, correlation: float = 0.4, **changes: object
) -> Shape:
    """Small studies; seeds per cell, or for every cell (then arms and contexts play no part)."""
    counts = ((seeds,) * contexts,) * arms if isinstance(seeds, int) else seeds
    benchmarks = (binary("counting"), binary("reading", 0.8))
    return Shape(counts, benchmarks, correlation, **changes)  # type: ignore[arg-type]


def long_table(source: Shape, seed: int = 0) -> pd.DataFrame:
    """A long table of scores drawn from a shape, one context."""
    layout = lay_out(source, cap=10**9)
    runs = [row[0] for row in source.seeds]
    scores = simulate_examples(source, layout, runs, 1, np.random.default_rng(seed), seed_effects=True)
    names = [source.benchmarks[b].name for b in layout.benchmarks]
    arms = ("base", "other", "third")
    tables = [
        pd.DataFrame(
            {
                "arm": arms[arm],
                "context": "default",
                "seed": run,
                "run_id": f"{arms[arm]}-{run}",
                "benchmark": names,
                "split": "test",
                "example_id": [f"q{i}" for i in range(len(names))],
                "cluster_id": [f"picture {c}" for c in layout.clusters],
                "metric": "exact",
                "score": values.astype(np.float64),
            }
        )
        for arm, of_arm in enumerate(scores)
        for run, values in enumerate(of_arm[0])
    ]
    return pd.concat(tables, ignore_index=True)


def design(source: Shape, **settings: float) -> Design:
    names = ("base", "other", "third")[: source.arms]
    metrics = {benchmark.name: "exact" for benchmark in source.benchmarks}
    return Design("axis", "base", names, ("default",), metrics, settings=Settings(**settings))  # type: ignore[arg-type]


def no_report(name: str, done: int, total: int) -> None:
    pass


def of_runs(source: Shape, repetitions: int = 200, margin: float = 2.0, seed: int = 4) -> dict[str, Check]:
    found = retraining.retraining_checks(source, repetitions, 0.05, margin, seed, no_report)
    return {check.name: check for check in found}


def of_examples(source: Shape, repetitions: int = 120, seed: int = 4) -> dict[str, Check]:
    return {
        check.name: check for check in pictures.picture_checks(source, repetitions, 0.05, seed, no_report)
    }


# ------------------------------------------------------------------------------------------------ the shape


def test_the_correlation_of_scores_is_that_of_the_bivariate_normal() -> None:
    """Oracle: scipy's bivariate normal, and the arcsine law for a cut at the median."""
    half = BenchmarkShape("half", (0.0, 1.0), (0.5, 0.5), (1, 1), 1.0)
    latent, scores = score_correlation(half)
    np.testing.assert_allclose(scores, np.arcsin(latent) / (math.pi / 2), atol=1e-6)
    soft = BenchmarkShape("vqa", (0.0, 0.3, 0.6, 0.9, 1.0), (0.3, 0.1, 0.1, 0.2, 0.3), (1, 1), 1.0)
    latent, scores = score_correlation(soft)
    assert scores[-1] == pytest.approx(1.0, abs=1e-3)
    cuts, steps = soft.thresholds(), np.diff(soft.values)
    for rho in (0.2, 0.7, 0.95):
        law = stats.multivariate_normal(cov=[[1, rho], [rho, 1]])
        joint = sum(
            steps[i]
            * steps[j]
            * (law.cdf([cuts[i], cuts[j]]) - stats.norm.cdf(cuts[i]) * stats.norm.cdf(cuts[j]))
            for i in range(len(cuts))
            for j in range(len(cuts))
        )
        assert np.interp(rho, latent, scores) == pytest.approx(joint / soft.variance, abs=2e-4)
        assert latent_correlation(soft, np.array([joint / soft.variance]))[0] == pytest.approx(rho, abs=1e-3)


def test_the_shape_recovers_what_the_data_were_made_of() -> None:
    """Many runs and pictures, so that the estimates are close to the components that the data were drawn from."""
    truth = Shape(
        seeds=((20,), (20,), (20,)),
        benchmarks=(
            binary("counting", 0.6, groups=600, each=3, sd=4.0),
            binary("reading", 0.8, 600, 3, 4.0),
        ),
        correlation=0.4,
    )
    found = shape_of(long_table(truth, seed=1), design(truth))
    assert found.seeds == truth.seeds
    assert found.correlation == pytest.approx(0.4, abs=0.25)
    for mine, original in zip(found.benchmarks, truth.benchmarks, strict=True):
        assert (mine.name, mine.n, mine.values) == (original.name, original.n, original.values)
        assert mine.mean == pytest.approx(original.mean, abs=0.04)  # 3 standard errors
        assert mine.seed_sd == pytest.approx(original.seed_sd, rel=0.2)
        assert mine.icc == pytest.approx(original.icc, abs=0.06)
        np.testing.assert_allclose(mine.parts.as_array(), original.parts.as_array(), atol=0.05)


def test_simulated_runs_and_examples_spread_as_the_shape_says() -> None:
    truth = Shape(((3,), (3,)), (binary("a", 0.6, 100, 3, 4.0), binary("b", 0.8, 100, 3, 4.0)), 0.5)
    runs = simulate_runs(truth, 20_000, np.random.default_rng(2))
    scores = runs[(0, 0)][:, 0]
    assert np.std(scores, axis=0) == pytest.approx([4.0, 4.0], rel=0.05)
    assert np.corrcoef(scores.T)[0, 1] == pytest.approx(0.5, abs=0.05)
    layout = lay_out(truth)
    assert not layout.capped
    within = []
    for r in range(20):  # runs of one arm on one set of examples
        rng = np.random.default_rng([3, r])
        (study,) = simulate_examples(truth, layout, [100], 1, rng, seed_effects=True)
        within.append(np.cov(np.stack([100 * study[0][:, part].mean(axis=1) for part in layout.slices])))
    covariance = np.mean(within, axis=0)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([4.0, 4.0], rel=0.1)
    assert covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]) == pytest.approx(0.5, abs=0.12)


def test_a_capped_layout_keeps_whole_clusters_and_the_weight_of_the_seeds() -> None:
    large = Shape(((3,), (3,)), (binary("large", groups=2000, each=3), binary("small", groups=2000, each=3)))
    layout = lay_out(large, cap=300)
    assert layout.capped
    assert [part.stop - part.start for part in layout.slices] == [300, 300]
    assert set(np.bincount(layout.clusters)) == {6}  # both benchmarks keep the same pictures
    assert layout.weights.sum() == pytest.approx(1)
    full = lay_out(large, cap=10**9)
    np.testing.assert_allclose(layout.shift_sd, full.shift_sd * math.sqrt(6000 / 300))


def test_soft_and_continuous_scores_keep_their_own_distribution() -> None:
    source = Shape(
        seeds=((2,), (2,)),
        benchmarks=(
            BenchmarkShape("vqa", (0.0, 0.3, 1.0), (0.2, 0.5, 0.3), (2,) * 50, 2.0, PARTS),
            BenchmarkShape("iou", tuple(np.linspace(0, 1, 48)), (1 / 48,) * 48, (2,) * 50, 2.0, PARTS),
        ),
    )
    layout = lay_out(source)
    (arm, _) = simulate_examples(source, layout, [2, 2], 400, np.random.default_rng(4), seed_effects=False)
    vqa, iou = (arm[:, :, part].ravel() for part in layout.slices)
    assert set(np.unique(vqa.round(5).astype(str)).tolist()) == {"0.0", "0.3", "1.0"}
    assert vqa.mean() == pytest.approx(0.45, abs=0.02)
    assert np.quantile(iou, [0.25, 0.75]) == pytest.approx([0.25, 0.75], abs=0.03)


# --------------------------------------------------------------------------------- shortcuts = public functions


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("method", ["exact", "t"])
@pytest.mark.parametrize(("seeds", "contexts"), [(2, 1), (3, 2), (5, 1)])
def test_the_vectorised_design_test_equals_the_public_one(
    seeds: int, contexts: int, method: str, paired: bool, alternative: str
) -> None:
    runs = simulate_runs(shape(seeds, 2, contexts), 8, np.random.default_rng([5, seeds, contexts]))
    suites = {cell: scores.mean(axis=2) for cell, scores in runs.items()}
    alternate, baseline = ([suites[(arm, c)] for c in range(contexts)] for arm in (1, 0))
    differences = [a - b for a, b in zip(alternate, baseline, strict=True)]
    error = pooled_batch(differences if paired else [*alternate, *baseline])
    given = {"method": method, "paired": paired, "alternative": alternative}
    batch = design_batch(alternate, baseline, error, **given)  # type: ignore[arg-type]
    for r in range(8):
        public = design_test([x[r] for x in alternate], [x[r] for x in baseline], **given)  # type: ignore[arg-type]
        assert batch.p[r] == pytest.approx(public.p, rel=1e-9)
        assert (batch.delta[r], batch.se[r]) == pytest.approx((public.delta, public.se))
        assert batch.df == public.df
        pooled = PooledError(2 * float(error[0][r]), 7, 3)
        twice = design_batch(alternate, baseline, (2 * error[0], 7), **given)  # type: ignore[arg-type]
        other = design_test(
            [x[r] for x in alternate],
            [x[r] for x in baseline],
            error=pooled,
            **given,  # type: ignore[arg-type]
        )
        assert (twice.p[r], twice.se[r], twice.df) == pytest.approx((other.p, other.se, other.df), rel=1e-9)


SHAPES: dict[str, dict[str, object]] = {
    "two seeds": {"seeds": ((2,), (2,), (2,))},
    "exact": {"seeds": ((7,), (7,), (6,))},
    "exact alone, t in a family": {"seeds": ((5,), (5,), (5,))},
    "contexts": {"seeds": ((3, 2), (2, 0), (0, 2))},
    "exact in two contexts": {"seeds": ((4, 4), (4, 4))},
    "paired": {"paired_seeds": True, "seed_pairing": 0.5, "seeds": ((4,), (3,), (4,))},
    "paired and exact": {"paired_seeds": True, "seed_pairing": 0.5, "seeds": ((9,), (9,))},
    "one direction": {"alternative": "less"},
    "replicated baseline": {"seeds": ((4,), (1,), (1,))},
    "an arm with the baseline's runs": {"copies": (((2, 0), (0, 0)),)},
    "the baseline's runs in one context": {
        "seeds": ((5, 5), (5, 5), (5, 5)),
        "copies": (((1, 1), (0, 1)), ((2, 1), (0, 1))),
    },
    "arms with the same runs": {"copies": (((2, 0), (1, 0)),)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_simulated_studies_are_tested_as_the_table_tests_them(name: str) -> None:
    source = shape(**SHAPES[name])  # type: ignore[arg-type]
    studies = Studies(source, simulate_runs(source, 6, np.random.default_rng(8)), 0.05)
    for arm in source.contrasts():
        batch = studies.test(arm)
        assert [table_p(studies, arm, r) for r in range(6)] == pytest.approx(batch.p.tolist(), rel=1e-9)


def test_the_method_is_the_declared_one() -> None:
    """The largest p that decides among m tests is alpha / m, which an exact test of 5 and 5 seeds cannot reach."""
    assert declared(shape(5, arms=2), 1, 0.05) == "exact"
    assert declared(shape(5, arms=3), 1, 0.05) == "t"
    assert declared(shape(7, arms=3), 1, 0.05) == "exact"
    assert declared(shape(3, arms=2), 1, 0.05) == "t"


def test_the_pooled_rule_is_a_one_sample_t_test_over_pairs_and_benchmarks() -> None:
    runs = simulate_runs(shape(3, contexts=2), 5, np.random.default_rng(7))
    alternate, baseline = ([runs[(arm, c)] for c in (0, 1)] for arm in (1, 0))
    p = pooled_rule_batch(alternate, baseline)
    for r in range(5):
        a, b = (np.concatenate([side[r].ravel() for side in sides]) for sides in (alternate, baseline))
        assert p[r] == pytest.approx(stats.ttest_1samp((a - b) / ((a + b) / 2), 0).pvalue)


# --------------------------------------------------------------------------------------------- the calibration


def test_equal_arguments_give_equal_results_and_another_seed_others() -> None:
    source = shape(2, arms=2)
    first, again = (calibrate(source, repetitions=100, seed=1) for _ in range(2))
    pd.testing.assert_frame_equal(first.table, again.table)
    assert first.sentences == again.sentences
    assert of_runs(source, seed=1) != of_runs(source, seed=2)
    assert of_examples(source, 20, seed=1) != of_examples(source, 20, seed=2)


def test_a_healthy_engine_passes_and_every_number_is_in_its_sentence() -> None:
    seen: list[tuple[str, int, int]] = []
    source = shape(correlation=0.8)
    source = replace(source, benchmarks=tuple(replace(b, seed_sd=9.0) for b in source.benchmarks))
    result = calibrate(source, repetitions=150, seed=3, progress=lambda *args: seen.append(args))
    table = result.table
    assert list(table.columns) == COLUMNS
    assert result.trustworthy
    assert table["ok"].isin([True, None]).all()
    assert (table["ok"].isna() == table["target_low"].isna()).all()
    inside = table["value"].between(table["target_low"], table["target_high"])
    assert (inside == table["ok"])[table["ok"].notna()].all()
    assert len(result.sentences) == len(table) == table["check"].nunique()
    for value, sentence in zip(table["value"], result.sentences, strict=True):
        assert f"{100 * value:.1f} %" in sentence
    assert seen[-1][1:] == (150, 150)
    values = table.set_index("check")["value"]
    assert values[checks.POOLED_RULE] > 0.1  # the contrasts are what they are known to be
    assert values[checks.ITEMS_AS_DESIGN] > 0.15
    assert "Verdicts can be trusted" in result.conclusion[0]


def blind_to_seeds(*args: object, **options: object) -> object:
    """A z test that takes the noise of single examples for everything."""
    real = design_batch(*args, **options)  # type: ignore[arg-type]
    se = np.full_like(real.se, 1.0)
    return replace(real, se=se, p=2 * stats.norm.sf(np.abs(real.delta) / se), exact=False)


def without_seeds(*args: object, **options: object) -> object:
    result = two_component_interval(*args, **options)  # type: ignore[arg-type]
    half = 1.96 * math.sqrt(max(result.item_variance - result.interaction_variance, 0.0))
    return replace(result, ci=(result.delta - half, result.delta + half))


def unadjusted_pairs(*args: object, **options: object) -> object:
    result = max_t(*args, **options)  # type: ignore[arg-type]
    return replace(result, p_adjusted=result.p / 2)


def unadjusted(p: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    return np.asarray(p) / 2


def generous(delta: float, se: float, df: float, margin: float, alpha: float) -> object:
    return equivalence(delta, se, df, 1.5 * margin, alpha)


BROKEN: dict[str, tuple[object, str, Callable[..., object]]] = {
    checks.DESIGN_SIZE: (simulated, "design_batch", blind_to_seeds),
    checks.FAMILY: (retraining, "adjust", unadjusted),
    checks.EQUIVALENCE_SIZE: (retraining, "equivalence", generous),
    checks.TWO_COMPONENT: (pictures, "two_component_interval", without_seeds),
    checks.MAX_T: (pictures, "max_t", unadjusted_pairs),
}


@pytest.mark.parametrize("flagged", BROKEN)
def test_a_broken_engine_is_found_out(monkeypatch: pytest.MonkeyPatch, flagged: str) -> None:
    module, name, replacement = BROKEN[flagged]

    def check() -> Check:
        if module is pictures:
            return of_examples(shape())[flagged]
        return of_runs(shape(), repetitions=400, margin=20.0)[flagged]  # equivalence can be decided

    assert check().ok
    monkeypatch.setattr(module, name, replacement)
    broken = check()
    assert broken.ok is False
    assert broken.target is not None
    assert not broken.target[0] <= broken.value <= broken.target[1]
    assert "NOT as promised" in broken.sentence


def test_a_table_that_tests_otherwise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(*args: object, **options: object) -> object:
        result = compare(*args, **options)  # type: ignore[arg-type]
        return replace(result, p=result.p / 2)

    monkeypatch.setattr(simulated, "compare", halved)
    result = calibrate(shape(2, arms=2), repetitions=100)
    row = result.table.iloc[0]
    assert row["ok"] is False
    assert "the table give different p-values" in row["note"]
    assert not result.trustworthy
    assert f"Broken promises: {checks.DESIGN_SIZE}" in result.conclusion[0]


def test_the_conclusion_knows_what_few_seeds_cannot_do() -> None:
    two = calibrate(shape(2, arms=2), repetitions=100)
    text = " ".join(two.conclusion)
    assert "cannot give p below 0.33" in text
    assert "without pooling no design claim can be made" in text
    assert "most answers will be 'unresolved'" in text
    assert checks.MAX_T not in set(two.table["check"])  # two arms are one pair


@pytest.mark.parametrize("name", SHAPES)
def test_other_designs_are_calibrated_too(name: str) -> None:
    source = shape(**SHAPES[name])  # type: ignore[arg-type]
    found = of_runs(source, repetitions=300, seed=6)
    assert [check.name for check in found.values() if check.ok is False] == []


def test_the_arms_of_one_context_are_compared_on_examples() -> None:
    """Context 1 has most arms but no baseline; the interval for new seeds does not exist with paired seeds."""
    source = shape(((3, 0), (3, 3), (0, 3), (0, 3)), paired_seeds=True)
    found = of_examples(source, repetitions=20)
    assert checks.MAX_T not in found
    assert checks.TWO_COMPONENT not in found
    assert checks.ITEMS_SIZE in found


# ------------------------------------------------------------------------------------------------- bad inputs


def test_one_seed_per_cell_is_refused_with_advice() -> None:
    source = shape(seeds=2)
    table = long_table(source)
    with pytest.raises(DataError, match=r"one seed only.*train at least one arm with two seeds"):
        shape_of(table[table["seed"] == 0], design(source))
    with pytest.raises(DataError, match="no arm has two seeds in common with the baseline"):
        shape(((4,), (1,), (1,)), paired_seeds=True)


def test_one_cluster_is_refused() -> None:
    source = shape(seeds=2)
    with pytest.raises(DataError, match="counting has fewer than two clusters"):
        shape_of(long_table(source).assign(cluster_id="the same"), design(source))


def test_other_bad_inputs_are_refused() -> None:
    source = shape(seeds=2)
    table = long_table(source)
    with pytest.raises(DataError, match=r"lacks the column.*cluster_id"):
        shape_of(table.drop(columns="cluster_id"), design(source))
    with pytest.raises(DataError, match=r"outside \[0, 1\]"):
        shape_of(table.assign(score=table["score"] * 100), design(source))
    with pytest.raises(DataError, match="one arm only"):
        shape_of(table[table["arm"] == "base"], design(source))
    with pytest.raises(DataError, match="nothing to compare"):
        shape(arms=2, copies=(((1, 0), (0, 0)),))
    with pytest.raises(DataError, match="fewer than 100"):
        calibrate(source, repetitions=10)
    with pytest.raises(DataError, match="margin"):
        calibrate(source, margin=0)
    with pytest.raises(DataError, match="alpha"):
        calibrate(source, alpha=0.7)
    still = replace(source, benchmarks=tuple(replace(b, seed_sd=0.0) for b in source.benchmarks))
    with pytest.raises(DataError, match="seeds changed nothing"):
        calibrate(still)


def test_benchmarks_without_signal_are_left_out_and_copied_cells_are_no_replication() -> None:
    source = shape(seeds=2)
    table = long_table(source)
    declared = replace(design(source), majority={"counting": 0.65, "reading": 0.3})
    found = shape_of(table, declared)
    assert [benchmark.name for benchmark in found.benchmarks] == ["reading"]
    assert found.notes == ("left out because they carry no signal: counting",)
    found = shape_of(table, replace(declared, majority={"counting": 0.99, "reading": 0.99}))
    assert len(found.benchmarks) == 2
    assert "so all of them were used" in found.notes[0]
    copied = table[table["arm"] == "base"].assign(arm="third")
    found = shape_of(pd.concat([table[table["arm"] != "third"], copied]), design(source))
    assert found.copies == (((2, 0), (0, 0)),)
    assert (found.error_df, len(found.contrasts())) == (2, 2)
    assert found.notes == ("third in default has the same runs as base in default",)
