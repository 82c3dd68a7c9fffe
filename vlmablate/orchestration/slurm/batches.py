"""From jobs to arrays: one ``sbatch`` call for all jobs that ask for the same resources and wait for the same work.
Pure.

An array has one dependency for all of its elements. So jobs are put together by resource profile, by level in the
graph, and by what they wait for: a job then waits for nothing but its own parents, and one failed parent keeps none
of the others from running. Where every job waits for its own element of one earlier array (run by run), the two
arrays get the same numbers and are tied element by element (``aftercorr``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.slurm.settings import Profile

Element = tuple[str, int]
"""(token of a submission, index in its array)"""


@dataclass(frozen=True)
class Batch:
    """One array to submit.

    Attributes:
        token: names the submission.
        profile: resources of every element.
        level: how many batches lie between this one and work without parents.
        jobs: index in the array -> job.
        after: elements that all of its jobs wait for.
        corresponding: token of the array whose element with the same index each job waits for, or None.
    """

    token: str
    profile: Profile
    level: int
    jobs: Mapping[int, Job] = field(hash=False)
    after: tuple[Element, ...] = ()
    corresponding: str | None = None


def make_batches(
    jobs: Sequence[Job],
    profile: Callable[[Job], Profile],
    covered: Mapping[str, Element],
    max_array: int,
    new_token: Callable[[], str],
) -> list[Batch]:
    """Arrays in an order in which every one follows those it waits for.

    Args:
        jobs: what to submit; each ``requires`` steps that are done, covered, or part of an earlier job.
        profile: resources of a job.
        covered: step id -> the element of an open submission that computes it.
        max_array: the largest index of an array plus one (Slurm's MaxArraySize); bigger groups are cut.
        new_token: makes a name for a submission.
    """
    maker = {step.id: job for job in jobs for step in job.steps}
    levels: dict[str, int] = {}

    def level(job: Job) -> int:
        if job.name not in levels:
            parents = {maker[step].name: maker[step] for step in job.requires if step in maker}
            levels[job.name] = 1 + max((level(parent) for parent in parents.values()), default=-1)
        return levels[job.name]

    placed = dict(covered)
    batches: list[Batch] = []
    for depth in range(max((level(job) for job in jobs), default=-1) + 1):
        here = [job for job in jobs if level(job) == depth]
        by_profile: dict[Profile, list[Job]] = {}
        for job in here:
            by_profile.setdefault(profile(job), []).append(job)
        for wanted, group in by_profile.items():
            parents = {job.name: _parents(job, placed) for job in group}
            for numbered, after, corresponding in _split(group, parents, max_array):
                batch = Batch(new_token(), wanted, depth, numbered, after, corresponding)
                batches.append(batch)
                for index, job in numbered.items():
                    placed.update({step.id: (batch.token, index) for step in job.steps})
    return batches


def _parents(job: Job, placed: Mapping[str, Element]) -> frozenset[Element]:
    return frozenset(placed[step] for step in job.requires if step in placed)


_Part = tuple[dict[int, Job], tuple[Element, ...], str | None]


def _split(jobs: Sequence[Job], parents: Mapping[str, frozenset[Element]], limit: int) -> list[_Part]:
    """Cut jobs of one profile and level into arrays with one dependency each."""
    same: dict[frozenset[Element], list[Job]] = {}
    for job in jobs:
        same.setdefault(parents[job.name], []).append(job)
    parts: list[_Part] = []
    lone = [group[0] for group in same.values() if len(group) == 1]
    tied, rest = _tie(lone, parents) if len(lone) > 1 else ([], lone)
    parts += tied
    for group in [*(g for g in same.values() if len(g) > 1), *([job] for job in rest)]:
        after = tuple(sorted(parents[group[0].name]))
        for start in range(0, len(group), limit):
            parts.append((dict(enumerate(group[start : start + limit])), after, None))
    order = {job.name: position for position, job in enumerate(jobs)}
    return sorted(parts, key=lambda part: min(order[job.name] for job in part[0].values()))


def _tie(jobs: Sequence[Job], parents: Mapping[str, frozenset[Element]]) -> tuple[list[_Part], list[Job]]:
    """Arrays of jobs that differ in one parent only, an own element of one common array; and the jobs left over."""
    groups: dict[tuple[str, frozenset[Element]], dict[int, Job]] = {}
    for job in jobs:
        for token in sorted({token for token, _ in parents[job.name]}):
            own = [element for element in parents[job.name] if element[0] == token]
            if len(own) == 1:
                others = parents[job.name] - {own[0]}
                groups.setdefault((token, others), {})[own[0][1]] = job
    parts: list[_Part] = []
    taken: set[str] = set()
    for (token, others), numbered in sorted(groups.items(), key=lambda item: -len(item[1])):
        free = {index: job for index, job in sorted(numbered.items()) if job.name not in taken}
        if len(free) < 2:
            continue
        taken |= {job.name for job in free.values()}
        parts.append((free, tuple(sorted(others)), token))
    return parts, [job for job in jobs if job.name not in taken]


def dependency(batch: Batch, job_ids: Mapping[str, str]) -> str | None:
    """The text of ``sbatch --dependency``; None for a batch that waits for nothing.

    Args:
        batch: the array.
        job_ids: token -> Slurm's id of the array job.
    """
    terms = [f"{job_ids[token]}_{index}" for token, index in batch.after]
    parts = [f"afterok:{':'.join(terms)}"] if terms else []
    if batch.corresponding is not None:
        parts.append(f"aftercorr:{job_ids[batch.corresponding]}")
    return ",".join(parts) or None


def index_text(indices: Sequence[int]) -> str:
    """Array indices as Slurm writes them: ``0-4,7``."""
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and spans[-1][1] == index - 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
