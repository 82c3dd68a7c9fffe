"""The fault suite: sweeps of a toy trainer on the real cluster without accounting, disturbed in every way that was seen
to lose work elsewhere. ``make faults`` runs it.
"""

from tests.slurm.conftest import *  # noqa: F403  # the same clusters and fixtures
