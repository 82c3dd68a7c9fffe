"""The cache of asset sets: fetched once, checked, converted, verified at every use, and offline afterwards.

Layout of the cache folder::

    archives/<file name>        downloads, kept: a damaged set is rebuilt from here without a network
    sets/<set>/...              the converted files, with `contents.json` that lists the SHA-256 of each
    manifest.json               which set provides what: source, archive SHA-256, content digest, tier, when
    locks/<set>.lock            one process at a time fetches a set; the others wait and then find it done

A set's digest is a function of its files only (name and SHA-256 of each), and enters the id of every step
built on
it. When the archives of a set cannot be had, the next tier stands in: that is said loudly, recorded in the
manifest, and visible in the digest. The stand-in stays until `vlmablate fetch` is asked again, so a sweep
never changes its pictures half-way. Nothing here imports numpy or torch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmablate import files
from vlmablate.data.archive_store import Download, Progress, Report, fresh_name, get_archive, locked
from vlmablate.data.contents import NOT_FETCHED, find_problem, read_contents, write_contents
from vlmablate.data.conversion_process import convert_in_subprocess
from vlmablate.data.download import SourceUnavailable, download
from vlmablate.data.sources import SETS, AssetSet
from vlmablate.errors import DiskFull, UserError, is_disk_full, unknown_name

MANIFEST_FILE = "manifest.json"


class AssetDamaged(UserError):  # noqa: N818
    """A cached set is not what it was when a run was planned, and could not be made so again."""


@dataclass(frozen=True)
class AssetStatus:
    """One row of `vlmablate fetch --list`."""

    name: str
    source: str
    licence: str
    bytes: int
    state: str
    taken: str


@dataclass
class Cache:
    """An asset cache. `registry`, `download` and `convert` can be replaced, which the tests do."""

    root: Path
    registry: Mapping[str, AssetSet] = field(default_factory=lambda: SETS)
    download: Download = download
    convert: Callable[[str, Sequence[Path], Path], None] = convert_in_subprocess

    # ---- looking

    def asset(self, name: str) -> AssetSet:
        """The declaration of a set. Raises UserError that lists the sets there are."""
        if name not in self.registry:
            raise unknown_name("asset set", name, self.registry)
        return self.registry[name]

    def folder(self, name: str) -> Path:
        return self.root / "sets" / name

    def manifest(self) -> dict[str, Any]:
        """The sets that were provided, by name; empty without a readable manifest (it can be rebuilt)."""
        try:
            sets = files.read_json(self.root / MANIFEST_FILE)["sets"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return sets if isinstance(sets, dict) else {}

    def provider(self, name: str) -> str:
        """The set that provides `name`: itself, or the tier that stands in for it.

        Raises UserError when nothing was fetched for it yet.
        """
        entry = self.manifest().get(self.asset(name).name)
        if entry is None:
            raise UserError(f"the asset set '{name}' has not been fetched: run `vlmablate fetch`")
        return str(entry["provider"])

    def location(self, name: str) -> Path:
        """The folder whose files provide `name`. Raises UserError when it was not fetched."""
        folder = self.folder(self.provider(name))
        if not folder.is_dir():
            raise UserError(f"{folder} is gone: run `vlmablate fetch`")
        return folder

    def problem(self, name: str) -> str | None:
        """None when the files of a set are whole, else what is wrong with them (see `find_problem`)."""
        return find_problem(self.asset(name), self.folder(name))

    def digest(self, provider: str) -> str:
        """The content digest that a set's `contents.json` states."""
        return str(read_contents(self.folder(provider))["digest"])

    def status(self) -> list[AssetStatus]:
        """A row for every set of the registry; reads and checks the cached files, fetches nothing."""
        manifest = self.manifest()
        return [
            AssetStatus(
                asset.name,
                asset.source,
                asset.licence,
                asset.bytes,
                self._state(asset, manifest),
                asset.taken,
            )
            for asset in self.registry.values()
        ]

    def _state(self, asset: AssetSet, manifest: Mapping[str, Any]) -> str:
        provider = manifest.get(asset.name, {}).get("provider", asset.name)
        problem = self.problem(provider)
        if problem is None:
            if provider != asset.name:
                return f"ready (tier {manifest[asset.name]['tier']}: {provider})"
            return "ready"
        if problem != NOT_FETCHED:
            return f"damaged: {problem}"
        have = sum((self.root / "archives" / archive.filename).is_file() for archive in asset.archives)
        return f"downloaded {have} of {len(asset.archives)}" if have else NOT_FETCHED

    # ---- making

    def ensure(
        self,
        names: Iterable[str],
        report: Report = print,
        progress: Progress | None = None,
        *,
        retry_fallbacks: bool = False,
    ) -> dict[str, str]:
        """Have these sets whole in the cache and return the content digest that provides each.

        A set that is there costs a checksum of its files. A missing or damaged one is rebuilt from its kept
        archive, or fetched. With `retry_fallbacks` a set that another tier stands in for is tried again from
        its own source.

        Raises:
            UserError: when a set and all its fallbacks cannot be had (all names are tried first), or is
            unknown.
            DiskFull: when there is no space.
        """
        digests: dict[str, str] = {}
        failures: list[str] = []
        for name in dict.fromkeys(names):
            asset = self.asset(name)
            try:
                digests[name] = self._ensure(asset, report, progress or _silent, retry_fallbacks)
            except DiskFull:
                raise
            except UserError as error:
                failures.append(f"the asset set '{name}' cannot be had:\n  {error}")
        if failures:
            failures.append(
                f"What is already in {self.root} is kept; run `vlmablate fetch` to go on from there."
            )
            raise UserError("\n".join(failures))
        return digests

    def use(self, name: str, digest: str | None = None, report: Report = print) -> tuple[str, Path]:
        """(provider, folder) of a set whose files were just verified; for a worker that reads them.

        With `digest` it is the tier with exactly this content, whatever the manifest says now: a run that was
        planned on one tier keeps it. A damaged set is rebuilt first.

        Raises:
            AssetDamaged: when the content that was planned is not to be had any more.
            UserError: as `ensure`.
        """
        tiers = self._tiers(self.asset(name))
        if digest is None:
            self.ensure([name], report)
            provider = self.provider(name)
            return provider, self.folder(provider)
        # The tier whose files last had this digest; one with an unreadable list can only be told after a
        # rebuild.
        tiers.sort(key=lambda asset: self._stated_digest(asset.name) != digest)
        for asset in tiers:
            if self.folder(asset.name).is_dir():
                self._whole(asset, report, _silent)
                if self.digest(asset.name) == digest:
                    return asset.name, self.folder(asset.name)
        raise AssetDamaged(
            f"the asset set '{name}' no longer has the content this run was planned with "
            f"(digest {digest[:16]}…).\n"
            "Run `vlmablate fetch`, then start the sweep again: it plans with what is there."
        )

    def _stated_digest(self, provider: str) -> str | None:
        try:
            return self.digest(provider)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _tiers(self, asset: AssetSet) -> list[AssetSet]:
        """The set and what stands in for it, in order."""
        tiers = [asset]
        while tiers[-1].fallback is not None:
            tiers.append(self.asset(tiers[-1].fallback))
        return tiers

    def _ensure(self, asset: AssetSet, report: Report, progress: Progress, retry_fallbacks: bool) -> str:
        tiers = self._tiers(asset)
        entry = self.manifest().get(asset.name)
        stands_in = entry is not None and entry.get("provider") != asset.name and not retry_fallbacks
        chosen = [tier for tier in tiers if entry is not None and tier.name == entry.get("provider")]
        reasons: list[str] = list(entry.get("reasons", [])) if stands_in and entry is not None else []
        for tier in chosen if stands_in and chosen else tiers:
            try:
                self._whole(tier, report, progress)
            except SourceUnavailable as error:
                if tier is tiers[-1]:
                    raise
                reasons.append(str(error))
                following = tiers[tiers.index(tier) + 1]
                report(
                    f"WARNING: '{tier.name}' cannot be had:\n  {error}\n"
                    f"  Falling back to the next tier: '{following.name}' ({following.taken})."
                )
                continue
            number = tiers.index(tier) + 1
            if number > 1:
                report(
                    f"WARNING: '{asset.name}' is provided by tier {number}, '{tier.name}'. Results on it "
                    f"are not comparable with results on '{asset.name}'. "
                    "`vlmablate fetch` tries the first tier again."
                )
            self._record(asset, tier, number, reasons)
            return self.digest(tier.name)
        raise AssertionError("the last tier either succeeds or raises")

    def _record(self, asset: AssetSet, tier: AssetSet, number: int, reasons: list[str]) -> None:
        """Bring the manifest up to date; it is only written when something changed."""
        contents = read_contents(self.folder(tier.name))
        entry = {
            "provider": tier.name,
            "tier": number,
            "digest": contents["digest"],
            "files": len(contents["files"]),
            "bytes": sum(facts["bytes"] for facts in contents["files"].values()),
            "licence": tier.licence,
            "sources": [
                {
                    "kind": archive.kind,
                    "package": archive.package,
                    "version": archive.version,
                    "archive": archive.filename,
                    "sha256": archive.sha256,
                }
                for archive in tier.archives
            ],
            "made": contents["made"],
        }
        if reasons:
            entry["reasons"] = reasons
        if self.manifest().get(asset.name) == entry:
            return
        with locked(self.root, "manifest", lambda _: None):
            sets = {**self.manifest(), asset.name: entry}
            files.write_json(self.root / MANIFEST_FILE, {"version": 1, "sets": dict(sorted(sets.items()))})

    def _whole(self, asset: AssetSet, report: Report, progress: Progress) -> None:
        """Verify a set, and make it when it is not whole."""
        if self.problem(asset.name) is None:
            return
        with locked(self.root, asset.name, report):
            problem = self.problem(asset.name)  # another process may have made it while this one waited
            if problem is None:
                return
            if problem != NOT_FETCHED:
                report(
                    f"WARNING: the cached asset set '{asset.name}' is not whole: {problem}. Making it again."
                )
            self._make(asset, report, progress)

    def _make(self, asset: AssetSet, report: Report, progress: Progress) -> None:
        archives = [
            get_archive(self.root, archive, self.download, report, progress) for archive in asset.archives
        ]
        target = self.folder(asset.name)
        building = fresh_name(target)
        try:
            building.mkdir(parents=True)
            report(f"{asset.name}: converting {', '.join(path.name for path in archives)}")
            self.convert(asset.convert, archives, building)
            write_contents(asset, building)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(building, target)
            files.fsync_directory(target.parent)
        except OSError as error:
            if is_disk_full(error):
                raise DiskFull(
                    f"no space left while writing {target}; nothing half-written was kept"
                ) from error
            raise
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _silent(what: str, done: int, total: int) -> None:
    return None
