"""The published p-values return; oracles are what the paper printed, scipy, and values derived independently."""

from __future__ import annotations

import itertools
import math
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import yaml
from scipy import stats

from vlmablate.errors import DataError, UserError
from vlmablate.paths import resource
from vlmablate.stats import paper, pooled_rule, rounding
from vlmablate.stats import reference as published
from vlmablate.stats.estimate import SMALLEST_P
from vlmablate.stats.paper import replay
from vlmablate.stats.paper_words import agreement
from vlmablate.stats.pooled_rule import pooled_rule_type_one_error
from vlmablate.stats.reference import BENCHMARKS, load_reference

# Independently derived once from the same tables. Columns: rule p, t, df, range of p that was seen in random draws
# of the rounding errors, first version's 11 benchmarks, z-scores over 44 and over 48 models, benchmarks as units.
DERIVED = {
    "single_stage": (0.00558058, 3.0576, 23, (0.005464, 0.005697), 0.00715695, 0.001486, 0.002024, 0.028),
    "finetune_vision": (
        0.00381166,
        -3.2179,
        23,
        (0.003804, 0.00382),
        0.00407707,
        8.405e-05,
        0.0002283,
        0.027,
    ),
    "contrastive": (
        7.11472e-08,
        6.3811,
        47,
        (7.08e-08, 7.149e-08),
        8.88653e-08,
        3.806e-19,
        3.444e-16,
        0.0068,
    ),
    "naive_resize": (0.0175741, 2.4612, 47, (0.01717, 0.01804), 0.014808, 0.0008185, 0.003245, 0.084),
    "resolution": (0.000605613, 3.9703, 23, (0.0005997, 0.0006118), 0.000566149, 1.275e-05, 2.061e-05, 0.018),
    "dino_siglip": (0.00164036, 3.5662, 23, (0.001626, 0.001657), 0.00162877, 1.187e-05, 9.708e-05, 0.025),
    "dino_clip": (0.37313, -0.9083, 23, (0.3726, 0.3736), 0.406627, 0.5433, 0.6794, 0.54),
    "base_lm": (0.348545, 0.9502, 35, (0.3461, 0.351), 0.373243, 0.6529, 0.3898, 0.44),
    "mistral": (0.0308851, 2.2996, 23, (0.0306, 0.0312), 0.00296681, 0.5577, 0.09736, 0.091),
    "no_cotraining": (0.136552, -1.5427, 23, (0.1356, 0.1375), 0.194908, 0.1367, 0.2253, 0.30),
    "two_epochs": (0.00496402, 3.5007, 11, (0.004891, 0.005037), 0.0044009, 5.426e-05, 0.0004062, 0.0050),
    "more_data": (0.0145977, 2.8941, 11, (0.01422, 0.01498), 0.0138421, 0.003013, 0.003882, 0.0146),
}
PRINTED = {
    "single_stage": "0.00558",
    "finetune_vision": "0.00381",
    "contrastive": "7.11e-8",
    "naive_resize": "0.0176",
    "resolution": "6.05e-4",
    "dino_siglip": "0.00164",
    "dino_clip": "0.37313",
    "base_lm": "0.34854",
    "mistral": "0.03097",
    "no_cotraining": "0.13655",
    "two_epochs": "0.00496",
    "more_data": "0.01459",
}
FIRST_VERSION = {
    "single_stage": "0.007",
    "contrastive": "8.88e-8",
    "naive_resize": "0.0148",
    "dino_siglip": "0.00162",
    "dino_clip": "0.4066",
    "base_lm": "0.373",
    "more_data": "0.0138",
}
TIPPING = {
    "contrastive": 4.63,
    "finetune_vision": 3.44,
    "dino_siglip": 1.29,
    "resolution": 1.12,
    "two_epochs": 0.88,
    "mistral": 0.62,
    "single_stage": 0.45,
    "more_data": 0.41,
    "dino_clip": 0.31,
    "naive_resize": 0.20,
    "base_lm": 0.19,
}


@pytest.fixture(scope="module")
def reference() -> published.Reference:
    return load_reference()


@pytest.fixture(scope="module")
def replayed() -> paper.Replay:
    return replay()


@pytest.fixture(scope="module")
def table(replayed):
    return replayed.table.set_index("comparison")


