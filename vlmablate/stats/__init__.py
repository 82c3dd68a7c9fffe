"""Tests of an ablation, each with its own unit of replication.

Scores enter as fractions in [0, 1] (the results table) and leave as **points** (0-100): every delta,
interval, margin and minimal detectable effect of this package is in points. Only numpy, scipy and pandas are
imported here.
"""
