"""What a job asks of Slurm: ``execution.slurm`` of the configuration, checked and made into one profile per kind
of work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from vlmablate.errors import UserError, unknown_name
from vlmablate.orchestration.jobs import Job
from vlmablate.orchestration.kinds import is_collective


@dataclass(frozen=True)
class Profile:
    """The resources of one job; jobs with equal profiles share an array.

    Attributes:
        partition, account, qos, constraint, exclude: as ``sbatch`` takes them; None leaves the cluster's default.
        time_min: limit of one allocation in minutes; a training goes on after it, so it bounds no training.
        nodes, ranks: nodes, and tasks on each of them (one per GPU).
        cpus_per_task: cores of each task.
        gpus_per_node: GPUs on each node; 0 asks for none.
        mem_gb: memory of each node in GB; None leaves the default.
        setup: shell lines before the worker starts (``module load …``).
        throttle: how many jobs of one array may run at once; None: all.
        signal_delay_s: how long before the limit a job is told to save and go back to the queue.
        max_array: largest array; None: what the cluster says.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    time_min: int = 240
    nodes: int = 1
    ranks: int = 1
    cpus_per_task: int = 1
    gpus_per_node: int = 0
    mem_gb: float | None = None
    setup: tuple[str, ...] = ()
    throttle: int | None = None
    signal_delay_s: int = 90
    max_array: int | None = None

    @property
    def tasks(self) -> int:
        """Processes of one job."""
        return self.nodes * self.ranks


_POSITIVE = ("time_min", "nodes", "ranks", "cpus_per_task", "throttle", "signal_delay_s", "max_array")
_OPTIONAL = ("throttle", "max_array")
_FROM_EXECUTION = {
    "nodes": "nodes",
    "ranks": "ranks",
    "cpus_per_task": "threads",
    "gpus_per_node": "gpus_per_job",
}
"""Placement that every launcher has, and its name in ``execution``."""
SETTINGS = tuple(field.name for field in fields(Profile) if field.name not in _FROM_EXECUTION)


def read_profile(execution: Mapping[str, Any]) -> Profile:
    """The profile of a training job from the ``execution`` part of a configuration.

    Raises:
        UserError: for an unknown setting (lists the known ones) or a value out of range.
    """
    raw = dict(execution.get("slurm") or {})
    for name in raw:
        if name not in SETTINGS:
            raise unknown_name("setting", str(name), SETTINGS, where="execution.slurm")
    values: dict[str, Any] = {
        name: value for name, value in raw.items() if value is not None or name in _OPTIONAL
    }
    for name, source in _FROM_EXECUTION.items():
        if execution.get(source) is not None:
            values[name] = execution[source]
    for name in _POSITIVE:
        value = values.get(name, 1)
        if value is None and name in _OPTIONAL:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            where = (
                f"execution.{_FROM_EXECUTION[name]}" if name in _FROM_EXECUTION else f"execution.slurm.{name}"
            )
            raise UserError(f"{where} must be a positive whole number, not {value!r}")
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        if name in values:
            values[name] = str(values[name])
    setup = values.get("setup", [])
    if not isinstance(setup, list) or not all(isinstance(line, str) for line in setup):
        raise UserError(f"execution.slurm.setup must be a list of shell lines, not {setup!r}")
    values["setup"] = tuple(setup)
    memory = values.get("mem_gb")
    if memory is not None and (not isinstance(memory, int | float) or memory <= 0):
        raise UserError(f"execution.slurm.mem_gb must be a positive number of GB, not {memory!r}")
    profile = Profile(**values)
    if execution.get("device") == "cuda" and profile.gpus_per_node < profile.ranks:
        raise UserError(
            f"execution.device=cuda with ranks={profile.ranks} needs as many GPUs on each node, and "
            f"execution.gpus_per_job is {profile.gpus_per_node}: set it to {profile.ranks} or more"
        )
    if profile.signal_delay_s >= 60 * profile.time_min:
        raise UserError(
            f"execution.slurm.signal_delay_s={profile.signal_delay_s} is no shorter than the limit of "
            f"{profile.time_min} min: the job would be told to stop before it starts"
        )
    return profile


def profile_of(job: Job, training: Profile) -> Profile:
    """What this job asks for: the whole profile when it trains, one task on one node when it does not."""
    if any(is_collective(step) for step in job.steps):
        return training
    return replace(training, nodes=1, ranks=1, gpus_per_node=min(1, training.gpus_per_node))


def exclude_nodes(profile: Profile, nodes: tuple[str, ...]) -> Profile:
    """The profile without these nodes."""
    if not nodes:
        return profile
    listed = [name for name in (profile.exclude or "").split(",") if name]
    return replace(profile, exclude=",".join(dict.fromkeys([*listed, *nodes])))