def test_the_published_tables(reference):
    assert reference.scores.shape == (48, 13)
    assert len(reference.trained) == 44
    assert set(reference.scores.columns) == {*BENCHMARKS, "TextVQA+OCR"}
    assert float(reference.scores.loc["one-stage+7b", "VQAv2"]) == 77.09
    missing = reference.scores.isna()
    assert set(missing.index[missing.any(axis=1)]) == {
        "official:instructblip-7b",
        "official:instructblip-13b",
    }
    assert set(missing.columns[missing.any()]) == {"RefCOCO", "RefCOCO+", "RefCOCOg", "OCIDRef"}
    assert np.allclose(reference.half_units.to_numpy()[~missing.to_numpy()], 0.005)
    assert dict(reference.comparisons["printed"]) == PRINTED
    assert {k: v for k, v in reference.comparisons["printed_v1"].items() if v} == FIRST_VERSION


def test_every_comparison_names_models_of_the_table_and_existing_axes(reference):
    for name in reference.comparisons.index:
        for pair in reference.pairs(name):
            assert set(pair) <= set(reference.trained)
    printed = {
        axis: {float(value) for value in part["printed"]}
        for axis, part in reference.comparisons.groupby("axis")
        if axis
    }
    for axis, values in printed.items():
        declared = yaml.safe_load((resource("conf") / "axis" / f"{axis}.yaml").read_text(encoding="utf-8"))
        assert declared["paper"]["p_published"] in values


def test_twelve_of_twelve_inside_the_rounding_band(table):
    assert table["within_band"].all()
    assert table["within_random_band"].all()


def test_eleven_agree_to_the_last_printed_digit_and_mistral_does_not(table):
    truncated = {"resolution", "base_lm", "more_data"}
    rounded = set(PRINTED) - truncated - {"mistral"}
    assert set(table.index[table["agrees_to_last_digit"]]) == rounded
    assert set(table.index[table["agrees_up_to_truncation"]]) == rounded | truncated
    assert [agreement(table.loc[name]) for name in ("two_epochs", "resolution", "mistral")] == [
        "rounded",
        "truncated",
        "inside the band",
    ]


def test_seven_of_seven_of_the_first_version(table):
    assert set(table.index[table["printed_v1"] != ""]) == set(FIRST_VERSION)
    assert all(table.loc[name, "agrees_v1"] is True for name in FIRST_VERSION)
    assert table.loc["mistral", "agrees_v1"] is None


def test_the_summary_counts_what_the_table_says(replayed):
    assert replayed.summary() == (
        "12 of 12 inside the rounding band, 11 to the last printed digit (8 rounded, 3 truncated); "
        "first version (11 benchmarks) 7 of 7 to the last printed digit"
    )
    assert (replayed.counts["holm"], replayed.counts["holm_paper_alpha"]) == (6, 2)


@pytest.mark.parametrize("name", DERIVED)
def test_derived_values(name: str, table):
    p, t, df, drawn, p_v1, z44, z48, units = DERIVED[name]
    row = table.loc[name]
    assert row["p"] == pytest.approx(p, rel=1e-5)
    assert row["t"] == pytest.approx(t, abs=5.1e-5)
    assert row["df"] == df
    assert row["p_v1"] == pytest.approx(p_v1, rel=1e-5)
    assert row["p_zscore"] == pytest.approx(z44, rel=5e-4)
    assert row["p_zscore_48"] == pytest.approx(z48, rel=5e-4)
    assert float(f"{row['p_benchmarks']:.2g}") == pytest.approx(float(f"{units:.2g}"))
    assert row["p_one_sided"] == row["p"] / 2
    # The worst case contains what random rounding errors give, and the central 99 % of ours looks like theirs.
    assert row["p_low"] < drawn[0] < drawn[1] < row["p_high"]
    assert row["p_random_low"] == pytest.approx(drawn[0], rel=0.01)
    assert row["p_random_high"] == pytest.approx(drawn[1], rel=0.01)


def test_the_rule_is_scipys_one_sample_t(reference, table):
    scores = reference.scores[list(BENCHMARKS)]
    for name, row in table.iterrows():
        d = [
            2 * (scores.loc[alternate] - scores.loc[base]) / (scores.loc[alternate] + scores.loc[base])
            for base, alternate in reference.pairs(str(name))
        ]
        expected = stats.ttest_1samp(np.concatenate(d), 0)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-9)
        assert row["n"] == len(d) * 12


