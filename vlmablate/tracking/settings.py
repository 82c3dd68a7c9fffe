"""The settings of the tracker (``conf/tracking``), checked; the tracker itself is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vlmablate.errors import UserError, unknown_name

TRACKERS = ("none", "wandb")
MODES = ("offline", "online")
MARK = "tracked-wandb.json"
"""In the folder of an evaluate step: its run was told to W&B. In that of a study: its report was, in which version."""
OF_ONE_RUN = tuple(
    f"WANDB_{name}"
    for name in (
        "RUN_ID",
        "NAME",
        "RUN_GROUP",
        "JOB_TYPE",
        "TAGS",
        "NOTES",
        "RESUME",
        "SWEEP_ID",
        "DIR",
        "MODE",
    )
)
"""Variables of W&B that would make one run of all of them, or send them elsewhere."""


@dataclass(frozen=True)
class Tracking:
    """How W&B is fed.

    Attributes:
        project, entity: where the runs go; without an entity, to the user's default one.
        mode: ``offline`` or ``online``.
        dir: the folder of the W&B runs' folders; None for ``wandb`` in the results folder.
    """

    project: str = "vlmablate"
    entity: str | None = None
    mode: str = "offline"
    dir: str | None = None

    def folder(self, home: Path) -> Path:
        """The folder of the W&B runs' folders, absolute."""
        return Path(self.dir).expanduser().absolute() if self.dir else home / "wandb"

    def words(self) -> list[str]:
        """As ``key=value``, for a command line."""
        return [f"{key}={value}" for key, value in asdict(self).items() if value is not None]


def read_tracking(config: Mapping[str, Any]) -> Tracking | None:
    """The settings, or None when nothing is tracked.

    Args:
        config: the composed ``tracking`` group: ``name`` and what belongs to it.

    Raises:
        UserError: for an unknown tracker, setting or mode, and values that are no text.
    """
    name = config.get("name", "none")
    if name not in TRACKERS:
        raise unknown_name("tracker", str(name), TRACKERS, where="tracking.name")
    if name == "none":
        return None
    given = {str(key): value for key, value in config.items() if key != "name"}
    known = [field.name for field in fields(Tracking)]
    for key, value in given.items():
        if key not in known:
            raise unknown_name("setting", key, known, where="tracking")
        optional = key in ("entity", "dir")
        if not (isinstance(value, str) and value.strip()) and not (optional and value is None):
            raise UserError(f"tracking.{key} must be a text{', or null' if optional else ''}, not {value!r}")
    tracking = Tracking(**given)
    if tracking.mode not in MODES:
        raise unknown_name("mode", tracking.mode, MODES, where="tracking.mode")
    return tracking


def require_wandb() -> None:
    """Raises UserError, which says what to install, when W&B is not there. It is looked for, not imported."""
    found = find_spec("wandb")
    # A folder called wandb in the current directory, where offline runs often lie, looks like a package without code.
    if found is None or found.origin is None:
        raise UserError(
            "tracking=wandb needs the package wandb, which is not installed: pip install 'vlmablate[track]'\n"
            "Or leave tracking=wandb out: finished runs can be tracked later, with the same command."
        )
