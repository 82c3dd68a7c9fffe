"""Adaptive replication: seeds go to the contrasts that are neither decided nor equivalent, and the error rate holds.

The study begins with a few seeds of every arm and some more of the baseline (:mod:`.rule`), whose spread is pooled. At
every look each contrast that is still open is tested for a difference and for equivalence (:mod:`.looks`: the design
level's t test with the pooled error); one that has a verdict stops, the others get more seeds, until a contrast has
max_seeds or the budget is spent (:mod:`.replay`).

The tests are group-sequential with error spending (:mod:`.spending`), not anytime-valid: looks come in a handful of
rounds that are known beforehand, and with 2 to 40 seeds a confidence sequence that allows for endlessly many looks
would be half as wide again. The price is that max_seeds is declared before there are scores and stays as it is.
p-values are sequential (they hold at any look), so the correction over the contrasts of an axis is the declared one,
Holm for example, and intervals are repeated confidence intervals.

What it saves depends on the grid that it is compared with (simulated at the default settings). Of the runs of a grid
whose seeds answer every contrast, whichever way it falls, it takes 50 to 60 % where two arms or more are compared with
the baseline and 64 to 76 % where one is, and finds as much (power within .03). Of a grid with power .8, which leaves a
tenth of the contrasts unresolved, it takes 75 to 90 %: there most contrasts need all seeds.

A fixed grid of seeds stays the default, and what a confirmatory study should use: its estimates have no bias from
stopping, and its tests may be exact permutations.
"""
