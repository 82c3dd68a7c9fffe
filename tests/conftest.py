"""For all tests: one thread of torch, and no garbage collection of what stays anyway."""

from __future__ import annotations

import gc
import os

import pytest

# Their tensors are small, and a second thread waits longer than it computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which no test has done yet


def pytest_collection_finish(session: pytest.Session) -> None:
    """Modules and collected tests are millions of objects; statsmodels, for one, collects garbage in every call."""
    gc.collect()
    gc.freeze()
