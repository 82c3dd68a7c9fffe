"""The design of an ablation: axes, composition, canonical identity, and the step graph of a run. Pure,
torch-free.
"""
