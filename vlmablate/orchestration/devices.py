"""GPUs of this machine, handed out so that no two jobs of one user ever hold the same one, whoever started them.

A device is held through a lease in a folder that all of the user's controllers on this machine share; a lease whose
controller is gone is free again. Cores are not handed out like this: two controllers that share them are slower and
lose nothing, while two jobs in the memory of one GPU end each other.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlmablate.errors import UserError
from vlmablate.orchestration.lease import Lease, LeaseBusyError, claim

_QUERY = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")


def runtime_folder() -> Path:
    """A folder of this user on this machine that every controller finds; created when missing.

    Raises:
        UserError: when the name is taken by somebody else.
    """
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given and os.access(given, os.W_OK):
        folder = Path(given) / "vlmablate"
    else:
        folder = Path(tempfile.gettempdir()) / f"vlmablate-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = os.lstat(folder)
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise UserError(f"{folder} belongs to somebody else: set XDG_RUNTIME_DIR to a folder of your own")
    return folder


def installed() -> dict[str, str]:
    """index -> UUID of the GPUs that the driver shows (-> index where its tool is missing); empty without a driver."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        files = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
        return {index: index for index in sorted(files, key=int)}
    rows = (line.partition(",") for line in done.stdout.splitlines() if "," in line)
    return {index.strip(): uuid.strip() for index, _, uuid in rows}


def visible(environment: Mapping[str, str], gpus: Mapping[str, str]) -> dict[str, str]:
    """The GPUs that this process may use, in their order.

    Args:
        environment: its ``CUDA_VISIBLE_DEVICES`` is respected: indices or UUIDs, and as in CUDA nothing counts after
            the first entry that is no device.
        gpus: what :func:`installed` gives.

    Returns:
        The name to hand on in ``CUDA_VISIBLE_DEVICES``, exactly as it was given -> the device's own name, the same in
        every controller.
    """
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return dict(gpus)
    found: dict[str, str] = {}
    for name in (part.strip() for part in given.split(",")):
        full = [uuid for uuid in gpus.values() if name.startswith("GPU-") and uuid.startswith(name)]
        known = name in gpus or len(full) == 1 if gpus else name.isdigit() or name.startswith("GPU-")
        if not known and not name.startswith("MIG-"):
            break
        found[name] = full[0] if full else gpus.get(name, name)
    return found


def gpus_per_job(execution: Mapping[str, Any]) -> int:
    """GPUs that each training job gets: ``execution.gpus_per_job``, else one with a device of cuda and none without.

    Raises:
        UserError: when it is not a whole number of at least 0.
    """
    asked = execution.get("gpus_per_job")
    if asked is None:
        return 1 if str(execution.get("device") or "cpu").startswith("cuda") else 0
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 0:
        raise UserError(f"execution.gpus_per_job must be a whole number of at least 0, not {asked!r}")
    return asked


class Devices:
    """Hands out devices, and takes no more of them than it may.

    Args:
        devices: name to hand on -> the device's own name (see :func:`visible`).
        limit: how many may be held at once; None: all.
        folder: where the leases are; None: the folder that all of the user's controllers share.
    """

    def __init__(
        self, devices: Mapping[str, str], limit: int | None = None, folder: Path | None = None
    ) -> None:
        self._devices = dict(devices)
        self.count = len(devices) if limit is None else min(limit, len(devices))
        self._folder = folder
        self._held: dict[str, Lease] = {}

    def take(self, count: int) -> list[str] | None:
        """``count`` devices that nobody holds, or None (and nothing held) when there are not so many now."""
        if count > self.count - len(self._held):
            return None
        taken: list[str] = []
        for name in self._devices:
            if len(taken) == count:
                break
            if name not in self._held and self._claim(name):
                taken.append(name)
        if len(taken) < count:
            self.give_back(taken)
            return None
        return taken

    def give_back(self, names: Sequence[str]) -> None:
        """Let go of devices that :meth:`take` gave."""
        for name in names:
            lease = self._held.pop(name)
            with suppress(OSError, UserError):
                lease.finish("free")
            lease.abandon()
            for number in range(1, lease.number):
                # Who held it before tells nothing any more; the last record carries the number on.
                lease.path.with_name(f"{number:03d}.json").unlink(missing_ok=True)

    def _claim(self, name: str) -> bool:
        if self._folder is None:
            self._folder = runtime_folder() / "gpus"
        try:
            self._held[name] = claim(self._folder / self._devices[name].replace("/", "_"), device=name)
        except LeaseBusyError:
            return False
        return True


def devices_for(
    execution: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    find: Callable[[], dict[str, str]] = installed,
) -> Devices:
    """The devices of a sweep on this machine: none when its jobs use none.

    Args:
        execution: ``gpus_per_job`` for each training job, ``gpus`` at most in all (None: all that are visible).

    Raises:
        UserError: when a job asks for more than there are.
    """
    wanted = gpus_per_job(execution)
    if not wanted:
        return Devices({})
    limit = execution.get("gpus")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise UserError(f"execution.gpus must be a positive whole number, not {limit!r}")
    environment = os.environ if environment is None else environment
    found = Devices(visible(environment, find()), limit)
    if found.count < wanted:
        shown = environment.get("CUDA_VISIBLE_DEVICES")
        seen = f" (CUDA_VISIBLE_DEVICES={shown})" if shown is not None else ""
        raise UserError(
            f"every training job asks for {wanted} GPU{'s' if wanted > 1 else ''} and {found.count} can be used "
            f"on this machine{seen}: lower execution.gpus_per_job, or use execution.device=cpu"
        )
    return found
