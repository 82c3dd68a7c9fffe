from __future__ import annotations

import io
from dataclasses import replace

from vlmablate.orchestration.progress import PlainDisplay, Running, Snapshot, line

STEP = Running(
    "letterbox s0", "finetune", 312, 1200, {"lr": 0.002, "loss": 0.41234, "x": 1.0, "n": None}, 20.0
)
STATE = Snapshot(9, 2, 0, 20, (STEP,), (), 372.0, 75.0)


def test_a_line_names_runs_step_loss_and_eta():
    assert line(STATE) == "[01:15] runs 2/9 | finetune letterbox s0 312/1200 loss 0.412 lr 0.002 | ETA 6 min"
    assert "(1 failed)" in line(replace(STATE, runs_failed=1))
    assert "waiting: scenes" in line(replace(STATE, waiting=("scenes x: computed by process 3",)))
    assert line(replace(STATE, running=(), eta_s=None, elapsed_s=3700.0)) == "[1:01:40] runs 2/9"


def test_plain_lines_come_every_five_seconds_and_at_events():
    now, lines = 0.0, []
    display = PlainDisplay(lines.append, clock=lambda: now)
    for second in range(11):
        now = float(second)
        display.update(STATE)
    assert len(lines) == 3
    display.update(replace(STATE, runs_done=3))
    assert len(lines) == 4
    display.update(replace(STATE, runs_done=3, running=(STEP, replace(STEP, label="crop s0"))))
    assert len(lines) == 5
    display.message("hello")
    assert lines[-1] == "hello"
    display.close()


def test_the_live_table_shows_the_same(monkeypatch):
    from rich.console import Console

    from vlmablate.orchestration import progress

    out = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda: Console(file=out, force_terminal=True, width=120))
    display = progress.RichDisplay()
    display.update(replace(STATE, waiting=("scenes x",)))
    display.message("a [message] as it is")
    display.close()
    text = out.getvalue()
    assert "a [message] as it is" in text
    assert "letterbox s0" in text
    assert "loss 0.412" in text
