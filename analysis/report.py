# %% [markdown]
# # {question}
#
# {verdicts}
#
# This notebook needs only numpy, pandas and scipy, and the files beside it. It derives the main numbers of the
# report once more from the example scores, without the code that made the report, and stops if they disagree. To
# run it again: open it in this folder and run all cells.

# %%
import hashlib
import json
from functools import reduce
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image, display
from scipy import stats

FOLDER = Path.cwd()
study = json.loads((FOLDER / "study.json").read_text())
facts = json.loads((FOLDER / "benchmarks.json").read_text())
results = pd.read_parquet(FOLDER / "results.parquet")
significance = pd.read_csv(FOLDER / "significance.csv")

DEFAULTS = {"alpha": 0.05, "margin": 2.0, "signal_margin": 10.0, "alternative": "two-sided"}
DEFAULTS |= {"correction": "holm", "paired_seeds": False}
DECLARED = {**DEFAULTS, **(study.get("analysis") or {})}
ALPHA, SIDE, PAIRED = DECLARED["alpha"], DECLARED["alternative"], DECLARED["paired_seeds"]
FAMILIES = DECLARED.get("families") or {}  # benchmark -> family of related benchmarks
BASELINE = study.get("baseline") or study["axis"]["baseline"]
REPLICATE = study.get("replicate")  # limits of adaptive replication; None: a fixed number of seeds
SPACE = study.get("exploration")  # of a design space: the verdict is about the runs with fresh seeds alone
explored = results.iloc[:0]
if SPACE:
    BASELINE = SPACE["baseline"]
    explored = results[results["run_id"].isin(SPACE["explored"])]
    results = results[
        results["run_id"].isin(SPACE["confirmed"]) & results["arm"].isin([BASELINE, SPACE["best"]])
    ]


def show(frame):
    """Three decimals, p-values with two significant digits: a small p never looks like zero."""
    p_columns = [name for name in frame.columns if name in ("p", "p_adjusted", "p_equivalence")]
    display(frame.round(3).assign(**{name: frame[name].map("{:.2g}".format) for name in p_columns}))


def agree(derived, table, columns, what):
    """Stop unless the derived numbers are those of significance.csv."""
    reference = table[columns].to_numpy(dtype=float)
    same = np.isclose(derived[columns].to_numpy(dtype=float), reference, rtol=1e-6, atol=1e-8, equal_nan=True)
    assert same.all(), f"{what}: {table[~same.all(axis=1)].index.tolist()} of significance.csv differ"
    print(f"{len(table)} {what} agree with significance.csv")


print("results.parquet sha256", hashlib.sha256((FOLDER / "results.parquet").read_bytes()).hexdigest())
print(f"{len(results):,} scores of {results.run_id.nunique()} runs")
if SPACE:
    print(f"{len(explored):,} scores of {explored.run_id.nunique()} runs that were explored")
print("missing runs:", facts["missing_runs"] or "none")

# %% [markdown]
# ## What each run scored
# One number per run and benchmark, in points (100 x the mean score of the benchmark's primary metric). Examples
# are matched by their ids.

# %%
metric = {name: entry["metric"] for name, entry in facts["benchmarks"].items()}
primary = results[results["metric"] == results["benchmark"].map(metric)]
example = ["benchmark", "split", "example_id"]
run = ["arm", "context", "seed", "run_id"]
points = 100 * primary.pivot(index=example, columns=run, values="score").sort_index(axis=1)
cluster = primary.drop_duplicates(example).set_index(example)["cluster_id"].reindex(points.index)
assert points.notna().all(axis=None), "a run lacks examples that others have"
scores = points.groupby(level="benchmark").mean().T
display(scores.round(2))

# %% [markdown]
# ## Which benchmarks carry signal
# The baseline's mean over seeds has to be a declared margin above the majority answer, in every context. The
# others are shown and decide nothing. Only the baseline arm is looked at, where replication is adaptive its first three
# seeds only, so that later ones do not change what a score means.

