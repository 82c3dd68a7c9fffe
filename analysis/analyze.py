# %% [markdown]
# # {title}
#
# {verdicts}
#
# This notebook needs only numpy, pandas, pyarrow and scipy, and the files beside it. It derives the main numbers
# of the page once more from the example scores, without the code that made the page, and stops if they disagree.
# To run it again: open it in this folder and run all cells.

# %%
import json
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from IPython.display import Image, display
from scipy import stats

FOLDER = Path.cwd()
record = json.loads((FOLDER / "design.json").read_text(encoding="utf-8"))
design, settings = record["design"], record["design"]["settings"]
BASELINE, ALPHA, SIDE = design["baseline"], settings["alpha"], settings["alternative"]
names = ["arm", "context", "run_id", "benchmark", "split", "example_id", "cluster_id", "metric"]
results = pq.read_table(FOLDER / "results.parquet", read_dictionary=names).to_pandas()
# Read as text first: an arm may be called "NA".
significance = pd.read_csv(FOLDER / "significance.csv", dtype=str, keep_default_na=False)
numbers = ["delta", "ci_low", "ci_high", "p", "p_adjusted"]
significance[numbers] = significance[numbers].apply(pd.to_numeric)
used = np.zeros(len(results), dtype=bool)
for benchmark, metric in design["metrics"].items():
    used |= ((results["benchmark"] == benchmark) & (results["metric"] == metric)).to_numpy()
primary = results[used]
print(f"{len(results):,} scores, {len(primary):,} of them of the benchmarks' primary metrics")


def show(frame):
    """Three decimals, p-values with two significant digits: a small p never looks like zero."""
    p_columns = [name for name in frame.columns if name in ("p", "p_adjusted")]
    display(frame.round(3).assign(**{name: frame[name].map("{:.2g}".format) for name in p_columns}))


def check(derived, table, columns):
    """Compare what was derived (nan: not derived) with the table; says how many numbers agree."""
    for column in columns:
        known = derived[column].notna().to_numpy()
        ours, theirs = (frame.loc[known, column].to_numpy(dtype=float) for frame in (derived, table))
        assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-7), column
        print(f"{column}: {known.sum()} of {len(table)} rows derived, all agree with significance.csv")


# %% [markdown]
# ## What each run scored
# One number per run and benchmark, in points. The suite score of a run is the mean over the benchmarks that carry
# signal: those on which the baseline's mean over seeds is a declared margin above the majority answer in every
# context, and those for which no majority score was declared.

# %%
keys = ["arm", "context", "seed", "run_id"]
scores = 100 * primary.groupby([*keys, "benchmark"], observed=True)["score"].mean().unstack("benchmark")
scores.columns = scores.columns.astype(str)
lowest = scores.xs(BASELINE, level="arm").groupby("context", observed=True).mean().min()
majority = 100 * pd.Series(design["majority"], dtype=float).reindex(lowest.index)
silent = lowest - majority < settings["signal_margin"] - 1e-9
with_signal = sorted(lowest.index[~silent])
assert with_signal == sorted(record["signal"])
if with_signal:
    scores["suite"] = scores[with_signal].mean(axis=1)
show(scores.reset_index())

# %% [markdown]
# ## Retraining (level: design)
# The unit is the training run. The error variance is pooled over all cells (arm and context) and the contrast
# judged by t; with enough seeds the runs are permuted between the arms instead.

# %%
MOST_ARRANGEMENTS = 20_000
by_cell = scores.groupby(["arm", "context"], observed=True)
cells = {cell: part.droplevel(["arm", "context"]) for cell, part in by_cell}
ids = {cell: frozenset(part.index.get_level_values("run_id")) for cell, part in cells.items()}
pairs = [(arm, context) for arm, context in cells if arm != BASELINE and (BASELINE, context) in cells]