def test_holm(table):
    adjusted = table["p_holm"].sort_values()
    assert list(adjusted[:6]) == pytest.approx([8.5e-7, 0.0067, 0.0164, 0.0343, 0.0397, 0.0397], rel=0.01)
    assert set(table.index[table["holm_paper_alpha"]]) == {"contrastive", "resolution"}
    assert table.loc["more_data", "p_holm"] == pytest.approx(0.088, abs=5e-4)
    assert table.loc["naive_resize", "p_holm"] == pytest.approx(0.088, abs=5e-4)
    assert table.loc["mistral", "p_holm"] == pytest.approx(0.124, abs=5e-4)


def test_tipping_sd_of_one_pair_and_of_all_models(table):
    for name, value in TIPPING.items():
        assert round(table.loc[name, "tipping_seed_sd"], 2) == value
    both = table[["tipping_seed_sd", "tipping_seed_sd_models"]]
    ratio = both["tipping_seed_sd_models"] / both["tipping_seed_sd"]
    assert ratio["two_epochs"] == pytest.approx(1)
    assert ratio["single_stage"] == pytest.approx(math.sqrt(2))  # two pairs of distinct models
    assert ratio["naive_resize"] == pytest.approx(2)  # four pairs of distinct models
    assert ratio["contrastive"] == pytest.approx(math.sqrt(2))  # four crossed pairs are two models a side


def test_leave_one_benchmark_out(replayed, table, reference):
    base_lm = table.loc["base_lm"]
    assert base_lm["most_influential"] == "VSR"
    assert (base_lm["delta_points"], base_lm["delta_without"]) == pytest.approx((0.52, -0.08), abs=5e-3)
    out = replayed.leave_one_out
    assert len(out) == 144
    for name, row in table.iterrows():
        part = out[out["comparison"] == name]
        assert (row["loo_p_low"], row["loo_p_high"]) == (part["p"].min(), part["p"].max())
    eleven = replay([name for name in BENCHMARKS if name != "VizWiz"], reference).table.set_index(
        "comparison"
    )
    left = out[out["without"] == "VizWiz"].set_index("comparison")
    assert np.allclose(left["p"], eleven["p"])
    assert np.allclose(left["delta_points"], eleven["delta_points"])


def test_without_ai2d_is_the_first_version(replayed):
    eleven = replay(published.FIRST_VERSION).table
    assert np.allclose(eleven["p"], replayed.table["p_v1"], rtol=1e-12, atol=0)


def test_everything_is_unresolved_and_says_when_it_dies(table):
    assert set(table["verdict"]) == {"unresolved"}
    for _, row in table.iterrows():
        assert f"{row['delta_points']:+.2f} points" in row["sentence"]
        assert f"above {row['tipping_seed_sd']:.2f} points" in row["sentence"]


def test_words_that_contradict_the_sign_are_named(table):
    assert "but the mean difference is negative: -2.1 %, -1.00 points" in table.loc["no_cotraining", "notes"]
    contradicted = table.index[table["notes"].str.contains("but the mean difference is")]
    assert list(contradicted) == ["no_cotraining"]
    assert "Without VSR alone the mean difference changes sign" in table.loc["base_lm", "notes"]
    assert "p would be 0.0088 and pass 0.01" in table.loc["naive_resize", "notes"]
    assert "p would be 0.0073 and pass 0.01" in table.loc["more_data", "notes"]
    assert "end in the digit 0" in table.loc["mistral", "notes"]
    assert table.loc["contrastive", "notes"] == ""


def test_scale_invariance_and_symmetry(reference, table):
    factors = np.linspace(0.1, 3, 13)
    scaled = replace(reference, scores=reference.scores * factors, half_units=reference.half_units * factors)
    again = replay(reference=scaled).table.set_index("comparison")
    for column in ("p", "p_low", "p_high", "p_zscore", "p_v1", "mean_difference"):
        assert np.allclose(again[column], table[column], rtol=1e-9, atol=0), column
    swapped = reference.comparisons.rename(
        columns={"base_models": "alternate_models", "alternate_models": "base_models"}
    )
    turned = replay(reference=replace(reference, comparisons=swapped)).table.set_index("comparison")
    assert np.allclose(turned["p"], table["p"])
    assert np.allclose(turned["delta_points"], -table["delta_points"])