# %%
known = {name: entry["majority"] for name, entry in facts["benchmarks"].items()}
majority = 100 * pd.Series(known, dtype=float)
of_baseline = scores[scores.index.get_level_values("arm") == BASELINE]
if REPLICATE:
    first = of_baseline[of_baseline.index.get_level_values("seed") < 3]
    complete = len(first) == 3 * len(study["contexts"])
    of_baseline = first if complete else of_baseline
lowest = of_baseline.groupby("context").mean().min()
signal = pd.DataFrame({"baseline": lowest, "majority": majority, "above": lowest - majority})
signal["signal"] = (signal["above"] >= DECLARED["signal_margin"] - 1e-9) | majority.isna() & lowest.notna()
with_signal = sorted(signal.index[signal["signal"]])
display(signal.round(2))

# %% [markdown]
# ## Retraining: does the choice matter? (level: design)
# The unit is the training run; its suite score is the mean over the benchmarks with signal. With few runs the
# contrast is judged by t with the variance between seeds pooled over all cells of the study; with enough runs by
# the exact permutation of the runs between the arms. Which of the two follows from the numbers of runs alone.
# Where replication is adaptive, differences and standard errors of the suite contrasts are derived for the look at
# which each stopped; p-values over all looks, their intervals and the verdicts are those of vlmablate's rule, followed
# through the scores once more.

# %%
cells = dict(iter(scores.groupby(["arm", "context"])))
runs_of = {cell: frozenset(frame.index.get_level_values("run_id")) for cell, frame in cells.items()}


def terms_of(benchmark):
    return with_signal if benchmark == "suite" else [benchmark]


def contexts_of(row):
    """The contexts that a contrast averages over."""
    return [c for a, c in cells if a == row.arm and (BASELINE, c) in cells and row.context in ("(all)", c)]


def by_seed(arm, context, terms, seeds=np.inf, of_baseline=np.inf):
    """Mean over `terms` of the runs of a cell, by seed: all, or those with seeds below `seeds` (or `of_baseline`)."""
    means = cells[arm, context][terms].mean(axis=1).droplevel(["arm", "context", "run_id"])
    return means[means.index < (of_baseline if arm == BASELINE else seeds)]


def samples(arm, context, terms):
    """Scores of the arm's and of the baseline's runs; those of common seeds where seeds are paired."""
    a, b = by_seed(arm, context, terms), by_seed(BASELINE, context, terms)
    if PAIRED:
        common = a.index.intersection(b.index)
        a, b = a[common], b[common]
    return a.to_numpy(), b.to_numpy()


def spread(terms, *seeds):
    """(SD between seeds within a cell, its degrees of freedom); cells of the very same runs count once.

    Where seeds are paired: SD of the difference of two arms' runs of one seed, from what the means of arms and seeds
    leave of the scores.
    """
    if PAIRED:
        squares = df = 0
        for context in {cell[1] for cell in cells}:
            arms = {runs: cell for cell, runs in runs_of.items() if cell[1] == context}.values()
            scores = (
                pd.concat({cell: by_seed(*cell, terms, *seeds) for cell in arms}).rename("y").reset_index()
            )
            effects = pd.get_dummies(scores.drop(columns="y").astype(str)).to_numpy(float)
            fitted, _, rank, _ = np.linalg.lstsq(effects, scores["y"], rcond=1e-9)
            squares += ((scores["y"] - effects @ fitted) ** 2).sum()
            df += len(scores) - rank
        return np.sqrt(2 * squares / df) if df else np.nan, df
    distinct = {runs: cell for cell, runs in runs_of.items()}.values()
    groups = [by_seed(*cell, terms, *seeds).to_numpy() for cell in distinct]
    df = sum(len(group) - 1 for group in groups)
    return np.sqrt(sum(((g - g.mean()) ** 2).sum() for g in groups) / df) if df else np.nan, df


def two_sided(greater, less):
    return {"two-sided": min(1.0, 2 * min(greater, less)), "greater": greater, "less": less}


