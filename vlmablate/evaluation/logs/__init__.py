"""Per-sample logs of other harnesses, read into the long table of example scores, and ours written as theirs."""