def test_scores_that_are_not_printed_take_no_part(reference):
    comparisons = reference.comparisons.loc[["two_epochs"]].copy()
    comparisons["base_models"] = "official:instructblip-7b"
    comparisons["alternate_models"] = "official:instructblip-13b"
    row = replay(reference=replace(reference, comparisons=comparisons)).table.iloc[0]
    pair = reference.scores.loc[["official:instructblip-7b", "official:instructblip-13b"], list(BENCHMARKS)]
    a, b = pair.dropna(axis=1).to_numpy()
    assert (row["n"], row["df"]) == (8, 7)
    assert row["p"] == pytest.approx(stats.ttest_1samp((b - a) / (a + b), 0).pvalue)
    assert row["p_low"] < row["p"] < row["p_high"]


def test_other_suites():
    few = replay(["GQA", "POPE", "TextVQA+OCR"])
    assert not few.complete
    assert few.summary().startswith("with 3 benchmarks (the printed values belong to the paper's 12)")
    assert few.table["p_v1"].tolist() == replay().table["p_v1"].tolist()
    one = replay(["VSR"]).table.set_index("comparison")
    assert math.isnan(one.loc["two_epochs", "p"])  # one pair on one benchmark is one number
    assert agreement(one.loc["two_epochs"]) == "no test"
    assert one.loc["contrastive", "p"] == 1  # every model answers the same
    assert (one.loc["contrastive", "p_low"], one.loc["contrastive", "p_high"]) == (SMALLEST_P, 1)
    assert replay(list(reversed(BENCHMARKS))).complete


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["VQAV2"], "did you mean 'VQAv2'"),
        (["GQA", "POPE", "GQA"], "GQA is named twice"),
        ([], "no benchmark"),
    ],
)
def test_wrong_suites_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        replay(names)


def test_a_missing_or_altered_table_is_refused(tmp_path):
    folder = tmp_path / "reference"
    shutil.copytree(published.reference_folder(), folder)
    windows = (folder / "results.csv").read_bytes().replace(b"\n", b"\r\n")
    (folder / "results.csv").write_bytes(windows)
    assert load_reference(folder).scores.shape == (48, 13)
    (folder / "results.csv").write_bytes(windows.replace(b"77.09", b"77.19"))
    with pytest.raises(DataError, match="is not the published table any more"):
        load_reference(folder)
    (folder / "results.csv").unlink()
    with pytest.raises(DataError, match="cannot read the published table"):
        load_reference(folder)


# -------------------------------------------------------------------------------------------------- rounding


def box(reference, comparison):
    """The intervals of the pooled d when table entries may be off by 0.005."""
    pairs = reference.pairs(comparison)
    base, alternate = (reference.scores.loc[[pair[i] for pair in pairs], list(BENCHMARKS)] for i in (0, 1))
    a, b = alternate.to_numpy().ravel(), base.to_numpy().ravel()
    return pooled_rule.relative_difference(a - 0.005, b + 0.005), pooled_rule.relative_difference(
        a + 0.005, b - 0.005
    )