def permuted(pairs, shift=0.0):
    """p-values (by side) of "the arm is `shift` better", from every way to deal the runs out between the arms."""
    parts = []
    for a, b in ((a - shift, b) for a, b in pairs):
        if PAIRED:
            every = np.array(list(product((1, -1), repeat=len(a)))) @ (a - b) / len(a)
        else:
            pool = np.concatenate([a, b])
            dealt = pool[np.array(list(combinations(range(len(pool)), len(a))))].sum(axis=1)
            every = dealt / len(a) - (pool.sum() - dealt) / len(b)
        parts.append(every)
    law = reduce(lambda x, y: np.add.outer(x, y).ravel(), parts) / len(parts)
    observed, tie = law[0], 1e-9 * (1 + np.ptp(law))  # the first arrangement is the one that was seen
    return two_sided(np.mean(law >= observed - tie), np.mean(law <= observed + tie))


def inverts(pairs, low, high):
    """Whether [low, high] holds exactly the shifts that the exact test does not reject."""
    if np.isinf(low):
        return permuted(pairs, 1e9)["two-sided"] > ALPHA
    nudge = 1e-6 * (high - low)
    outside = [permuted(pairs, shift)["two-sided"] for shift in (low - nudge, high + nudge)]
    inside = [permuted(pairs, shift)["two-sided"] for shift in (low + nudge, high - nudge)]
    return max(outside) <= ALPHA < min(inside)


sequential, alike_over_looks = {}, {}  # arm -> its conclusion, and p of equivalence before the adjustment
if REPLICATE:
    from vlmablate.stats.adaptive.conclusions import conclude
    from vlmablate.stats.adaptive.scores import alternates, follow, rule_of
    from vlmablate.stats.declaration import Design, read_analysis

    arms = tuple(arm for arm in study["axis"]["arms"] if arm in scores.index.get_level_values("arm"))
    names = {"axis": study["axis"]["name"], "baseline": BASELINE, "arms": arms}
    names |= {"contexts": tuple(study["contexts"]), "metrics": metric}
    names |= {"majority": {name: value for name, value in known.items() if value is not None}}
    settings, _ = read_analysis(study.get("analysis"))
    declared = Design(**names, settings=settings)
    rule = rule_of(declared, **REPLICATE)
    state = follow(declared, rule, scores.stack().rename("points").reset_index())
    sequential = {found.arm: found for found in conclude(rule, state, alternates(declared))}
    alike_over_looks = dict(zip(alternates(declared), np.maximum(state.above, state.below)[0], strict=True))


def at_last_look(arm, contexts, terms):
    """[difference, standard error, interval, p] of an adaptive study's suite contrast; None before the first look."""
    if arm not in sequential:
        return None
    found = sequential[arm]
    seeds = found.seeds, found.baseline_seeds
    sides = [[by_seed(side, c, terms, *seeds) for c in contexts] for side in (arm, BASELINE)]
    means = [np.mean([runs.mean() for runs in side]) for side in sides]
    sd, _ = spread(terms, *seeds)
    se = sd * np.sqrt((1 / seeds[0] + (0 if PAIRED else 1 / seeds[1])) / len(contexts))
    return [means[0] - means[1], se, *found.ci, found.p]


design = significance[significance["level"] == "design"]
rows = []
for row in design.itertuples():
    terms = terms_of(row.benchmark)
    contexts = contexts_of(row)
    apart = [c for c in contexts if runs_of[row.arm, c] != runs_of[BASELINE, c]]
    if not apart:
        rows.append([0.0, 0.0, 0.0, 0.0, 1.0])  # the very same runs in both arms
        continue
    pairs, share = [samples(row.arm, c, terms) for c in apart], len(apart) / len(contexts)
    delta = share * np.mean([a.mean() - b.mean() for a, b in pairs])
    sd, df = spread(terms)
    seen = [1 / len(a) + (0 if PAIRED else 1 / len(b)) for a, b in pairs]
    se = share * sd * np.sqrt(sum(seen)) / len(pairs)
    if df and se < 1e-9:  # seeds that change nothing are no replication, unless there is no difference either
        se = 0.0 if abs(delta) < 1e-9 else np.nan
    if REPLICATE and row.family == "primary":
        rows.append(at_last_look(row.arm, contexts, terms) or [delta, *[np.nan] * 4])
    elif row.method.startswith("exact"):
        assert inverts(pairs, row.ci_low, row.ci_high), f"interval of row {row.Index}"
        rows.append([delta, se, row.ci_low, row.ci_high, permuted(pairs)[SIDE]])
    else:
        half = stats.t.ppf(1 - ALPHA / 2, df) * se if df else np.nan
        t = delta / se if se > 0 else 0.0 * se
        p = two_sided(stats.t.sf(t, df), stats.t.cdf(t, df))[SIDE] if se >= 0 and df else np.nan
        rows.append([delta, se, delta - half, delta + half, 1.0 if se == 0 else p])
