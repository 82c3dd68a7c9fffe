# %% [markdown]
# # {question}
#
# {verdicts}
#  This notebook needs only numpy, pandas and scipy, and the files beside it. It derives the main numbers of
# the report once more from the example scores, without the code that made the report, and stops if they
# disagree. To run it again: open it in this folder and run all cells.

# %%
import hashlib
import json
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
ANALYSIS = {"alpha": 0.05, "margin": 2.0, "signal_margin": 10.0, **(study.get("analysis") or {})}
BASELINE = study.get("baseline") or study["axis"]["baseline"]


def show(frame):
    """Three decimals, p-values with two significant digits: a small p never looks like zero."""
    p_columns = [name for name in frame.columns if name in ("p", "p_holm", "p_adjusted")]
    display(frame.round(3).assign(**{name: frame[name].map("{:.2g}".format) for name in p_columns}))


print("results.parquet sha256", hashlib.sha256((FOLDER / "results.parquet").read_bytes()).hexdigest())
print(f"{len(results):,} scores of {results.run_id.nunique()} runs")
print("missing runs:", facts["missing_runs"] or "none")

# %% [markdown]
# ## What each run scored
# One number per run and benchmark, in points (100 x the mean score of the benchmark's primary metric).

# %%
metric = {name: entry["metric"] for name, entry in facts["benchmarks"].items()}
primary = results[results["metric"] == results["benchmark"].map(metric)]
run_keys = ["arm", "context", "seed", "run_id"]
scores = 100 * primary.pivot_table(index=run_keys, columns="benchmark", values="score", aggfunc="mean")
display(scores.round(2))

# %% [markdown]
# ## Which benchmarks carry signal
# The baseline's mean over seeds has to be a declared margin above the majority answer, in every context. The
# others are shown and decide nothing. Only the baseline arm is looked at.

# %%
majority = 100 * pd.Series({name: entry["majority"] for name, entry in facts["benchmarks"].items()})
lowest = scores.loc[scores.index.get_level_values("arm") == BASELINE].groupby("context").mean().min()
signal = pd.DataFrame({"baseline": lowest, "majority": majority, "above": lowest - majority})
signal["signal"] = signal["above"] >= ANALYSIS["signal_margin"] - 1e-9
with_signal = sorted(signal.index[signal["signal"]])
display(signal.round(2))

# %% [markdown]
# ## Retraining: does the choice matter? (level: design)
# The unit is the training run. Its suite score is the mean over the benchmarks with signal. The error
# variance is pooled over all cells of the study, the contrast is judged by t, and the primary family is
# adjusted by Holm.

# %%
suite = scores[with_signal].mean(axis=1).rename("points").reset_index()


def holm(p):
    """Adjusted p-values, nan left out of the family."""
    p = np.asarray(p, dtype=float)
    adjusted, tested = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


# Cells that consist of the very same runs count once.
cells = {cell: part.set_index("run_id")["points"] for cell, part in suite.groupby(["arm", "context"])}
distinct = {frozenset(part.index): part for part in cells.values()}
df = sum(len(part) - 1 for part in distinct.values())
squares = sum(((part - part.mean()) ** 2).sum() for part in distinct.values())
sd = np.sqrt(squares / df) if df else np.nan
print(f"pooled SD between seeds {sd:.3f} points, df = {df}")

rows = []
for row in significance.query("level == 'design' and benchmark == 'suite'").itertuples():
    contexts = suite["context"].unique() if row.context == "(all)" else [row.context]
    pairs = [
        (cells[row.arm, c], cells[BASELINE, c])
        for c in contexts
        if {(row.arm, c), (BASELINE, c)} <= set(cells)
    ]
    delta = np.mean([alternate.mean() - baseline.mean() for alternate, baseline in pairs])
    se = sd * np.sqrt(sum(1 / len(a) + 1 / len(b) for a, b in pairs)) / len(pairs)
    half = stats.t.ppf(1 - ANALYSIS["alpha"] / 2, df) * se if df else np.nan
    p = 2 * stats.t.sf(abs(delta) / se, df) if df and se > 0 else np.nan
    rows.append(
        {
            "arm": row.arm,
            "context": row.context,
            "delta": delta,
            "low": delta - half,
            "high": delta + half,
            "p": p,
        }
    )
retraining = pd.DataFrame(rows, columns=["arm", "context", "delta", "low", "high", "p"])
table = significance.query("level == 'design' and benchmark == 'suite'").reset_index(drop=True)
for family in table["family"].unique():
    members = table["family"] == family
    retraining.loc[members, "p_holm"] = holm(retraining.loc[members, "p"])
retraining["verdict"] = table["verdict"]
show(retraining)

# %%
plain = ~table["method"].str.contains("identical runs|seeds changed nothing")
columns = ["delta", "ci_low", "ci_high", "p", "p_adjusted"]
if len(table):
    derived = retraining.loc[plain, ["delta", "low", "high", "p", "p_holm"]].to_numpy()
    assert np.allclose(derived, table.loc[plain, columns], rtol=1e-6, atol=1e-9, equal_nan=True)
print(f"{int(plain.sum())} design-level contrasts agree with significance.csv")

# %% [markdown]
# ## New pictures: benchmark by benchmark (level: items)
# Pairs of answers to the same question, averaged over seeds first; the unit is the scene: a cluster-robust
# standard error (CR1) with t on (scenes - 1) degrees of freedom. The checkpoints are held fixed.

# %%
rows = []
example = ["benchmark", "split", "metric", "example_id", "cluster_id"]
averaged = primary.groupby(["arm", "context", *example])["score"].mean()
for row in significance.query("level == 'items'").itertuples():
    alternate, baseline = (
        averaged.loc[arm, row.context].xs(row.benchmark, level="benchmark", drop_level=False)
        for arm in (row.arm, BASELINE)
    )
    difference = (100 * (alternate - baseline)).rename("difference").reset_index()
    mean, n = difference["difference"].mean(), len(difference)
    sums = (difference["difference"] - mean).groupby(difference["cluster_id"]).sum()
    groups = len(sums)
    se = np.sqrt(groups / (groups - 1) * (sums**2).sum()) / n if groups > 1 else np.nan
    half = stats.t.ppf(1 - ANALYSIS["alpha"] / 2, groups - 1) * se if groups > 1 else np.nan
    rows.append(
        [row.arm, row.context, row.benchmark, n, groups, mean, mean - half, mean + half, row.p, row.verdict]
    )
items = pd.DataFrame(
    rows, columns=["arm", "context", "benchmark", "n", "scenes", "delta", "low", "high", "p", "verdict"]
)
reference = significance.query("level == 'items'")[["delta", "ci_low", "ci_high"]].to_numpy()
if len(items):
    assert np.allclose(items[["delta", "low", "high"]], reference, rtol=1e-6, atol=1e-9, equal_nan=True)
print(f"{len(items)} items-level contrasts agree with significance.csv")
show(items)

# %% [markdown]
# ## The whole table

# %%
with pd.option_context("display.max_rows", 500, "display.max_columns", 30):
    show(significance.drop(columns=["axis", "baseline", "margin"]))

# %%
for path in sorted((FOLDER / "figures").glob("*.png")):
    display(Image(data=path.read_bytes(), width=760))