@pytest.mark.parametrize("name", DERIVED)
def test_nothing_lies_outside_the_band_and_its_ends_are_attained(name: str, reference, table):
    low, high = box(reference, name)
    rng = np.random.default_rng(1)
    inside = low + (high - low) * rng.random((2000, len(low)))
    corners = np.where(rng.random((2000, len(low))) < 0.5, low, high)
    p = stats.ttest_1samp(np.concatenate([inside, corners]), 0, axis=1).pvalue
    band = table.loc[name, "p_low"], table.loc[name, "p_high"]
    assert band[0] <= p.min() < p.max() <= band[1]
    # Climbing over corners: each value goes to the end that the slope of |t| asks for.
    low, high = (-high, -low) if high.mean() < 0 else (low, high)
    for direction, end in ((1, band[0]), (-1, band[1])):
        d = (low + high) / 2
        for _ in range(20):
            d = np.where(direction * (np.sum(d**2) / np.sum(d) - d) > 0, high, low)
        assert stats.ttest_1samp(d, 0).pvalue == pytest.approx(end, rel=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_band_of_wide_boxes_against_a_search(seed: int):
    """Boxes so wide that ends are ambiguous and the best value may lie inside."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 7))
    middle, reach = rng.normal(1.2, 1, n), rng.uniform(0.01, 0.6, n)
    low, high = middle - reach, middle + reach
    p_low, p_high = rounding.rounding_band(low, high)
    corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
    levels = np.clip(np.linspace(low.min(), high.max(), 20_001)[:, None], low, high)
    drawn = low + (high - low) * rng.random((20_000, n))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # equal values, the case without spread, are among them
        p = stats.ttest_1samp(np.concatenate([corners, levels, drawn]), 0, axis=1).pvalue
        found_high = stats.ttest_1samp(corners, 0, axis=1).pvalue.max()
    p = np.maximum(p[np.isfinite(p)], SMALLEST_P)
    assert p_low <= p.min() * (1 + 1e-9)
    assert p_high >= p.max() * (1 - 1e-9)
    if low.mean() > 0:
        assert p_high == pytest.approx(found_high, rel=1e-9)
    if p_low > SMALLEST_P and low.mean() > 0:
        assert p_low == pytest.approx(p.min(), rel=1e-3)


def test_band_stays_sound_when_too_many_ends_are_open():
    rng = np.random.default_rng(0)
    middle = np.full(30, 1.0) + rng.normal(0, 0.05, 30)
    low, high = middle - 0.8, middle + 0.8
    p_low, p_high = rounding.rounding_band(low, high)
    corners = np.where(rng.random((5000, 30)) < 0.5, low, high)
    assert p_low == SMALLEST_P
    assert stats.ttest_1samp(corners, 0, axis=1).pvalue.max() <= p_high


def test_printed_digits():
    assert rounding.digits(0.00558058, "0.00558") == (True, True)
    assert rounding.digits(6.056e-4, "6.05e-4") == (False, True)
    assert rounding.digits(0.0308851, "0.03097") == (False, False)
    assert rounding.digits(math.nan, "0.5") == (False, False)
    assert float(rounding.half_unit("54.10")) == 0.005
    assert float(rounding.half_unit("7.11e-8")) == 5e-11
    assert rounding.meets("0.5", 0.549, 0.6)
    assert not rounding.meets("0.50", 0.549, 0.6)


def test_how_numbers_are_shown():
    assert rounding.like_printed(0.0055806, "0.00558") == "0.005581"
    assert rounding.like_printed(7.1147e-8, "7.11e-8") == "7.115e-8"
    assert rounding.like_printed(3.47e-7, "0.00558") == "3.47000e-7"
    assert rounding.band(0.03, 0.0318) == "0.0300 to 0.0318"
    assert [rounding.short(p) for p in (1, 7.11e-8, math.nan)] == ["1", "7.11e-8", "-"]


# ------------------------------------------------------------------------------------------ the error of the rule


@pytest.mark.parametrize(
    ("correlation", "low", "high", "low_01", "high_01"),
    [
        (0.0, 0.050, 0.050, 0.009, 0.009),
        (0.1, 0.17, 0.17, 0.065, 0.065),
        (0.25, 0.31, 0.34, 0.18, 0.19),
        (0.5, 0.47, 0.55, 0.34, 0.40),
    ],
)
@pytest.mark.parametrize("pairs", [1, 4])
def test_the_rule_is_wrong_too_often(correlation, low, high, low_01, high_01, pairs):
    rate = pooled_rule_type_one_error(correlation, pairs=pairs)
    assert low - 0.012 < rate.at_05 < high + 0.012
    assert low_01 - 0.009 < rate.at_01 < high_01 + 0.009


def test_crossed_pairs_are_wrong_even_without_correlation():
    crossed = pooled_rule_type_one_error(0.0, pairs=4, crossed=True)
    assert crossed.at_05 == pytest.approx(0.17, abs=0.012)


def test_the_simulation_is_seeded_and_checks_its_arguments():
    few = [pooled_rule_type_one_error(0.3, repetitions=500, seed=seed) for seed in (1, 1, 2)]
    assert few[0] == few[1] != few[2]
    for wrong in ({"correlation": 1.2}, {"correlation": 0.1, "pairs": 3, "crossed": True}):
        with pytest.raises(DataError):
            pooled_rule_type_one_error(**wrong)
