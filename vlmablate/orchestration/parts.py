"""What a controller works with: folders, step functions, assets, the report. Tests replace some of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmablate.orchestration.kinds import KINDS
from vlmablate.orchestration.lease import HEARTBEAT_S, TTL_S
from vlmablate.orchestration.progress import Display, make_display
from vlmablate.orchestration.study import AssetSource
from vlmablate.paths import cache_dir, home

BuildReport = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Parts:
    """What a controller works with; tests replace some of it.

    Attributes:
        home: results folder. cache: assets folder.
        conf: the configuration tree; None for the packaged one. axes: folder of axis files; None likewise.
        kinds: kind -> ``module:function`` of the step functions.
        assets: where pretrained parts and pictures come from; None imports :mod:`vlmablate.data.assets`.
        build: writes the report of a study; None imports :mod:`vlmablate.report.build`.
        report: prints one message.
        display: makes the progress display.
    """

    home: Path = field(default_factory=home)
    cache: Path = field(default_factory=cache_dir)
    conf: Path | None = None
    axes: Path | None = None
    kinds: Mapping[str, str] = field(default_factory=lambda: KINDS)
    assets: AssetSource | None = None
    build: BuildReport | None = None
    report: Callable[[str], None] = lambda text: print(text, flush=True)
    display: Callable[[], Display] = make_display
    ttl_s: float = TTL_S
    heartbeat_s: float = HEARTBEAT_S

    def asset_source(self) -> AssetSource:
        """Where assets come from."""
        if self.assets is not None:
            return self.assets
        module: Any = importlib.import_module("vlmablate.data.assets")
        source: AssetSource = module
        return source

    def build_report(self, study: Path, force: bool = False) -> dict[str, Any]:
        """Have the report of a study written; it costs next to nothing when nothing it is made of has changed."""
        build = self.build or importlib.import_module("vlmablate.report.build").build_study
        made: dict[str, Any] = build(study, self.home, force=force)
        return made
