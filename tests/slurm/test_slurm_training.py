"""Real training on a real Slurm: the same bits as on this machine, and one run on two nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.slurm.conftest import Cluster

pytestmark = pytest.mark.slurm
REAL = ("kinds=real", "scale=smoke", "seeds=1")
DEADLINE_S = 300.0


def payloads(home: Path, kind: str) -> dict[str, dict]:
    """Step -> result of the finished steps of a kind."""
    found = home.glob(f"steps/{kind}/*/result.json")
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def test_slurm_and_this_machine_compute_the_same_bits(cluster: Cluster, tmp_path: Path):
    words = (*REAL, "axis=image_resize")
    said = cluster.run(*words, deadline_s=DEADLINE_S)
    assert "all 3 runs are done" in said, said
    here = Cluster(tmp_path / "here", cluster.control)
    said = here.run(*words, "launcher=local", deadline_s=DEADLINE_S)
    assert "all 3 runs are done" in said, said
    assert cluster.results() == here.results()
    assert len(here.results()) == 14


def test_one_training_on_two_nodes_learns_what_one_node_learns(cluster: Cluster, tmp_path: Path):
    words = (*REAL, "axis=stages")
    said = cluster.run(*words, "execution.nodes=2", deadline_s=DEADLINE_S)
    assert "all 2 runs are done" in said, said
    trained = {**payloads(cluster.home, "pretrain"), **payloads(cluster.home, "finetune")}
    assert {result["ranks"] for result in trained.values()} == {2}
    nodes = [set(a.record["slurm"]["nodes"]) for a in cluster.attempts("pretrain")]
    assert nodes == [{"vlm1", "vlm2"}]
    here = Cluster(tmp_path / "here", cluster.control)
    here.run(*words, "launcher=local", deadline_s=DEADLINE_S)
    for kind in ("pretrain", "finetune"):
        alone = payloads(here.home, kind)
        for step, result in payloads(cluster.home, kind).items():
            assert result["payload"]["final_loss"] == pytest.approx(
                alone[step]["payload"]["final_loss"], rel=1e-3
            )
