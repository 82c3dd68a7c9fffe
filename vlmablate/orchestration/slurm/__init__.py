"""Slurm as an engine of sweeps: arrays out of jobs, crash-safe submission, and states that are believed only on
evidence.
"""
