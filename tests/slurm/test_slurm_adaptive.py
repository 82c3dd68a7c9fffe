"""Seeds by need on a real Slurm: rounds of jobs, each asked for by the scores of those before."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.orchestration import adaptive_steps, fakes
from tests.slurm.conftest import Cluster, until
from vlmablate.files import read_json

pytestmark = pytest.mark.slurm
BASELINE, NAIVE, CROP = adaptive_steps.ARMS
WORDS = ("axis=image_resize", "kinds=adaptive", "max_seeds=3")
DEADLINE_S = 120.0


def test_rounds_of_jobs_go_on_where_a_killed_controller_left_them(cluster: Cluster):
    cluster.set("sd", "2.5")  # nothing is decided but the planted difference, so there is a second round
    first = cluster.start(*WORDS)
    until(lambda: "the scores call for more" in first.said, "the second round", DEADLINE_S)
    first.kill()
    said = cluster.run(*WORDS, deadline_s=DEADLINE_S)
    assert "report:" in said, said
    assert f"{NAIVE}: unresolved after 3 seeds against 4 of the baseline" in said
    study = read_json(cluster.home / "studies" / "study" / "study.json")
    seeds = Counter(run["arm"] for run in study["runs"])
    assert (seeds[NAIVE], seeds[BASELINE]) == (3, 4)
    evaluations = [call for call in fakes.calls() if call.startswith("evaluate")]
    assert len(evaluations) == len(set(evaluations)) == len(study["runs"])
    submitted = len(cluster.submissions())
    assert "nothing to submit" in cluster.run(*WORDS)
    assert len(cluster.submissions()) == submitted
