"""Where results come from: code state, library versions (without importing the libraries), and the
machine.
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

_LIBRARIES = (
    "vlmablate",
    "hydra-core",
    "matplotlib",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "safetensors",
    "scipy",
    "submitit",
    "torch",
)


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Python's version and those of the libraries that touch results, as installed; missing ones are left
    out.
    """
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """The commit of the checkout that holds this package.

    Returns:
        ``{"sha", "dirty", "patch_sha256"}``; the digest covers the uncommitted changes of tracked files and
        the names of untracked ones, and is None when there are none. All are None outside a git checkout.
    """
    root = folder or Path(__file__).resolve().parents[2]
    nothing = {"sha": None, "dirty": None, "patch_sha256": None}
    if not (root / ".git").exists():
        return nothing
    status = _git(root, "status", "--porcelain")
    if status is None:
        return nothing
    sha = _git(root, "rev-parse", "HEAD")
    patch = (_git(root, "diff", "HEAD", "--binary") or b"") + status
    return {
        "sha": sha.decode().strip() if sha else None,
        "dirty": bool(status.strip()),
        "patch_sha256": hashlib.sha256(patch).hexdigest() if status.strip() else None,
    }


def _git(root: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@lru_cache(maxsize=1)
def host() -> dict[str, Any]:
    """The machine: name, system, processor, the cores this process may use, and memory in MB."""
    return {
        "name": socket.gethostname(),
        "system": platform.platform(),
        "cpu": _cpuinfo().get("model name", platform.processor() or platform.machine()),
        "cores": available_cores(),
        "memory_mb": _memory_mb(),
        "amx_bf16": "amx_bf16" in cpu_flags(),
    }


@lru_cache(maxsize=1)
def _cpuinfo() -> dict[str, str]:
    facts: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, separator, value = line.partition(":")
            if not separator:
                break  # the first processor is enough
            facts[key.strip()] = value.strip()
    except OSError:
        pass
    return facts


def cpu_flags() -> frozenset[str]:
    """Instruction-set flags of the processor (``amx_bf16``, …); empty where the system does not list them."""
    return frozenset(_cpuinfo().get("flags", "").split())


def _memory_mb() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError):
        return None


def available_cores() -> int:
    """Cores this process may use: its affinity mask, cut by the CPU quota of its control group
    (containers).
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def reset_peak_memory() -> None:
    """Start a new measurement of this process' peak memory (Linux; elsewhere the peak is that of its whole
    life).
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_mb() -> float:
    """Peak resident memory in MB since :func:`reset_peak_memory`."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    except (OSError, ValueError):
        pass
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 1024), 1)
