"""For all tests: one thread of torch. Their tensors are small, and a second thread waits longer than it computes."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, which no test has done yet
