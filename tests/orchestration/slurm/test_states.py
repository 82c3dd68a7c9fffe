"""Alive or not: what every voice may and may not decide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlmablate.orchestration.slurm.commands import NoAnswer, Row, covers, read_sacct, read_squeue, span_of
from vlmablate.orchestration.slurm.journal import Submission, job_name
from vlmablate.orchestration.slurm.states import LOST, Fate, JobState, Voices, fuse

TOKEN = "0123456789abcdef"
NAME = job_name(TOKEN)


def submission(count: int = 1) -> Submission:
    jobs = {str(i): {"name": f"j{i}", "label": f"j{i}", "steps": []} for i in range(count)}
    return Submission(TOKEN, Path("nowhere"), "50", {"jobs": jobs, "study": "s"})


def row(state: str, index: int | None = 0, name: str = NAME) -> Row:
    return Row("50", index, name, state)


def state(**heard: Any) -> JobState:
    voices: dict[str, Any] = {
        "squeue": [], "sacct": None, "shown": {}, "exits": {}, "leases": {}, "settled": frozenset({TOKEN}), **heard,
    }  # fmt: skip
    return fuse(submission(), Voices(**voices))[0]


@pytest.mark.parametrize(
    ("heard", "fate"),
    [
        ({"squeue": [row("PENDING")]}, Fate.QUEUED),
        ({"squeue": [row("CONFIGURING")]}, Fate.QUEUED),
        ({"squeue": [row("RUNNING")]}, Fate.RUNNING),
        ({"squeue": [row("COMPLETING")]}, Fate.RUNNING),
        ({"squeue": [row("CANCELLED")]}, Fate.ENDED),
        ({"squeue": [row("OUT_OF_MEMORY")]}, Fate.ENDED),
        ({"squeue": [row("POWERING_SIDEWAYS")]}, Fate.UNKNOWN),
        ({"squeue": None}, Fate.UNKNOWN),
        ({"squeue": []}, Fate.UNKNOWN),
        ({"squeue": None, "shown": {"50": None}}, Fate.UNKNOWN),
        ({"squeue": [], "shown": {"50": [row("RUNNING")]}}, Fate.RUNNING),
        ({"squeue": [], "sacct": [row("RUNNING")]}, Fate.UNKNOWN),
        ({"squeue": [], "sacct": [row("NODE_FAIL")]}, Fate.ENDED),
        ({"squeue": [], "shown": {"50": None}, "leases": {(TOKEN, 0): True}}, Fate.RUNNING),
        ({"squeue": [], "shown": {"50": None}, "settled": frozenset()}, Fate.UNKNOWN),
        ({"squeue": [], "shown": {"50": None}}, Fate.ENDED),
        (
            {
                "squeue": [row("RUNNING", 1)],
                "shown": {"50": [row("RUNNING", 1)]},
                "exits": {TOKEN: {0: {"code": 1}}},
            },
            Fate.ENDED,
        ),
        ({"squeue": [row("PENDING", None)], "shown": {}, "exits": {TOKEN: {0: {"code": 1}}}}, Fate.UNKNOWN),
        ({"squeue": None, "sacct": [row("NODE_FAIL")]}, Fate.UNKNOWN),
    ],
)
def test_only_evidence_ends_a_job(heard: dict[str, Any], fate: Fate):
    assert state(**heard).fate is fate


def test_a_job_that_everybody_forgot_is_lost():
    assert state(shown={"50": None}).text == LOST


def test_the_script_tells_how_a_forgotten_job_ended():
    found = state(shown={"50": None}, exits={TOKEN: {0: {"code": 137, "node": "n1"}}})
    assert (found.fate, found.code, found.nodes) == (Fate.ENDED, 137, "n1")


def test_an_exit_record_of_a_former_life_does_not_end_a_job_that_is_back_in_the_queue():
    found = state(squeue=[row("PENDING")], exits={TOKEN: {0: {"code": 75}}})
    assert (found.fate, found.code) == (Fate.QUEUED, None)


def test_an_older_job_with_the_same_id_is_another_job():
    old = Row("50", 0, "somebody-elses", "FAILED")
    assert state(squeue=[old], sacct=[old]).fate is Fate.UNKNOWN


def test_a_pending_array_is_one_row_for_all_of_its_elements():
    voices = Voices([row("PENDING", None)], None, {}, {}, {}, frozenset())
    assert {found.fate for found in fuse(submission(3), voices).values()} == {Fate.QUEUED}


def test_elements_that_were_cancelled_before_they_started_have_ended():
    voices = Voices([row("CANCELLED", None), row("COMPLETED", 0)], None, {}, {}, {}, frozenset())
    assert [found.text for found in fuse(submission(3), voices).values()] == [
        "COMPLETED",
        "CANCELLED",
        "CANCELLED",
    ]


def test_a_row_for_several_elements_speaks_for_those_it_names():
    waiting = Row("50", None, NAME, "PENDING", span="1-2")
    voices = Voices([waiting], None, {"50": [waiting]}, {TOKEN: {0: {"code": 1}}}, {}, frozenset())
    assert [found.fate for found in fuse(submission(3), voices).values()] == [
        Fate.ENDED,
        Fate.QUEUED,
        Fate.QUEUED,
    ]


@pytest.mark.parametrize(
    ("printed", "span", "inside", "outside"),
    [("2-5%3", "2-5", 4, 6), ("[1,7-9]%2", "1,7-9", 8, 2), ("0-8:4", "0-8:4", 4, 3)],
)
def test_spans_are_read_as_slurm_prints_them(printed: str, span: str, inside: int, outside: int):
    assert span_of(printed) == span
    assert (covers(span, inside), covers(span, outside)) == (True, False)


def test_squeue_rows_are_read():
    rows = read_squeue(
        "50|3|53|vlm-a|RUNNING|None|node1|vlmablate:a\n50|N/A|50|vlm-a|PENDING|Priority||x|y\n"
    )
    assert rows == [
        Row("50", 3, "vlm-a", "RUNNING", "None", "node1", "vlmablate:a"),
        Row("50", None, "vlm-a", "PENDING", "Priority", "", "x|y"),
    ]


@pytest.mark.parametrize("noise", ["slurm_load_jobs error", "1|2|3"])
def test_noise_is_no_answer(noise: str):
    with pytest.raises(NoAnswer):
        read_squeue(noise)
    with pytest.raises(NoAnswer):
        read_sacct(noise)


def test_the_last_life_of_a_requeued_job_counts_in_the_accounting():
    lines = ("50_1|vlm-a|NODE_FAIL|n1|t", "50_1|vlm-a|RUNNING|n2|t")
    lines += ("50_2|vlm-a|CANCELLED by 0|n2|t", "50_1.batch|b|FAILED|n2|t")
    text = "\n".join(lines)
    assert [(found.index, found.state) for found in read_sacct(text)] == [(1, "RUNNING"), (2, "CANCELLED")]
