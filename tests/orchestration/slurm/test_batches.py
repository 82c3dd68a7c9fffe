"""Which jobs share an array, and what an array waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from vlmablate.design.spec import StepSpec
from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.slurm.batches import Batch, dependency, index_text, make_batches
from vlmablate.orchestration.slurm.settings import Profile

CPU = Profile()
GPU = Profile(gpus_per_node=1)


def job(name: str, *needs: str, kind: str = "finetune") -> Job:
    step = StepSpec(kind, 1, name, name, {}, {f"dep{i}": need for i, need in enumerate(needs)}, {})
    return Job(name, name, (step,))


def tokens() -> Callable[[], str]:
    counter = iter(range(1000))
    return lambda: f"t{next(counter)}"


def batches(jobs: list[Job], covered: Mapping[str, tuple[str, int]] = {}, limit: int = 1000) -> list[Batch]:
    return make_batches(jobs, lambda _: CPU, covered, limit, tokens())


def names(batch: Batch) -> dict[int, str]:
    return {index: job.name for index, job in batch.jobs.items()}


def test_a_thousand_independent_jobs_are_one_array():
    made = batches([job(f"r{i}") for i in range(1000)])
    assert len(made) == 1
    assert len(made[0].jobs) == 1000
    assert dependency(made[0], {}) is None


def test_no_index_reaches_the_limit_of_the_cluster():
    made = batches([job(f"r{i}") for i in range(25)], limit=10)
    assert [len(batch.jobs) for batch in made] == [10, 10, 5]
    assert max(index for batch in made for index in batch.jobs) == 9


def test_every_job_waits_for_its_own_parents_only():
    jobs = [job("fa", kind="features"), job("fb", kind="features")]
    jobs += [job(f"{arm}{seed}", f"f{arm}") for seed in range(2) for arm in "ab"]
    made = batches(jobs)
    ids = {batch.token: str(10 + i) for i, batch in enumerate(made)}
    assert [names(batch) for batch in made] == [
        {0: "fa", 1: "fb"},
        {0: "a0", 1: "a1"},
        {0: "b0", 1: "b1"},
    ]
    assert [dependency(batch, ids) for batch in made] == [None, "afterok:10_0", "afterok:10_1"]


def test_runs_that_follow_one_another_are_tied_element_by_element():
    jobs = [job("f", kind="features")]
    jobs += [job(f"align{i}", "f") for i in range(4)]
    jobs += [job(f"tune{i}", f"align{i}", "f") for i in (3, 1)]
    made = batches(jobs)
    ids = {batch.token: str(10 + i) for i, batch in enumerate(made)}
    assert names(made[2]) == {1: "tune1", 3: "tune3"}
    assert dependency(made[2], ids) == "afterok:10_0,aftercorr:11"
    assert index_text(list(made[2].jobs)) == "1,3"


def test_work_of_an_earlier_submission_is_waited_for():
    made = batches([job("a", "shared"), job("b", "done")], covered={"shared": ("old", 7)})
    ids = {"old": "99", **{batch.token: "1" for batch in made}}
    assert {batch.jobs[0].name: dependency(batch, ids) for batch in made} == {"a": "afterok:99_7", "b": None}


def test_different_resources_are_different_arrays():
    jobs = [job("cpu0"), job("gpu0"), job("cpu1")]
    made = make_batches(jobs, lambda j: GPU if "gpu" in j.name else CPU, {}, 1000, tokens())
    assert [names(batch) for batch in made] == [{0: "cpu0", 1: "cpu1"}, {0: "gpu0"}]
    assert made[1].profile == replace(CPU, gpus_per_node=1)


def test_indices_are_written_as_ranges():
    assert index_text([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
