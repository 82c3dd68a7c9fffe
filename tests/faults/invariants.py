"""What must hold after every fault, whatever it was."""

from __future__ import annotations

import json
from collections import Counter

from tests.faults import toy
from tests.slurm.conftest import Cluster
from vlmablate.orchestration.slurm import journal

CHECKPOINTED = toy.EVERY
"""A fault may cost this many steps of training at most: one checkpoint interval."""


def check(cluster: Cluster, *words: str, recomputed: int = CHECKPOINTED, ranks: int = 1) -> None:
    """Run the same command to its end and check the five invariants.

    Args:
        cluster: where the disturbed sweep ran.
        words: the words of its command.
        recomputed: training steps that may have been computed twice, in each step of the work graph.
        ranks: processes of a training job.
    """
    said = cluster.run(*words)
    assert "runs are done" in said, said
    one_result_each(cluster)
    exact(cluster)
    journal_is_complete(cluster)
    nothing_to_submit(cluster, *words)
    little_is_recomputed(cluster, recomputed, ranks)


def one_result_each(cluster: Cluster) -> None:
    """I1: every run has exactly one result, made by one attempt."""
    study = json.loads((cluster.home / "studies" / "study" / "study.json").read_text())
    for step_id, step in study["steps"].items():
        result = json.loads((cluster.home / step["dir"] / "result.json").read_text())
        assert result["id"] == step_id
        done = [
            path
            for path in (cluster.home / step["dir"] / "attempts").glob("[0-9][0-9][0-9].json")
            if json.loads(path.read_text())["state"] == "done"
        ]
        assert len(done) == 1, step["dir"]


def exact(cluster: Cluster) -> None:
    """I2: the numbers are those of an undisturbed sweep, to the last bit."""
    checked = 0
    for kind in ("pretrain", "align", "finetune"):
        for path in cluster.home.glob(f"steps/{kind}/*/result.json"):
            result = json.loads(path.read_text())
            spec = json.loads((path.parent / "spec.json").read_text())
            parents = [_value(cluster, dep) for _, dep in sorted(spec["deps"].items())]
            start = repr((kind, result["id"], parents))
            assert result["payload"]["value"] == f"{toy.number_after(start, toy.STEPS):016x}", (
                path.parent.name
            )
            checked += 1
    assert checked


def _value(cluster: Cluster, step_id: str) -> str:
    folder = next(cluster.home.glob(f"steps/*/*-{step_id}"))
    return str(json.loads((folder / "value.json").read_text())["value"])


def journal_is_complete(cluster: Cluster) -> None:
    """I3: Slurm has no job of ours that the journal does not know, and none is left alive."""
    assert cluster.live() == []
    assert cluster.strangers() == []
    assert journal.open_submissions(cluster.home) == []


def nothing_to_submit(cluster: Cluster, *words: str) -> None:
    """I4: the same command finds everything done."""
    before = len(cluster.submissions())
    assert "nothing to submit" in cluster.run(*words)
    assert len(cluster.submissions()) == before


def little_is_recomputed(cluster: Cluster, limit: int, ranks: int) -> None:
    """I5: of every step of the work graph, no more training steps were done again than lie between checkpoints."""
    done = Counter(tuple(event.split()[1:3]) for event in cluster.events("step") if event.endswith("rank=0"))
    assert done
    for (kind, step_id), count in done.items():
        assert count - toy.STEPS <= limit, f"{kind} {step_id}: {count} training steps instead of {toy.STEPS}"
    assert {event.split()[-1] for event in cluster.events("step")} <= {
        f"rank={rank}" for rank in range(ranks)
    }
