"""The batch script of an array, rendered by submitit, and its submission.

submitit knows how Slurm wants its flags; what it sends along, pickles with counters inside, is replaced by the
frozen manifests of the journal. The script is plain shell, so that it can be read, and it does four things after
the worker has ended: it leaves a record of the exit code, decides from it and from Slurm's own word whether the job
goes back to the queue, and hands the code on.
"""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor

from vlmablate.orchestration.slurm import commands
from vlmablate.orchestration.slurm.batches import Batch, dependency, index_text
from vlmablate.orchestration.slurm.journal import COMMENT_PREFIX, EXITS, LOGS, REVOKED, SCRIPT, job_name
from vlmablate.orchestration.worker import Exit


class SubmissionRefused(Exception):  # noqa: N818
    """Slurm said no, and said why."""


class ManifestExecutor(SlurmExecutor):
    """Renders the script of one array whose elements run manifests of a submission's folder.

    Args:
        batch: the array.
        place: folder of the submission.
        code: folder with the snapshot of this package, first on the workers' PYTHONPATH.
        job_ids: token -> Slurm's id, for the arrays that this one waits for.
    """

    def __init__(self, batch: Batch, place: Path, code: Path, job_ids: Mapping[str, str]) -> None:
        super().__init__(folder=place)
        self._batch = batch
        self._place = place
        self._code = code
        self.update_parameters(**self._flags(job_ids))

    def script(self) -> str:
        """The whole batch script."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text: str = self._make_submission_file_text(self._command(), self._batch.token)
        return text

    def _flags(self, job_ids: Mapping[str, str]) -> dict[str, Any]:
        profile, batch = self._batch.profile, self._batch
        indices = index_text(list(batch.jobs))
        throttle = f"%{profile.throttle}" if profile.throttle else ""
        # With srun the ranks get signals themselves; without, only the batch shell is there to pass them on.
        target = "" if self._uses_srun else "B:"
        more: dict[str, Any] = {
            "array": indices + throttle,
            "requeue": True,
            "kill-on-invalid-dep": "yes",
            "output": str(self._place / LOGS / "%a.log"),
            "signal": f"{target}USR2@{profile.signal_delay_s}",
        }
        flags: dict[str, Any] = {
            "job_name": job_name(batch.token),
            "comment": f"{COMMENT_PREFIX}{batch.token}",
            "time": profile.time_min,
            "nodes": profile.nodes,
            "ntasks_per_node": profile.ranks,
            "cpus_per_task": profile.cpus_per_task,
            "dependency": dependency(batch, job_ids),
            "setup": list(profile.setup) or None,
            "stderr_to_stdout": True,
            "use_srun": False,  # our own line calls srun where there is more than one task
            "wckey": None,
            "additional_parameters": more,
        }
        if profile.gpus_per_node:
            flags["gpus_per_node"] = profile.gpus_per_node
        if profile.mem_gb is not None:
            flags["mem"] = f"{round(1024 * profile.mem_gb)}M"
        for name in ("partition", "account", "qos", "constraint", "exclude"):
            if getattr(profile, name) is not None:
                flags[name] = getattr(profile, name)
        return flags

    @property
    def _uses_srun(self) -> bool:
        return self._batch.profile.tasks > 1

    def _command(self) -> str:
        profile = self._batch.profile
        place = shlex.quote(str(self._place))
        # Files are the truth here, so the interpreter's own buffers must not hold anything back.
        worker = f'{shlex.quote(sys.executable)} -u -m vlmablate.orchestration.worker --batch {place} --index "$index"'
        if self._uses_srun:
            output = shlex.quote(str(self._place / LOGS / "%a.%t.log"))
            worker = (
                f"srun --kill-on-bad-exit=1 --unbuffered --cpus-per-task={profile.cpus_per_task} "
                f"--output={output} --open-mode=append {worker}"
            )
        return f"""\
index="$SLURM_ARRAY_TASK_ID"
restart="${{SLURM_RESTART_COUNT:-0}}"
export PYTHONPATH={shlex.quote(str(self._code))}"${{PYTHONPATH:+:$PYTHONPATH}}"
export OMP_NUM_THREADS={profile.cpus_per_task} MKL_NUM_THREADS={profile.cpus_per_task} TOKENIZERS_PARALLELISM=false
cd {place} || exit {int(Exit.FAILED)}
if [ -e {REVOKED} ]; then echo "this submission was given up before it arrived"; exit 0; fi

child=
pass_on() {{ [ -n "$child" ] && kill -s "$1" "$child" 2>/dev/null; }}
trap 'pass_on USR2' USR2
trap 'pass_on TERM' TERM
{worker} &
child=$!
wait "$child"; code=$?
while [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done

record={EXITS}/"$index-$restart"
printf '{{"code": %d, "node": "%s", "job": "%s", "ended": "%s"}}\\n' \\
  "$code" "${{SLURMD_NODENAME:-$(hostname)}}" "$SLURM_JOB_ID" "$(date -u +%Y-%m-%dT%H:%M:%S+00:00)" \\
  > "$record.tmp" && mv "$record.tmp" "$record.json"
case "$code" in
  {int(Exit.REQUEUE)}) scontrol requeue "$SLURM_JOB_ID" && sleep 60 ;; # told to make room: the work goes on later
  {int(Exit.STOPPED)}) scontrol --oneliner show job "$SLURM_JOB_ID" | grep -Eq ' PreemptTime=[0-9]' &&
     scontrol requeue "$SLURM_JOB_ID" && sleep 60 ;; # preempted without a word before; scancel ends here
esac
exit "$code\""""


def render(batch: Batch, place: Path, code: Path, job_ids: Mapping[str, str]) -> str:
    """The batch script of an array; see :class:`ManifestExecutor`."""
    return ManifestExecutor(batch, place, code, job_ids).script()


_TRANSIENT = re.compile(
    r"socket timed out|unable to contact|connection refused|temporar|try again|zero bytes|slurm_?ctld|protocol",
    re.IGNORECASE,
)
_FULL = re.compile(
    r"submit limit|QOSMaxSubmit|AssocMaxSubmit|MaxJobCount|job count|violates accounting", re.IGNORECASE
)


class QueueFull(Exception):  # noqa: N818
    """The user's limit of submitted jobs is reached; the rest can follow when some have ended."""


def sbatch(place: Path) -> str:
    """Submit the script of a submission once; Slurm's job id.

    Raises:
        SubmissionRefused: Slurm said clearly that it will not take the job.
        QueueFull: a limit on the number of jobs is reached.
        NoAnswer: anything else; the job may or may not have arrived.
    """
    try:
        said = commands.call(["sbatch", "--parsable", str(place / SCRIPT)], commands.SUBMIT_TIMEOUT_S)
    except commands.NoAnswer as error:
        text = str(error)
        if _FULL.search(text):
            raise QueueFull(text) from error
        if "ended with code" in text and "sbatch: error" in text and not _TRANSIENT.search(text):
            raise SubmissionRefused(text) from error
        raise
    found = re.search(r"^(\d+)(?:;[\w.-]+)?\s*$", said, re.MULTILINE)
    if found is None:
        raise commands.NoAnswer(f"sbatch printed no job id: {said.strip()[:200]!r}")
    return found[1]
