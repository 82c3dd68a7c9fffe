"""The failure policy: what an end is called, what follows, and the table it stands in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlmablate.design.compose import composer
from vlmablate.errors import Diverged, UserError
from vlmablate.files import write_json
from vlmablate.orchestration.evidence import Evidence, FailureClass, classify
from vlmablate.orchestration.failures import (
    Failure,
    cancelled_by,
    cause_of,
    evidence_of,
    past_failure,
    read_verdict,
    same_failures,
    write_verdict,
)
from vlmablate.orchestration.lease import claim, latest
from vlmablate.orchestration.policy import (
    Action,
    PastFailure,
    Policy,
    changed,
    crash_loop,
    decide,
    excluded_nodes,
    in_effect,
    read_policy,
)
from vlmablate.orchestration.worker import Exit, error_record

C = FailureClass


def raised(error: str, message: str = "", traceback: str = "") -> dict[str, Any]:
    return {"type": error, "message": message, "traceback": traceback}


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (Evidence(raised("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB"), code=1), C.CUDA_OOM),
        (Evidence(raised("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), code=1), C.CUDA_OOM),
        (Evidence(raised("RuntimeError", "x", "…\ntorch.OutOfMemoryError: CUDA out of memory."), code=1), C.CUDA_OOM),
        (Evidence(raised("MemoryError"), code=1), C.HOST_OOM),
        (Evidence(raised("OSError", "[Errno 12] Cannot allocate memory"), code=1), C.HOST_OOM),
        (
            Evidence(raised("RuntimeError", "DataLoader worker (pid 77) is killed by signal: Killed. "), code=1),
            C.HOST_OOM,
        ),
        (Evidence(code=-9, log_tail="slurmstepd: error: Detected 1 oom_kill event in StepId=7.0"), C.HOST_OOM),
        (Evidence(code=137, slurm_state="OUT_OF_MEMORY"), C.HOST_OOM),
        (Evidence(raised("RuntimeError", "DataLoader worker exited"), 1, "OUT_OF_MEMORY"), C.HOST_OOM),
        (Evidence(raised("Diverged", "the loss is nan"), code=1), C.NAN),
        (Evidence(raised("OSError", "[Errno 28] No space left on device"), code=3), C.DISK_FULL),
        (Evidence(raised("RuntimeError", "PytorchStreamWriter failed"), code=3), C.DISK_FULL),
        (Evidence(code=3), C.DISK_FULL),
        (Evidence(raised("NoProgress", "the last 2 allocations"), code=1), C.NO_PROGRESS),
        (Evidence(raised("ValueError", "shapes differ"), code=1), C.CODE),
        (Evidence(raised("ValueError", "shapes differ"), 1, "FAILED", "NonZeroExitCode"), C.CODE),
        (Evidence(raised("RuntimeError", "CUDA error: uncorrectable ECC error encountered"), code=1), C.NODE_FAIL),
        (Evidence(code=1), C.CODE),
        (Evidence(code=0), C.CODE),
        (Evidence(code=-9), C.KILLED),
        (Evidence(code=137, slurm_state="FAILED"), C.KILLED),
        (Evidence(code=-11), C.KILLED),
        (Evidence(code=143), C.KILLED),
        (Evidence(raised("GangBrokenError", "rank 1 is gone"), code=-9), C.KILLED),
        (Evidence(raised("GangBrokenError", "rank 1 is gone"), code=1), C.KILLED),
        (Evidence(raised("GangBrokenError", "rank 1 is gone"), code=1, node_down=True), C.NODE_FAIL),
        (Evidence(raised("RuntimeError", "connection reset by peer"), code=1, node_down=True), C.NODE_FAIL),
        (Evidence(slurm_state="FAILED"), C.KILLED),
        (Evidence(slurm_state="NODE_FAIL"), C.NODE_FAIL),
        (Evidence(slurm_state="BOOT_FAIL"), C.NODE_FAIL),
        (Evidence(code=143, slurm_state="TIMEOUT"), C.TIMEOUT),
        (Evidence(slurm_state="DEADLINE"), C.TIMEOUT),
        (Evidence(slurm_state="PREEMPTED"), C.PREEMPTED),
        (Evidence(code=75), C.PREEMPTED),
        (Evidence(code=75, slurm_state="FAILED", slurm_reason="TimeLimit"), C.TIMEOUT),
        (Evidence(code=143, slurm_state="CANCELLED by 1000"), C.CANCELLED),
        (Evidence(slurm_state="CANCELLED+"), C.CANCELLED),
        (Evidence(code=143, cancelled="cancelled by me"), C.CANCELLED),
        (Evidence(slurm_state="CANCELLED", slurm_reason="DependencyNeverSatisfied"), C.DEPENDENCY),
        (Evidence(slurm_state="VAPORIZED"), C.UNKNOWN),
        (Evidence(code=143, slurm_state="VAPORIZED"), C.UNKNOWN),
        (Evidence(), C.UNKNOWN),
    ],
)  # fmt: skip
def test_the_class_of_an_end(evidence: Evidence, expected: FailureClass):
    assert classify(evidence) is expected


def test_errors_as_python_raises_them_are_recognised():
    def recorded(error: Exception) -> FailureClass:
        try:
            raise error
        except Exception as caught:
            return classify(Evidence(error_record(caught), code=1))

    assert recorded(Diverged("the loss is not finite")) is C.NAN
    assert recorded(MemoryError()) is C.HOST_OOM
    assert recorded(RuntimeError("CUDA out of memory. Tried")) is C.CUDA_OOM
    assert recorded(KeyError("memory")) is C.CODE


def test_codes_of_the_worker_are_those_the_policy_knows():
    assert classify(Evidence(code=Exit.DISK_FULL)) is C.DISK_FULL
    assert classify(Evidence(code=Exit.REQUEUE)) is C.PREEMPTED


@pytest.fixture(scope="module")
def tables() -> dict[str, Policy]:
    with composer() as compose:
        return {
            name: read_policy(compose.compose(["scale=smoke", f"policy={name}"])["policy"])
            for name in ("default", "strict", "patient")
        }


def history(
    *classes: FailureClass, node: str = "n1", saved: tuple[int | None, ...] = ()
) -> list[PastFailure]:
    checkpoints = saved or (None,) * len(classes)
    return [PastFailure(cls, node, at) for cls, at in zip(classes, checkpoints, strict=True)]


def test_the_default_table_names_every_class(tables):
    for policy in tables.values():
        assert set(policy.rows) == set(FailureClass) - {FailureClass.PRUNED}  # no failure
    assert tables["default"].stop_after_equal == 3
    assert tables["default"].on_drift == "warn"


def test_too_little_gpu_memory_halves_the_rows_once(tables):
    policy = tables["default"]
    first = decide(C.CUDA_OOM, history(C.CUDA_OOM), policy, {"micro_batch": 16})
    assert (first.action, first.execution) == (Action.RETRY, {"micro_batch": 8})
    assert "execution.micro_batch=8" in first.why
    second = decide(C.CUDA_OOM, history(C.CUDA_OOM, C.CUDA_OOM), policy, {"micro_batch": 8})
    assert second.action is Action.FAIL
    assert "tried again once" in second.why


def test_a_patient_policy_halves_until_nothing_is_left_to_halve(tables):
    policy = tables["patient"]
    assert decide(C.CUDA_OOM, history(*[C.CUDA_OOM] * 3), policy, {"micro_batch": 3}).execution == {
        "micro_batch": 1
    }
    last = decide(C.CUDA_OOM, history(C.CUDA_OOM), policy, {"micro_batch": 1})
    assert last.action is Action.FAIL
    assert "cannot be made any smaller" in last.why


def test_too_little_memory_asks_for_more_where_it_was_asked_for(tables):
    policy = tables["default"]
    asked = decide(C.HOST_OOM, history(C.HOST_OOM), policy, {"slurm": {"mem_gb": 5}})
    assert asked.execution == {"slurm.mem_gb": 8}
    unasked = decide(C.HOST_OOM, history(C.HOST_OOM), policy, {"slurm": {"mem_gb": None}})
    assert (unasked.action, unasked.execution) == (Action.RETRY, {})


def test_a_bad_node_is_left_out_after_its_second_failure(tables):
    policy = tables["default"]
    assert decide(C.NODE_FAIL, history(C.NODE_FAIL), policy).exclude_nodes == ()
    again = decide(C.NODE_FAIL, history(C.NODE_FAIL, C.NODE_FAIL), policy)
    assert (again.action, again.exclude_nodes) == (Action.RETRY, ("n1",))
    elsewhere = [
        *history(C.NODE_FAIL),
        *history(C.NODE_FAIL, node="n2"),
        *history(C.KILLED, C.KILLED, node="n3"),
    ]
    assert excluded_nodes(elsewhere, policy) == ()


def test_room_is_made_for_others_as_often_as_it_takes_while_the_work_gets_on(tables):
    policy = tables["default"]
    past = history(*[C.PREEMPTED] * 9, saved=tuple(range(10, 100, 10)))
    assert decide(C.PREEMPTED, past, policy).action is Action.REQUEUE
    assert decide(C.TIMEOUT, history(C.TIMEOUT), policy).action is Action.REQUEUE
    once = history(*[C.TIMEOUT] * 3, saved=(10, 20, 20))
    assert decide(C.TIMEOUT, once, policy).action is Action.REQUEUE
    twice = decide(C.TIMEOUT, history(*[C.TIMEOUT] * 4, saved=(10, 20, 20, 20)), policy)
    assert (twice.action, twice.why) == (Action.FAIL, "2 attempts in a row ended without a new checkpoint")
    nothing = decide(C.PREEMPTED, history(C.PREEMPTED, C.PREEMPTED), policy)
    assert nothing.action is Action.FAIL


@pytest.mark.parametrize("cls", [C.NAN, C.CODE, C.NO_PROGRESS, C.CANCELLED, C.DEPENDENCY])
def test_what_would_end_the_same_way_is_not_tried_again(tables, cls: FailureClass):
    assert decide(cls, history(cls), tables["default"]).action is Action.FAIL


@pytest.mark.parametrize("cls", [C.KILLED, C.UNKNOWN])
def test_an_end_without_a_reason_is_tried_again_once(tables, cls: FailureClass):
    policy = tables["default"]
    assert decide(cls, history(cls), policy).again
    assert not decide(cls, history(cls, cls), policy).again
    # Another class before it takes nothing from its budget.
    assert decide(cls, history(C.NODE_FAIL, cls), policy).again


def test_a_full_disk_stops_everything(tables):
    assert decide(C.DISK_FULL, history(C.DISK_FULL), tables["default"]).action is Action.STOP_SWEEP


def test_the_same_fingerprint_again_and_again_is_a_crash_loop(tables):
    policy = tables["default"]
    assert crash_loop(["a", "b", "a", "", "", "", ""], policy) is None
    assert crash_loop(["a", "b", "a", "a"], policy) == "a"
    assert crash_loop(["a"] * 9, Policy()) is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"cuda_omm": {"action": "fail"}}, "unknown name 'cuda_omm' in policy (did you mean 'cuda_oom'?)"),
        ({"retry_killed": 1}, "unknown name 'retry_killed' in policy"),
        ({"killed": {"action": "retrry", "retries": 1}}, "unknown policy.killed.action 'retrry'"),
        ({"killed": {"action": "retry", "retrys": 1}}, "unknown setting 'retrys' in policy.killed"),
        ({"killed": {"action": "retry", "retries": None}}, "policy.killed.retries must be a whole number"),
        ({"killed": {"action": "retry", "retries": -1}}, "policy.killed.retries must be a whole number"),
        ({"killed": "retry"}, "policy.killed must be a table with an action"),
        ({"cuda_oom": {"action": "retry", "multiply": {"batch": 0.5}}}, "unknown placement 'batch'"),
        ({"cuda_oom": {"action": "retry", "multiply": {"micro_batch": 0}}}, "must be a positive factor"),
        ({"stop_after_equal": True}, "policy.stop_after_equal must be a whole number"),
        ({"on_drift": "ignore"}, "unknown policy.on_drift 'ignore'"),
    ],
)
def test_mistakes_in_a_table_are_refused_by_name(raw: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        read_policy(raw)
    assert message in str(caught.value)


def test_an_override_of_one_number_changes_one_number():
    with composer() as compose:
        raw = compose.compose(["scale=smoke", "policy.killed.retries=4", "policy.code.action=retry"])[
            "policy"
        ]
    policy = read_policy(raw)
    assert policy.row(C.KILLED).retries == 4
    assert policy.row(C.CODE).action is Action.RETRY


def test_changes_reach_nested_placement_and_leave_the_original_alone():
    execution = {"threads": 2, "slurm": {"mem_gb": 8, "partition": "gpu"}}
    copy = changed(execution, {"slurm.mem_gb": 12, "micro_batch": 4})
    assert copy == {"threads": 2, "micro_batch": 4, "slurm": {"mem_gb": 12, "partition": "gpu"}}
    assert execution["slurm"]["mem_gb"] == 8


def test_an_open_micro_batch_is_the_share_of_a_rank():
    config = {"stages": {"finetune": {"batch_scenes": 16}}}
    assert in_effect(config, {"micro_batch": None})["micro_batch"] == 16
    assert in_effect(config, {"ranks": 3})["micro_batch"] == 6
    assert in_effect(config, {"micro_batch": 2})["micro_batch"] == 2
    assert "micro_batch" not in in_effect({"image": {}}, {})


def test_a_verdict_stands_beside_the_attempt_it_is_about(tmp_path: Path):
    folder = tmp_path / "attempts"
    for checkpoint in (20, 40):
        lease = claim(folder, node="n7")
        lease.note(checkpoint=checkpoint)
        lease.finish("stopped")
        decision = decide(C.TIMEOUT, history(C.TIMEOUT), Policy())
        write_verdict(latest(folder), C.TIMEOUT, "the time limit was over", decision)
    assert latest(folder).number == 2
    verdict = read_verdict(latest(folder))
    assert (verdict["class"], verdict["action"], verdict["node"]) == ("timeout", "fail", "n7")
    assert past_failure(C.TIMEOUT, latest(folder)) == PastFailure(C.TIMEOUT, "n7", 40)


def test_a_cancelled_step_says_who_did_it_and_how_to_bring_it_back(tmp_path: Path):
    folder = tmp_path / "letterbox-abc"
    assert cancelled_by(folder) == ""
    write_json(
        folder / "cancelled.json", {"by": "process 7 on host", "when": "2026-01-01", "why": "wrong data"}
    )
    words = cancelled_by(folder)
    assert words == (
        "cancelled by process 7 on host at 2026-01-01 (wrong data); to have it computed: vlmablate retry letterbox-abc"
    )
    (folder / "cancelled.json").write_text("{")
    assert "cancelled by somebody" in cancelled_by(folder)


def test_causes_are_words(tmp_path: Path):
    log = tmp_path / "job.log"
    log.write_text("Traceback …\nModuleNotFoundError: no module\n")

    def cause(code: int | None, **slurm: Any) -> str:
        evidence = evidence_of(None, code, log, **slurm)
        return cause_of(classify(evidence), evidence)

    assert cause(1) == "the worker ended with code 1: ModuleNotFoundError: no module"
    assert cause(0) == "the worker ended well but left no valid result"
    assert cause(-9) == "the worker was killed by SIGKILL (out of memory?)"
    assert cause(137) == "the worker was killed by SIGKILL (out of memory?)"
    assert cause(143) == "the worker was stopped from outside"
    assert cause(143, cancelled="cancelled by me") == "cancelled by me"
    assert cause(None, slurm_state="NODE_FAIL") == "the machine it ran on failed"
    assert "Slurm says VAPORIZED" in cause(None, slurm_state="VAPORIZED")


def test_equal_failures_are_told_once(make_runs):
    steps = [run.steps["finetune"] for run in make_runs(seeds=2)]
    equal = [Failure(step, f"arm s{i}", "RuntimeError: no", Path("log"), "f") for i, step in enumerate(steps)]
    other = Failure(steps[0], "arm s9", "the worker was killed", Path("other"))
    first, second = same_failures([*equal, other])
    assert first == (
        "failed: finetune arm s0, finetune arm s1, finetune arm s2 and 3 more: RuntimeError: no\n  log: log"
    )
    assert second.startswith("failed: finetune arm s9: the worker was killed")