def samples(arm, context, column):
    """What the two arms' runs scored; for paired seeds the differences, seed by seed."""
    alternate, baseline = (cells[name, context][column].droplevel("run_id") for name in (arm, BASELINE))
    if not settings["paired_seeds"]:
        return alternate.to_numpy(), baseline.to_numpy()
    seeds = sorted(set(alternate.index) & set(baseline.index))
    return ((alternate[seeds] - baseline[seeds]).to_numpy(),)


def of_blocks(column):
    """(sd of a difference between runs of one seed, degrees of freedom): what arms and seeds leave of the scores."""
    squares = df = 0
    for context in {context for _, context in cells}:
        arms = {ids[cell]: cell for cell in cells if cell[1] == context}.values()
        scores = pd.concat({cell[0]: cells[cell][column].droplevel("run_id") for cell in arms}).rename("y")
        scores = scores.reset_index()
        effects = pd.get_dummies(scores.drop(columns="y").astype(str)).to_numpy(float)
        fitted, _, rank, _ = np.linalg.lstsq(effects, scores["y"], rcond=1e-9)
        squares += ((scores["y"] - effects @ fitted) ** 2).sum()
        df += len(scores) - rank
    return (np.sqrt(2 * squares / df), df) if df else (np.nan, 0)


def pooled(column):
    """(sd, degrees of freedom) between seeds; cells of the very same runs count once."""
    if settings["paired_seeds"]:
        return of_blocks(column)
    groups = [cells[cell][column].to_numpy() for cell in {ids[cell]: cell for cell in cells}.values()]
    df = sum(len(group) - 1 for group in groups)
    squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
    return (np.sqrt(squares / df), df) if df else (np.nan, 0)


def difference(a, b, axis):
    """Difference of means; rounded, so that arrangements that tie are not told apart by their last digit."""
    return np.round(a.mean(axis=axis) - b.mean(axis=axis), 8)


def retrained(row):
    """delta, interval and p of one row; nan for what is not derived here."""
    contexts = [row.context] if row.context != "(all)" else [c for arm, c in pairs if arm == row.arm]
    groups = [samples(row.arm, context, row.benchmark) for context in contexts]
    delta = np.mean([group[0].mean() - (group[1].mean() if len(group) > 1 else 0) for group in groups])
    if row.method.startswith("exact permutation") and len(groups) == 1:
        p = np.nan
        if comb(len(groups[0][0]) + len(groups[0][1]), len(groups[0][0])) <= MOST_ARRANGEMENTS:
            p = stats.permutation_test(
                groups[0], difference, vectorized=True, n_resamples=np.inf, alternative=SIDE
            ).pvalue
        return delta, np.nan, np.nan, p
    shared = any(ids[row.arm, context] & ids[BASELINE, context] for context in contexts)
    if shared or not row.method.startswith("t over"):
        return delta, np.nan, np.nan, np.nan
    sd, df = pooled(row.benchmark)
    se = sd * np.sqrt(sum(1 / len(sample) for group in groups for sample in group)) / len(groups)
    half = stats.t.ppf(1 - ALPHA / 2, df) * se
    below, above = stats.t.cdf(delta / se, df), stats.t.sf(delta / se, df)
    p = {"two-sided": 2 * min(below, above), "greater": above, "less": below}[SIDE]
    return delta, delta - half, delta + half, p


table = significance.query("level == 'design'").reset_index(drop=True)
derived = pd.DataFrame([retrained(row) for row in table.itertuples()], columns=numbers[:4])
check(derived, table, numbers[:4])
show(table.loc[table["benchmark"] == "suite", ["arm", "context", *numbers, "verdict"]])

# %% [markdown]
# ## New pictures, these checkpoints (level: items)
# Answers to the same example, averaged over seeds, arm minus baseline. The unit is the cluster of examples: a
# cluster-robust standard error (CR1) with t on (clusters - 1) degrees of freedom. The checkpoints are held fixed.