retraining = pd.DataFrame(rows, columns=["delta", "se", "ci_low", "ci_high", "p"], index=design.index)
if with_signal:
    sd, df = spread(with_signal)
    print(f"SD between seeds{' of paired differences' if PAIRED else ''} {sd:.3f} points, df = {df}")
agree(retraining, design, list(retraining.columns), "design-level contrasts")
labels = ["arm", "context", "benchmark"]
show(pd.concat([design[labels], retraining], axis=1))

# %% [markdown]
# ## New pictures (level: items) and single checkpoints (level: checkpoint)
# Two answers to the same question are compared, averaged over seeds first; the unit is the picture. p: the signs
# of the pictures' sums are flipped at random, and the law of their total is computed exactly, one picture after
# the other, where scores have a common step; elsewhere it is checked by simulation. Interval at the items level:
# cluster-robust standard error (CR1), t on pictures - 1.

# %%
SIMULATED = 20_000
WIDEST = 2_000_000


def cluster_parts(difference):
    """(mean over benchmarks, pictures' sums of the weighted differences, the same of the residuals) of a value per
    example, or of several in the columns of a frame."""
    names = difference.index.get_level_values("benchmark")
    weight = 1 / (names.nunique() * names.map(names.value_counts()))
    residual = difference - difference.groupby(level="benchmark").transform("mean")
    pictures = cluster.reindex(difference.index)
    sums = [
        values.mul(weight, axis=0).groupby(pictures).sum().to_numpy() for values in (difference, residual)
    ]
    return sums[0].sum(axis=0), *sums


