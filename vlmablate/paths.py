"""Where things are: results, downloads, and the read-only trees that travel with the package."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
RESOURCES = ("conf", "sweeps", "analysis")


def home() -> Path:
    """The results folder: ``$VLMABLATE_HOME``, or ``./outputs``; absolute. It is not created here."""
    return Path(os.environ.get("VLMABLATE_HOME") or "outputs").expanduser().absolute()


def cache_dir() -> Path:
    """The folder of downloaded and converted assets: ``$VLMABLATE_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("VLMABLATE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("vlmablate", appauthor=False))


def resource(name: str) -> Path:
    """A folder that travels with the package (``conf``, ``sweeps``, ``analysis``), in a checkout and in a
    wheel.

    A checkout is recognised by the ``pyproject.toml`` beside the package; an installed wheel carries the
    folders in ``vlmablate/_resources``.

    Raises:
        KeyError: for a name that is not one of :data:`RESOURCES`.
        FileNotFoundError: when the installation lacks the folder.
    """
    if name not in RESOURCES:
        raise KeyError(f"no resource {name!r}; there are {', '.join(RESOURCES)}")
    checkout = _PACKAGE.parent
    candidates = [_PACKAGE / "_resources" / name]
    if (checkout / "pyproject.toml").is_file():
        candidates.insert(0, checkout / name)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(
        f"this installation of vlmablate lacks its {name}/ folder (looked in "
        f"{' and '.join(map(str, candidates))}); reinstall it"
    )