# %%
example = ["benchmark", "split", "example_id"]
one_run = primary[primary["run_id"] == primary["run_id"].iloc[0]].drop_duplicates(example).set_index(example)
averaged = (
    primary.groupby(["arm", "context", *example], observed=True)["score"].mean().unstack(["arm", "context"])
)
points = {cell: 100 * averaged[cell].to_numpy() for cell in averaged}
cluster = pd.factorize(one_run["cluster_id"].reindex(averaged.index))[0]
of_benchmark = averaged.index.get_level_values("benchmark").astype(str)
layouts = {}
for name in dict.fromkeys(significance.query("level == 'items'")["benchmark"]):
    members = with_signal if name == "suite" else [name]
    rows = np.flatnonzero(of_benchmark.isin(members))
    group = pd.factorize(of_benchmark[rows])[0]
    weight = 1 / (len(members) * np.bincount(group)[group])
    layouts[name] = rows, group, weight, np.unique(cluster[rows], return_inverse=True)[1]

derived, sums = [], {}
table = significance.query("level == 'items'").reset_index(drop=True)
for row in table.itertuples():
    rows, group, weight, codes = layouts[row.benchmark]
    d = (points[row.arm, row.context] - points[BASELINE, row.context])[rows]
    residual = d - (np.bincount(group, d) / np.bincount(group))[group]
    delta, of_cluster, half = weight @ d, np.bincount(codes, weight * residual), np.nan
    if (count := len(of_cluster)) > 1:
        se = np.sqrt(count / (count - 1) * of_cluster @ of_cluster)
        half = stats.t.ppf(1 - ALPHA / 2, count - 1) * se
    derived.append([delta, delta - half, delta + half])
    if row.benchmark == "suite":
        sums[row.Index] = np.bincount(codes, weight * d)
check(pd.DataFrame(derived, columns=numbers[:3]), table, numbers[:3])
show(table.loc[table["benchmark"] == "suite", ["arm", "context", *numbers, "verdict"]])

# %% [markdown]
# The p-values flip the sign of whole clusters. Random flips give them again up to their own chance: five standard
# errors are allowed.

# %%
FLIPS, rng = 4096, np.random.default_rng(0)
if sums:
    observed = np.stack(list(sums.values()), axis=1)
    total, reached = observed.sum(axis=0), np.zeros(observed.shape[1])
    slack = 1e-9 * (1 + np.abs(observed).sum(axis=0))  # ties that rounding would break
    for _ in range(FLIPS // 128):
        flipped = rng.choice(np.array([-1.0, 1.0]), size=(128, len(observed))) @ observed
        above = {"two-sided": np.abs(flipped) >= np.abs(total) - slack, "greater": flipped >= total - slack}
        reached += above.get(SIDE, flipped <= total + slack).sum(axis=0)
    p = table.loc[list(sums), "p"].to_numpy()
    allowed = 5 * np.sqrt(p * (1 - p) / FLIPS) + 4 / FLIPS
    assert (np.abs(reached / FLIPS - p) <= allowed).all()
    print(f"{len(p)} p-values of suite rows agree with {FLIPS:,} random flips")

# %% [markdown]
# ## Adjustment for several tests
# Within each family of tests that decides something.


# %%
def adjusted(p):
    """The p-values [tests] of one family, adjusted as declared."""
    how, count = settings["correction"], len(p)
    if how in ("bh", "by"):
        return stats.false_discovery_control(p, method=how)
    order, steps = np.argsort(p), np.arange(count, 0, -1)
    running = np.maximum.accumulate(p[order] * steps)
    if how == "hochberg":
        running = np.minimum.accumulate((p[order] * steps)[::-1])[::-1]
    found = np.empty(count)
    found[order] = np.minimum(running, 1)
    return found


tested = significance[significance["p"].notna() & ~significance["family"].str.startswith("no-signal")]
for family, members in tested.groupby("family"):
    assert np.allclose(adjusted(members["p"].to_numpy()), members["p_adjusted"], rtol=1e-9), family
print(
    f"{len(tested):,} adjusted p-values in {tested['family'].nunique():,} families agree with significance.csv"
)

# %%
for path in sorted((FOLDER / "figures").glob("*.png")):
    display(Image(data=path.read_bytes(), width=760))
