"""Where results come from: commit and uncommitted changes, installed distributions (none of them is imported), and
the machine.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlmablate.files import encode_json, read_json, write_bytes
from vlmablate.orchestration.snapshot import PACKAGE, digest_of, source_files

FOLDER = "provenance"
SCIENCE = ("data", "evaluation", "training", "vlm")
"""The packages whose code can change a result."""
MAX_PATCH_BYTES = 10_000_000
_SOURCES = ("vlmablate", "conf", "sweeps", "analysis", "pyproject.toml", "constraints.txt")
_DRIVER = Path("/proc/driver/nvidia/version")
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
    from importlib import metadata  # slow to import, and a finished sweep does not need it

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
        ``{"sha", "dirty", "patch_sha256"}``; the digest is that of :func:`git_patch`, and None when nothing of the
        program was changed. All are None outside a git checkout.
    """
    return _git_state(folder or PACKAGE.parent)[0]


def _git_state(root: Path) -> tuple[dict[str, Any], bytes]:
    nothing = {"sha": None, "dirty": None, "patch_sha256": None}
    if not (root / ".git").exists():
        return nothing, b""
    status = _git(root, "status", "--porcelain")
    if status is None:
        return nothing, b""
    sha = _git(root, "rev-parse", "HEAD")
    patch = git_patch(root) if status.strip() else b""
    state = {
        "sha": sha.decode().strip() if sha else None,
        "dirty": bool(status.strip()),
        "patch_sha256": hashlib.sha256(patch).hexdigest() if patch else None,
    }
    return state, patch


def git_patch(root: Path) -> bytes:
    """What ``git apply`` needs to turn the commit into the working tree: changes of tracked files, and the untracked
    sources of the program.
    """
    patch = _git(root, "diff", "HEAD", "--binary") or b""
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *_SOURCES) or b""
    for name in filter(None, listed.decode(errors="surrogateescape").split("\0")):
        # Comparing with nothing ends with code 1, "they differ".
        patch += _git(root, "diff", "--no-index", "--binary", "--", os.devnull, name, fine=(0, 1)) or b""
        if len(patch) > MAX_PATCH_BYTES:
            break
    return patch


def _git(root: Path, *arguments: str, fine: tuple[int, ...] = (0,)) -> bytes | None:
    try:
        # Looking must not touch the index, which an editor or another git may be writing.
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode in fine else None


@lru_cache(maxsize=1)
def science_digest() -> str:
    """Digest of the code that can change a result: the packages of data, models, training and evaluation.

    A step's result carries it as ``code``; it never enters an id, because most edits change no number.
    """
    files: dict[Path, bytes] = {}
    for name in SCIENCE:
        files.update({Path(name) / path: data for path, data in source_files(PACKAGE / name).items()})
    return digest_of(files)


@lru_cache(maxsize=1)
def lock_text() -> str:
    """Every installed distribution with its version, as a requirements file; this package itself is left out.

    Names are those of the metadata folders, so no metadata has to be read.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = sorted(os.listdir(folder or "."))
        except OSError:
            continue
        for entry in names:
            stem, kind = os.path.splitext(entry)
            name, dash, version = stem.partition("-") if kind in (".dist-info", ".egg-info") else ("", "", "")
            if dash and name.lower() not in found and name != "vlmablate":
                found[name.lower()] = _requirement(name, version, Path(folder, entry))
    return "\n".join([f"# python {platform.python_version()}", *(found[name] for name in sorted(found)), ""])


def _requirement(name: str, version: str, folder: Path) -> str:
    pinned = f"{name}=={version.partition('-')[0]}"
    try:
        origin = read_json(folder / "direct_url.json")
    except (OSError, ValueError):
        return pinned
    commit = (origin.get("vcs_info") or {}).get("commit_id")
    if commit:
        return f"{name} @ {origin['vcs_info']['vcs']}+{origin['url']}@{commit}"
    return f"# {pinned}, installed from {origin.get('url')}"


@lru_cache(maxsize=1)
def gpus() -> tuple[str, ...]:
    """The GPUs of the machine with their driver, in words; empty where there are none. Does not need torch."""
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        facts = dict(line.split(":", 1) for line in _lines(path) if ":" in line)
        found.append(f"{facts.get('Model', '').strip()} ({facts.get('GPU UUID', '').strip()})")
    if found:
        driver = re.search(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)", "\n".join(_lines(_DRIVER)))
        return tuple(f"{gpu}, driver {driver[1]}" if driver else gpu for gpu in found)
    if shutil.which("nvidia-smi") is None:
        return ()
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.splitlines()) if done.returncode == 0 else ()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def record(home: Path) -> dict[str, Any]:
    """Everything about this command that a study keeps; what is long lies in files named by their digest.

    ``provenance/patches/<digest>.patch`` holds the uncommitted changes, ``provenance/locks/<digest>.txt`` the
    installed distributions, and ``provenance/code/<digest>.json`` tells commit and patch of a :func:`science_digest`,
    so that the small results of all steps lead there.

    Raises:
        DiskFull: when there is no room for the files.
    """
    git, patch = _git_state(PACKAGE.parent)
    if len(patch) > MAX_PATCH_BYTES:
        git["patch_too_large"] = len(patch)
    elif patch:
        _keep(home / FOLDER / "patches" / f"{git['patch_sha256']}.patch", patch)
    code = science_digest()
    _keep(
        home / FOLDER / "code" / f"{code}.json",
        encode_json({"git": git, "version": versions().get("vlmablate")}),
    )
    return {
        "git": git,
        "code": code,
        "lock": keep_lock(home),
        "argv": sys.argv,
        "versions": versions(),
        "host": host(),
        "gpus": list(gpus()),
    }


def code_record(home: Path, code: str) -> dict[str, Any]:
    """What :func:`record` kept of a science digest: {git, version}; empty when it was never seen here."""
    try:
        found: dict[str, Any] = read_json(home / FOLDER / "code" / f"{code}.json")
    except (OSError, ValueError):
        return {}
    return found


def of_attempt(home: Path) -> dict[str, Any]:
    """What a result keeps of the process that made it; small and quick, digests lead to the rest."""
    return {"code": science_digest(), "lock": keep_lock(home), "gpus": list(gpus())}


def keep_lock(home: Path) -> str:
    """Store :func:`lock_text` once; its digest."""
    text = lock_text().encode()
    name = hashlib.sha256(text).hexdigest()[:16]
    _keep(home / FOLDER / "locks" / f"{name}.txt", text)
    return name


def _keep(path: Path, data: bytes) -> None:
    if not path.exists():
        write_bytes(path, data)


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