def flipped(sums, finest):
    """(p-values by side, whether they are exact) of the total of `sums` under random signs."""
    steps = np.rint(sums / finest).astype(np.int64)
    steps //= max(np.gcd.reduce(steps), 1)
    total, moving = steps.sum(), np.abs(steps[steps != 0])
    exact = (
        np.allclose(np.rint(sums / finest) * finest, sums, atol=1e-6 * finest) and 2 * moving.sum() < WIDEST
    )
    if exact:
        law = np.ones(1)
        for size in moving:
            law = (np.pad(law, (2 * size, 0)) + np.pad(law, (0, 2 * size))) / 2
        value = np.arange(len(law)) - moving.sum()
        return two_sided(law[value >= total].sum(), law[value <= total].sum()), True
    rng = np.random.default_rng(20)
    law = np.concatenate([rng.choice([-1.0, 1.0], (500, len(sums))) @ sums for _ in range(SIMULATED // 500)])
    tie = 1e-9 * np.abs(sums).max()
    return two_sided(np.mean(law >= sums.sum() - tie), np.mean(law <= sums.sum() + tie)), False


paired = significance[significance["level"].isin(["items", "checkpoint"])]
rows, simulated = [], 0
for row in paired.itertuples():
    part = points.loc[terms_of(row.benchmark)]
    sides = [part[arm, row.context] for arm in (row.arm, BASELINE)]
    if row.level == "checkpoint":
        seed = int(row.family.rpartition("seed=")[2])
        sides = [side[[seed]] for side in sides]
    delta, sums, residuals = cluster_parts(sides[0].mean(axis=1) - sides[1].mean(axis=1))
    groups, sizes = len(sums), part.groupby(level="benchmark").size()
    se = np.sqrt(groups / (groups - 1) * (residuals**2).sum()) if groups > 1 else np.nan
    half = stats.t.ppf(1 - ALPHA / 2, groups - 1) * se if groups > 1 else np.nan
    ci = (delta - half, delta + half) if row.level == "items" else (row.ci_low, row.ci_high)
    # Scores are tenths at the finest; seeds and benchmarks divide them further.
    finest = 10 / np.lcm(sides[0].shape[1], sides[1].shape[1]) / len(sizes) / np.lcm.reduce(sizes.to_numpy())
    p, exact = flipped(sums, finest)
    if not (exact and row.method.startswith(("exact", "the two systems"))):
        simulated += 1
        noise = np.sqrt(row.p / SIMULATED) + 1 / SIMULATED
        assert abs(p[SIDE] - row.p) < 6 * noise, f"p {row.p} of row {row.Index}, simulated {p[SIDE]}"
        p = {SIDE: row.p}
    rows.append([delta, se, *ci, p[SIDE]])
items = pd.DataFrame(rows, columns=["delta", "se", "ci_low", "ci_high", "p"], index=paired.index)
for level in ("items", "checkpoint"):
    of_level = paired[paired["level"] == level]
    agree(items.loc[of_level.index], of_level, list(items.columns), f"{level}-level contrasts")
print(f"p of {simulated} of them checked by simulation, the others exactly")
of_items = paired[paired["level"] == "items"]
show(pd.concat([of_items[[*labels, "n_examples", "n_clusters"]], items.loc[of_items.index]], axis=1))

# %% [markdown]
# ## New runs and new pictures at once, and other benchmarks (level: suite)
# Both variances are added; what both count, the luck of a run with a picture, is taken off once. These standard
# errors weigh the benchmarks in the random-effects mean over benchmark families.


# %%
def both(arm, contexts, terms):
    """(difference, standard error, degrees of freedom) for new runs and new pictures; df is nan without the runs'."""
    part = points.loc[terms]
    sides = [part[name, context] for context in contexts for name in (arm, BASELINE)]
    means = [side.mean(axis=1) for side in sides]
    delta, sums, residuals = cluster_parts((sum(means[::2]) - sum(means[1::2])) / len(contexts))
    factor = len(sums) / (len(sums) - 1) if len(sums) > 1 else np.nan
    item = factor * (residuals**2).sum()
    sd, df = spread(terms)
    if not df or PAIRED or any(runs_of[arm, c] & runs_of[BASELINE, c] for c in contexts):
        return delta, np.sqrt(item), np.nan
    inverse = sum(1 / side.shape[1] for side in sides) / len(contexts) ** 2
    left = sum(side.shape[1] - 1 for side in sides)
    luck = [cluster_parts(side.sub(side.mean(axis=1), axis=0))[2] for side in sides]
    shared = factor * sum((sums**2).sum() for sums in luck) / left * inverse if left else 0.0
    seed = sd**2 * inverse
    variance = item + max(seed - shared, 0.0)
    if not variance > 1e-20:
        return delta, np.sqrt(item), np.nan
    own = len(sums) - 1
    joint = (
        max(variance**2 / (seed**2 / df + item**2 / own), min(df, own)) if seed > shared * (1 + 1e-9) else own
    )
    return delta, np.sqrt(variance), joint


new = design[design["new_low"].notna()]
rows = []
for row in new.itertuples():
    delta, se, df = both(row.arm, contexts_of(row), terms_of(row.benchmark))
    half = stats.t.ppf(1 - ALPHA / 2, df) * se if df > 0 else se
    rows.append([delta - half, delta + half])
over_both = pd.DataFrame(rows, columns=["new_low", "new_high"], index=new.index)
agree(over_both, new, list(over_both.columns), "intervals over new runs and new pictures")

suite = significance[significance["level"] == "suite"]
rows = []
for row in suite.itertuples():
    found = [both(row.arm, [row.context], [name])[:2] for name in with_signal]
    families = [FAMILIES.get(name, name) for name in with_signal]
    d, e = pd.DataFrame(found).groupby(families, sort=False).mean().to_numpy().T
    k = len(d)
    if k < 2 or np.ptp(d) < 1e-9:
        rows.append([d.mean(), *([np.nan] * 4)] if k < 2 or d.any() else [0.0, 0.0, 0.0, 0.0, 1.0])
        continue
    w = 1 / e**2 if (e > 0).all() else np.ones(k)
    q = (w * (d - np.average(d, weights=w)) ** 2).sum()
    tau2 = max(0.0, (q - (k - 1)) / (w.sum() - (w**2).sum() / w.sum()))
    w = 1 / (e**2 + tau2) if (e > 0).all() else w
    delta = np.average(d, weights=w)
    se = np.sqrt((w * (d - delta) ** 2).sum() / ((k - 1) * w.sum()))
    half = stats.t.ppf(1 - ALPHA / 2, k - 1) * se
    rows.append([delta, se, delta - half, delta + half, 2 * stats.t.sf(abs(delta) / se, k - 1)])
benchmarks = pd.DataFrame(rows, columns=["delta", "se", "ci_low", "ci_high", "p"], index=suite.index)
agree(benchmarks, suite, list(benchmarks.columns), "suite-level contrasts")
show(pd.concat([suite[labels], benchmarks], axis=1))

# %% [markdown]
# ## Adjustment and verdicts
# Both questions, whether there is a difference and whether it lies within the margin, are adjusted within their
# families. Equivalence is asked first.


# %%
def adjusted(p):
    """Adjusted p-values; nan is left out of the family."""
    p = np.asarray(p, dtype=float)
    result, tested = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    left = np.arange(len(order), 0, -1)
    if DECLARED["correction"] in ("bh", "by"):
        if len(order):
            result[tested] = stats.false_discovery_control(p[tested], method=DECLARED["correction"])
    elif DECLARED["correction"] == "holm":
        result[order] = np.minimum(1, np.maximum.accumulate(p[order] * left))
    else:
        result[order] = np.minimum(1, np.minimum.accumulate((p[order] * left)[::-1])[::-1])
    return result


margin = DECLARED["margin"]
room = margin - significance["delta"].abs()
with np.errstate(divide="ignore", invalid="ignore"):
    se, df = (significance[name].to_numpy(dtype=float) for name in ("se", "df"))
    alike = pd.Series(stats.t.sf(room.to_numpy(dtype=float) / se, df), significance.index)
alike[significance["se"] == 0] = np.where(room[significance["se"] == 0] > 0, 0.0, 1.0)
followed = significance[(significance["family"] == "primary") & significance["arm"].isin(sequential)]
alike.update(followed["arm"].map(alike_over_looks).astype(float))
decided = pd.DataFrame(np.nan, columns=["p_adjusted", "p_equivalence"], index=significance.index)
for family, members in significance.groupby("family"):
    if not family.startswith("no-signal"):
        decided.loc[members.index, "p_adjusted"] = adjusted(members["p"])
        decided.loc[members.index, "p_equivalence"] = adjusted(alike[members.index])
agree(decided, significance, list(decided.columns), "adjusted p-values")
better = np.where(significance["delta"] > 0, "better", "worse")
verdict = np.where(decided["p_adjusted"] <= ALPHA, better, "unresolved")
verdict = pd.Series(np.where(decided["p_equivalence"] <= ALPHA, "equivalent", verdict), significance.index)
verdict.update(followed["arm"].map({arm: found.verdict for arm, found in sequential.items()}))
assert (verdict == significance["verdict"]).all(), "a verdict of significance.csv differs"
primary_rows = significance[significance["family"] == "primary"]
columns = ["arm", "context", "delta", "ci_low", "ci_high", "p", "p_adjusted", "p_equivalence", "verdict"]
show(primary_rows[columns].reset_index(drop=True))

# %% [markdown]
# ## Beyond accuracy: secondary metrics
# Means of the metrics that are no benchmark's primary one, in their own units, and their differences to the baseline.
# They are in no suite score; their tests are in secondary.csv, in families of their own.

# %%
secondary = pd.read_csv(FOLDER / "secondary.csv")
others = results[results["metric"] != results["benchmark"].map(metric)]
means = others.groupby(["benchmark", "metric", "arm", "context", "run_id"])["score"].mean()
means = means.groupby(["benchmark", "metric", "arm", "context"]).mean()
for row in secondary.itertuples():
    several = [c for c in study["contexts"] if row.context in ("(all)", c)]
    several = [c for c in several if {(row.arm, c), (BASELINE, c)} <= set(cells)]
    pair = (row.benchmark, row.metric)
    sides = [np.mean([means[*pair, arm, c] for c in several]) for arm in (row.arm, BASELINE)]
    assert np.allclose(sides, [row.mean_arm, row.mean_baseline]), f"row {row.Index} of secondary.csv differs"
print(f"{len(secondary)} rows of secondary.csv have the means of results.parquet")
if len(secondary):
    columns = ["benchmark", "metric", *labels[:2], "mean_baseline", "mean_arm", "delta", "p", "p_adjusted"]
    show(secondary.loc[secondary["level"] == "design", columns])

# %% [markdown] tags=["space"]
# ## Effects of the axes of the design space
# These are about the explored runs, which the verdict does not use. A main effect is the mean over all configurations
# with a choice minus that over all with the baseline choice of its axis; an interaction is what changes of that
# difference. Both are derived from the means of the configurations where every combination was run with the same number
# of seeds; effects.csv has their intervals.

# %% tags=["space"]
if SPACE:
    effects = pd.read_csv(FOLDER / "effects.csv", keep_default_na=False, na_values=["", "nan"])
    ran = explored[explored["metric"] == explored["benchmark"].map(metric)]
    ran = 100 * ran.groupby(["arm", "seed", "benchmark"])["score"].mean().unstack()
    ran["suite"] = ran[with_signal].mean(axis=1)
    means, runs_of_each = ran.groupby("arm").mean(), ran.groupby("arm").size()
    levels = pd.DataFrame(SPACE["levels"]).T.loc[means.index]
    normal = {axis["name"]: axis["baseline"] for axis in SPACE["axes"]}
    seeds = ran.index.unique("seed")
    whole = not SPACE["search"] and len(means) == len(SPACE["levels"]) and (runs_of_each == len(seeds)).all()

    def at(chosen):
        """Mean of every benchmark over the configurations with these choices, each configuration alike."""
        return means[np.logical_and.reduce([levels[axis] == level for axis, level in chosen.items()])].mean()

    def derive(row):
        a, b = row.axis, row.axis_b
        if row.kind == "main":
            return at({a: row.level}) - at({a: normal[a]})
        changed, usual = ({b: level} for level in (row.level_b, normal[b]))
        return sum(
            sign * (at({a: row.level, **other}) - at({a: normal[a], **other}))
            for sign, other in ((1, changed), (-1, usual))
        )

    if whole:
        # Of one seed there may be too few runs to estimate pairs of axes.
        estimated = effects[effects["delta"].notna()]
        derived = [derive(row)[row.benchmark] for row in estimated.itertuples()]
        assert np.allclose(derived, estimated["delta"], rtol=1e-6, atol=1e-8), (
            "an effect of effects.csv differs"
        )
        print(f"{len(estimated)} effects agree with effects.csv")
    else:
        print("not every combination was run alike, so the effects were fitted; they are not derived again")
    columns = ["term", "level", "level_b", "delta", "ci_low", "ci_high", "p"]
    show(effects.loc[effects["benchmark"] == "suite", columns])

# %% [markdown]
# ## The whole table

# %%
with pd.option_context("display.max_rows", 500, "display.max_columns", 40):
    show(significance.drop(columns=["axis", "baseline", "margin"]))

# %%
for path in sorted((FOLDER / "figures").glob("*.png")):
    display(Image(data=path.read_bytes(), width=760))
