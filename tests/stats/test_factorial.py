"""Effects of a design space: against statsmodels, enumeration and planted truths; what each is tested against; and
where nothing may be claimed."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from factorial_scores import axes, grid, planted, scores, trained
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from vlmablate.errors import DataError, UserError
from vlmablate.stats.factorial import (
    EFFECT_COLUMNS,
    Factor,
    Space,
    detectable_effect,
    effects,
    level_means,
)
from vlmablate.stats.factorial.strata import HIGHER, alike_terms, degrees, squares, strata
from vlmablate.stats.multiplicity import adjust
from vlmablate.stats.power import mde
from vlmablate.stats.settings import Settings

SETTINGS = Settings()


def noisy(space: Space, seeds: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 50 + rng.normal(0, 1, (seeds, space.size)) + rng.normal(0, 2, (seeds, 1))


def long(points: np.ndarray, space: Space) -> pd.DataFrame:
    """One row per run, with a column per axis."""
    rows = [
        dict(
            zip([axis.name for axis in space.axes], levels, strict=True),
            seed=seed,
            points=points[seed, column],
        )
        for seed in range(len(points))
        for column, levels in enumerate(space.grid)
    ]
    return pd.DataFrame(rows)


def suite(table: pd.DataFrame, term: str) -> pd.DataFrame:
    return table[(table["benchmark"] == "suite") & (table["term"] == term)]


def test_each_effect_has_the_error_of_the_analysis_of_variance_within_subjects() -> None:
    space = grid((3, 2))
    points = noisy(space, 4)
    anova = AnovaRM(long(points, space), "points", "seed", within=["resize", "stages"]).fit().anova_table
    lengths, d = squares(points.mean(axis=0), space), degrees(space)
    errors = strata(points, space, [[term] for term in d])
    for term, name in {(0,): "resize", (1,): "stages", (0, 1): "resize:stages"}.items():
        f = 4 * float(lengths[term]) / d[term] / errors[term].variance
        assert f == pytest.approx(anova.loc[name, "F Value"])
        assert errors[term].df == anova.loc[name, "Den DF"]


def test_with_no_shared_step_effects_are_those_of_least_squares_with_seeds_as_blocks() -> None:
    space = grid((3, 2))
    points = noisy(space, 3)
    table = effects(scores(points, space), space, SETTINGS, steps=trained(space, 3, (0, 1)))
    model = smf.ols(
        "points ~ C(seed) + C(resize, Treatment) * C(stages, Treatment)", long(points, space)
    ).fit()
    pair = suite(table, "resize × stages").set_index("level")
    for level in ("l1", "l2"):
        name = f"C(resize, Treatment)[T.{level}]:C(stages, Treatment)[T.l1]"
        row = pair.loc[level]
        assert row["delta"] == pytest.approx(model.params[name])
        assert row["se"] == pytest.approx(model.bse[name])
        assert row["p"] == pytest.approx(model.pvalues[name])
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(model.conf_int().loc[name]))
        assert row["df"] == model.df_resid == 10
    main = suite(table, "resize").set_index("level")
    additive = smf.ols("points ~ C(seed) + C(resize, Sum) * C(stages, Sum)", long(points, space)).fit()
    first, second = (additive.params[f"C(resize, Sum)[S.l{i}]"] for i in (0, 1))
    assert main.loc["l1", "delta"] == pytest.approx(second - first)
    assert main.loc["l1", "se"] == pytest.approx(math.sqrt(model.mse_resid * 2 * 3 / (6 * 3)))


def test_contrasts_are_averages_over_the_other_axes() -> None:
    space = grid((2, 3, 2))
    points = planted(space, lambda a, b, c: 3 * a + 2 * (b == 2) + 1.5 * a * c + 4 * a * (b == 1) + 0.3 * c)
    table = effects(scores(np.repeat(points, 2, axis=0), space), space, SETTINGS)
    delta = table[table["benchmark"] == "suite"].set_index(["term", "level", "level_b"])["delta"]
    assert delta["resize", "l1", ""] == pytest.approx(3 + 1.5 / 2 + 4 / 3)
    assert delta["stages", "l1", ""] == pytest.approx(4 / 2)
    assert delta["stages", "l2", ""] == pytest.approx(2)
    assert delta["epochs", "l1", ""] == pytest.approx(0.3 + 1.5 / 2)
    assert delta["resize × stages", "l1", "l1"] == pytest.approx(4)
    assert delta["resize × stages", "l1", "l2"] == pytest.approx(0)
    assert delta["resize × epochs", "l1", "l1"] == pytest.approx(1.5)
    assert delta["stages × epochs", "l2", "l1"] == pytest.approx(0)


def test_the_parts_of_the_variance_add_up() -> None:
    space = grid((2, 3, 2, 2))
    values = np.random.default_rng(1).normal(size=(5, space.size))
    parts = squares(values, space)
    assert set(parts) == set(degrees(space))
    assert sum(degrees(space).values()) == space.size - 1
    total = np.sum((values - values.mean(axis=1, keepdims=True)) ** 2, axis=1)
    assert sum(parts.values()) == pytest.approx(total)


@pytest.mark.parametrize(
    ("shared", "alone"),
    [((0, 1, 2), []), ((0,), [(0,)]), ((), []), ((0, 1), [(0,), (1,), (0, 1)])],
    ids=["own steps", "one axis before the step", "one step for all", "two axes before the step"],
)
def test_effects_pool_their_error_where_every_step_enters_them_alike(
    shared: Sequence[int], alone: list[tuple[int, ...]]
) -> None:
    space = grid((2, 3, 2))
    ids = [[f"{'+'.join(levels)}@{seed}" for levels in space.grid] for seed in range(2)]
    found = alike_terms(space, ids, trained(space, 2, shared))
    rest = [term for term in degrees(space) if term not in alone]
    assert sorted(found) == sorted(group for group in (alone, rest) if group)
    assert alike_terms(space, ids, None) == [[term] for term in degrees(space)]
    assert alike_terms(space, ids, {}) == [[term] for term in degrees(space)]


def test_type_one_error_where_configurations_share_a_step() -> None:
    """An axis before a shared alignment: its own error holds the level, the spread within all cells does not."""
    repetitions, seeds, space = 4000, 3, grid((2, 3, 2))
    rng = np.random.default_rng(0)
    alignment = rng.normal(0, 1, (repetitions, seeds, 2, 1, 1))
    points = (rng.normal(0, 1, (repetitions, seeds, 2, 3, 2)) + alignment).reshape(repetitions, seeds, -1)
    mean = points.mean(axis=1)
    around = {term: s.sum(axis=1) for term, s in squares(points - mean[:, None], space).items()}
    d, lengths = degrees(space), squares(mean, space)
    within = np.sum((points - mean[:, None]) ** 2, axis=(1, 2)) / (space.size * (seeds - 1))
    groups = alike_terms(
        space, [[f"{'+'.join(c)}@{s}" for c in space.grid] for s in range(seeds)], trained(space, seeds, (0,))
    )
    for terms in groups:
        df = (seeds - 1) * sum(d[term] for term in terms)
        error = sum(around[term] for term in terms) / df
        for term in terms:
            f = seeds * lengths[term] / d[term] / error
            rate = float(np.mean(stats.f.sf(f, d[term], df) < 0.05))
            assert abs(rate - 0.05) < 3.5 * math.sqrt(0.05 * 0.95 / repetitions)
    naive = seeds * lengths[0,] / within
    assert np.mean(stats.f.sf(naive, 1, space.size * (seeds - 1)) < 0.05) > 0.2


def test_families_and_verdicts() -> None:
    space = grid((3, 2))
    points = planted(space, lambda a, b: 50 + 6 * (a == 1) - 5 * b) + 0.3 * (noisy(space, 4) - 50)
    table = effects(
        scores(points, space, ("gqa", "vqa", "coin")), space, SETTINGS, with_signal=["gqa", "vqa"]
    )
    assert list(table.columns) == EFFECT_COLUMNS
    main = table[table["family"] == "main"].set_index(["axis", "level"])
    assert list(main["verdict"]) == ["better", "equivalent", "worse"]
    assert list(main["p_adjusted"]) == pytest.approx(list(adjust(main["p"])))
    pairs = table[table["family"] == "interaction"]
    assert set(pairs["verdict"]) == {"equivalent"}
    assert list(pairs["baseline_b"]) == ["l0", "l0"]
    one = table[table["family"] == "main:resize=l1"]
    assert list(one["benchmark"]) == ["gqa", "vqa"]
    assert (one["p_adjusted"] == 2 * one["p"]).all()
    coin = table[table["benchmark"] == "coin"]
    assert coin["family"].str.startswith("no-signal:").all()
    assert set(coin["verdict"]) == {"unresolved"}
    assert coin["p"].notna().all()
    assert coin["p_adjusted"].isna().all()
    assert "interaction:resize=l1:stages=l1" in set(table["family"])
    silent = effects(scores(points, space), space, SETTINGS, with_signal=[])
    assert "suite" not in set(silent["benchmark"])
    assert set(silent["verdict"]) == {"unresolved"}


def test_the_suite_is_the_mean_of_the_benchmarks_with_signal() -> None:
    space = grid((2, 2))
    table = scores(noisy(space, 3), space, ("gqa", "vqa", "coin"))
    up = table.assign(
        points=table["points"] + (table["benchmark"] == "vqa") * (table["arm"].str[1] == "1") * 4
    )
    up.loc[up["benchmark"] == "coin", "points"] = 0.0
    before = suite(effects(table, space, SETTINGS, with_signal=["gqa", "vqa"]), "resize")["delta"].iloc[0]
    after = suite(effects(up, space, SETTINGS, with_signal=["gqa", "vqa"]), "resize")["delta"].iloc[0]
    assert after == pytest.approx(before + 2)


def test_a_declared_direction_is_that_of_main_effects_only() -> None:
    space = grid((2, 2))
    table = scores(noisy(space, 4), space)
    both, one = (effects(table, space, Settings(alternative=side)) for side in ("two-sided", "greater"))  # type: ignore[arg-type]
    for row, other in zip(both.itertuples(), one.itertuples(), strict=True):
        sided = row.p / 2 if row.delta > 0 else 1 - row.p / 2
        assert other.p == pytest.approx(row.p if row.kind == "interaction" else sided)


def test_a_seed_without_all_its_runs_is_left_out_and_named() -> None:
    space = grid((2, 2))
    table = scores(noisy(space, 4), space)
    hole = table[~((table["seed"] == 3) & (table["arm"] == "l1+l0"))]
    found = effects(hole, space, SETTINGS)
    pd.testing.assert_frame_equal(
        found.drop(columns="reason"),
        effects(table[table["seed"] < 3], space, SETTINGS).drop(columns="reason"),
    )
    assert set(found["reason"]) == {"left out: seed 3 (no run of l1+l0)"}
    assert set(found["n_seeds"]) == {3}
    assert set(found["n_runs"]) == {12}


@pytest.mark.parametrize(
    ("keep", "searched", "why"),
    [
        ("seed == 0", False, "one seed"),
        ("arm != 'l1+l0+l1'", False, "1 of 12 configurations have no run: l1+l0+l1"),
        ("seed == 0 or arm != 'l1+l0+l1'", False, "fewer than two complete seeds"),
        ("seed < 3", True, "a search chose the configurations"),
    ],
)
def test_nothing_is_claimed_without_replication(keep: str, searched: bool, why: str) -> None:
    space = grid((2, 3, 2))
    space = Space(space.axes, space.levels, searched)
    points = planted(space, lambda a, b, c: 50 + 9 * a) + 0.1 * (noisy(space, 3) - 50)
    table = effects(scores(points, space).query(keep), space, SETTINGS)
    assert set(table["verdict"]) == {"unresolved"}
    assert table[["p", "p_adjusted", "p_equivalence", "mde"]].isna().to_numpy().all()
    main = table[table["kind"] == "main"]
    assert main["reason"].str.startswith(why).all()
    row = suite(table, "resize").iloc[0]
    assert row["delta"] == pytest.approx(9, abs=0.5)
    assert row["ci_low"] < row["delta"] < row["ci_high"]


def random_arms(space: Space, count: int, seed: int = 0) -> Space:
    chosen = np.random.default_rng(seed).permutation(space.size)[:count]
    levels = {"+".join(space.grid[i]): space.grid[i] for i in sorted({0, *chosen})}
    return Space(space.axes, levels, searched=True)


def only(table: pd.DataFrame, space: Space) -> pd.DataFrame:
    return table[(table["seed"] == 0) & table["arm"].isin(list(space.levels))]


def test_fitted_effects_are_those_of_least_squares() -> None:
    whole = grid((3, 3, 2, 2))
    space = random_arms(whole, 14)
    points = noisy(whole, 1)
    table = effects(only(scores(points, whole), space), space, SETTINGS)
    rows = long(points, whole)
    rows = rows[rows[["resize", "stages", "epochs", "fusion"]].agg("+".join, axis=1).isin(list(space.levels))]
    model = smf.ols("points ~ C(resize) + C(stages) + C(epochs) + C(fusion)", rows).fit()
    for row in table[(table["benchmark"] == "suite") & (table["kind"] == "main")].itertuples():
        name = f"C({row.axis})[T.{row.level}]"
        assert row.delta == pytest.approx(model.params[name])
        assert (row.ci_low, row.ci_high) == pytest.approx(tuple(model.conf_int().loc[name]))
        assert row.df == model.df_resid
    assert table.loc[table["kind"] == "interaction", "reason"].str.contains("too few to fit pairs").all()


def test_planted_effects_and_pairs_are_found_in_a_part_of_the_space() -> None:
    whole = grid((3, 3, 2, 2))
    space = random_arms(whole, 30)
    points = planted(whole, lambda a, b, c, d: 2 * a + (b == 1) + 4 * c * d + 3 * (a == 2) * c)
    table = effects(only(scores(points, whole), space), space, SETTINGS)
    delta = table[table["benchmark"] == "suite"].set_index(["term", "level", "level_b"])["delta"]
    assert delta["resize", "l2", ""] == pytest.approx(4 + 3 / 2)
    assert delta["epochs", "l1", ""] == pytest.approx(4 / 2 + 3 / 3)
    assert delta["stages", "l1", ""] == pytest.approx(1)
    assert delta["epochs × fusion", "l1", "l1"] == pytest.approx(4)
    assert delta["resize × epochs", "l2", "l1"] == pytest.approx(3)
    assert delta["resize × epochs", "l1", "l1"] == pytest.approx(0, abs=1e-9)


def test_what_the_configurations_cannot_tell_is_nan_with_a_reason() -> None:
    found = axes((3, 2, 2))
    # Level l2 of resize is missing; stages and epochs only ever change together.
    arms = [("l0", "l0", "l0"), ("l1", "l0", "l0"), ("l0", "l1", "l1"), ("l1", "l1", "l1")]
    space = Space(found, {"+".join(levels): levels for levels in arms}, searched=True)
    records = [("+".join(levels), 0, str(i), "vqa", 50.0 + i**2) for i, levels in enumerate(arms)]
    table = effects(
        pd.DataFrame(records, columns=["arm", "seed", "run_id", "benchmark", "points"]), space, SETTINGS
    )
    main = table[(table["benchmark"] == "suite") & (table["kind"] == "main")].set_index(["axis", "level"])
    assert main.loc[("resize", "l1"), "delta"] == pytest.approx((1 + 5) / 2)
    assert main.loc[("resize", "l2"), "reason"] == "resize=l2 was never run"
    for axis in ("stages", "epochs"):
        assert math.isnan(main.loc[(axis, "l1"), "delta"])
        assert "cannot tell" in main.loc[(axis, "l1"), "reason"]


def test_seeds_that_change_nothing_replicate_nothing() -> None:
    space = grid((2, 2))
    table = effects(scores(np.repeat(planted(space, lambda a, b: 5 * a), 3, axis=0), space), space, SETTINGS)
    assert suite(table, "resize").iloc[0]["verdict"] == "unresolved"
    assert "no replication" in suite(table, "resize").iloc[0]["reason"]
    same = suite(table, "stages").iloc[0]
    assert (same["delta"], same["p"], same["verdict"]) == (0, 1, "equivalent")


def test_level_means_draw_the_interaction() -> None:
    space = grid((2, 2, 3))
    points = noisy(space, 3)
    found = level_means(scores(points, space), space, SETTINGS, "resize", "stages").set_index(
        ["level", "level_b"]
    )
    cell = points.reshape(3, 2, 2, 3)[:, 1, 0].mean(axis=1)
    row = found.loc[("l1", "l0")]
    assert row["mean"] == pytest.approx(cell.mean())
    assert row["n_seeds"] == 3
    pairs = points.reshape(3, 4, 3).mean(axis=2)
    half_width = stats.t.isf(0.025, 8) * math.sqrt(pairs.var(axis=0, ddof=1).mean() / 3)
    assert row["ci_high"] - row["mean"] == pytest.approx(half_width)
    part = Space(
        space.axes, {arm: levels for arm, levels in space.levels.items() if arm[:5] != "l1+l1"}, True
    )
    table = level_means(only(scores(points, space), part), part, SETTINGS, "resize", "stages")
    assert table["mean"].isna().tolist() == [False, False, False, True]
    assert table["ci_low"].isna().all()
    with pytest.raises(UserError, match="unknown axis 'stage'"):
        level_means(scores(points, space), space, SETTINGS, "resize", "stage")


def test_detectable_effects() -> None:
    found = detectable_effect((3, 2, 2, 1), 3, 1.5, SETTINGS)
    se = [1.5 * math.sqrt(2 * levels / (12 * 3)) for levels in (3, 2, 2)]
    assert found[:3] == pytest.approx([mde(each, 22, alpha=0.05 / 4) for each in se])
    assert math.isnan(found[3])
    assert all(math.isnan(each) for each in detectable_effect((2, 2), 1, 1.0, SETTINGS))
    with pytest.raises(DataError, match="needs axes"):
        detectable_effect((2, 0), 3, 1.0, SETTINGS)


def test_what_is_detectable_is_found_as_often_as_declared() -> None:
    space, seeds, repetitions = grid((2, 3)), 3, 4000
    effect = detectable_effect((2, 3), seeds, 1.0, SETTINGS)[0]
    noise = np.random.default_rng(0).normal(0, 1, (repetitions, seeds, 6))
    points = noise + effect * planted(space, lambda a, b: a)
    mean = points.mean(axis=1)
    error = sum(s.sum(axis=1) for s in squares(points - mean[:, None], space).values()) / 10
    f = seeds * squares(mean, space)[0,] / error
    assert float(np.mean(stats.f.sf(f, 1, 10) < 0.05 / 3)) == pytest.approx(0.8, abs=0.02)


def test_a_space_is_read_from_what_the_study_declares() -> None:
    exploration = {
        "axes": [
            {"name": "resize", "baseline": "letterbox", "levels": [{"name": "letterbox"}, {"name": "naive"}]},
            {"name": "stages", "baseline": "two", "levels": [{"name": "two"}, {"name": "single"}]},
        ],
        "search": "tpe",
        "levels": {"naive+two": {"stages": "two", "resize": "naive"}},
    }
    space = Space.read(exploration)
    assert space.levels == {"naive+two": ("naive", "two")}
    assert space.searched
    assert space.size == 4
    assert space.baseline == ("letterbox", "two")
    assert not Space.read({**exploration, "search": ""}).searched
    assert [space.name(term) for term in space.terms] == ["resize", "stages", "resize × stages"]


def test_spaces_that_are_none() -> None:
    one = Factor("resize", "a", ("a", "b"))
    with pytest.raises(UserError, match="unknown baseline 'c'"):
        Factor("resize", "c", ("a", "b"))
    with pytest.raises(UserError, match="names one level twice"):
        Factor("resize", "a", ("a", "a"))
    with pytest.raises(UserError, match="needs different axes, got none"):
        Space((), {})
    with pytest.raises(UserError, match="needs different axes"):
        Space((one, one), {})
    with pytest.raises(UserError, match="unknown level 'z'"):
        Space((one,), {"z": ("z",)})
    with pytest.raises(UserError, match="needs a level on each of resize"):
        Space((one,), {"z": ("a", "b")})
    with pytest.raises(UserError, match="the same configuration"):
        Space((one,), {"y": ("a",), "z": ("a",)})


def test_scores_that_cannot_be_these_runs() -> None:
    space = grid((2, 2))
    good = scores(noisy(space, 2), space, ("gqa", "vqa"))
    run = good["run_id"] == "l1+l0@1"
    wrong: dict[str, pd.DataFrame] = {
        "lack the column": good.drop(columns="seed"),
        "hold no run": good.iloc[:0],
        "unknown arm 'l9'": good.assign(arm=good["arm"].where(~run, "l9")),
        "has two scores on gqa": pd.concat([good, good.iloc[:1]]),
        "belong to another run": good.assign(run_id=good["run_id"].where(~run, "l0+l0@0")),
        "has the score nan": good.assign(points=good["points"].where(~run)),
        "lacks a benchmark": good[~(run & (good["benchmark"] == "vqa"))],
    }
    for message, table in wrong.items():
        with pytest.raises(UserError, match=message):
            effects(table, space, SETTINGS)
    with pytest.raises(UserError, match="unknown benchmark 'vqq'"):
        effects(good, space, SETTINGS, with_signal=["vqq"])


def test_a_plan_imports_neither_pandas_nor_scipy() -> None:
    code = (
        "import sys; from vlmablate.stats.factorial import Space, detectable_effect; "
        "assert not {'pandas', 'scipy', 'statsmodels'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_higher_order_has_a_name_of_its_own() -> None:
    assert HIGHER in degrees(grid((2, 2, 2)))
    assert HIGHER not in degrees(grid((2, 3)))
