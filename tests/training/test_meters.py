"""What a training gets done and where its time goes, on a clock that the test winds."""

from __future__ import annotations

import torch

from vlmablate.design.accelerators import ACCELERATORS
from vlmablate.training.meters import DEVICES, Meter, peak_of


def test_figures_are_shares_of_the_wall_time_and_of_the_peak():
    now = [0.0]
    meter = Meter(torch.device("cpu"), ranks=2, peak=100.0, clock=lambda: now[0])
    with meter.waiting("data"):
        now[0] = 1.0
    now[0] = 4.0
    with meter.waiting("saving"):
        now[0] = 4.5
    meter.count(30, 40, 400.0)
    meter.count(30, 60, 200.0)
    now[0] = 10.0
    found = meter.figures()
    assert found["tokens_per_s"] == 6.0
    assert found["real_share"] == 0.6
    assert (found["data_wait_share"], found["saving_share"]) == (0.1, 0.05)
    assert found["mfu"] == 0.3
    assert found["peak_memory_mb"] > 0


def test_without_a_peak_or_with_unknown_operations_there_is_no_mfu():
    assert peak_of(torch.device("cpu")) is None
    for peak, operations in ((None, 1.0), (1.0, None)):
        meter = Meter(torch.device("cpu"), 1, peak)
        meter.count(1, 1, 1.0)
        meter.count(1, 1, operations)
        assert "mfu" not in meter.figures()


def test_every_device_has_a_row_in_the_table_of_accelerators():
    assert set(DEVICES.values()) <= set(ACCELERATORS)
