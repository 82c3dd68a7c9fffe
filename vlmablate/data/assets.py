"""The asset sets of the user's cache: what a configuration needs, whether it is there, and where.

Thin functions over `vlmablate.data.asset_cache`, bound to the cache folder of the user. Neither numpy nor
torch is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlmablate import paths
from vlmablate.data import weight_files
from vlmablate.data.archive_store import Report
from vlmablate.data.asset_cache import AssetStatus, Cache
from vlmablate.data.sources import SETS
from vlmablate.design.published import is_published, sources_of
from vlmablate.errors import UserError, unknown_name

DRAWN_PICTURES = "drawn_shapes"
BACKGROUNDS = "photo_backgrounds"
ASSET = "asset"
"""``llm.weights`` of a language model whose weights are an asset set."""
HUB = "hub:"
FILES = "files:"
"""In front of the digest of weights in a folder of the user's own (`weight_files`)."""


def cache() -> Cache:
    """The user's cache (`$VLMABLATE_CACHE`, or the user's cache folder)."""
    return Cache(paths.cache_dir())


def ensure(names: Iterable[str], report: Report = print) -> dict[str, str]:
    """See `Cache.ensure`."""
    return cache().ensure(names, report)


def use(name: str, digest: str | None = None, report: Report = print) -> tuple[str, Path]:
    """See `Cache.use`."""
    return cache().use(name, digest, report)


def provider(name: str) -> str:
    """See `Cache.provider`."""
    return cache().provider(name)


def location(name: str) -> Path:
    """See `Cache.location`."""
    return cache().location(name)


def status() -> list[AssetStatus]:
    """See `Cache.status`."""
    return cache().status()


def required(config: Mapping[str, Any]) -> list[str]:
    """The asset sets that a composed configuration needs: weights of its towers and of its language model, its
    pictures and backgrounds.

    Smoke towers and drawn shapes need none. Raises UserError for an unknown tower, language model or picture source.
    """
    from vlmablate.vlm.towers.registry import asset_of

    names = [asset for tower in config["vision"]["towers"] if (asset := asset_of(tower)) is not None]
    if (language := _language_asset(config.get("llm") or {})) is not None:
        names.append(language)
    pictures = config["data"].get("pictures", DRAWN_PICTURES)
    if pictures != DRAWN_PICTURES:
        if pictures not in SETS:
            raise unknown_name(
                "picture source", pictures, [*_picture_sets(), DRAWN_PICTURES], "data.pictures"
            )
        names += [pictures, BACKGROUNDS]
    return list(dict.fromkeys(names))


def pictures(config: Mapping[str, Any]) -> list[str]:
    """The asset sets that the scenes of a configuration are composed from: some of those `required`."""
    return required({"data": config["data"], "vision": {"towers": []}})


def weights(config: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, str]:
    """Which weights each tower and a pretrained language model start from, by name.

    The digest of an asset set (`digests` as `ensure` returns them) or of a folder of the user's, or `random` for a part
    without, or the repository of the hub. Raises UserError for an unknown one.
    """
    from vlmablate.vlm.towers import registry as towers

    weights = {}
    for tower in config["vision"]["towers"]:
        asset, name = towers.asset_of(tower), towers.name_of(tower)
        weights[name] = (
            digests[asset] if asset is not None else _named(towers.source_of(tower), towers.facts(name).hub)
        )
    llm = config.get("llm") or {}
    if "weights" in llm:
        from vlmablate.vlm.llms.registry import llm_named, source_of

        asset, source = _language_asset(llm), str(llm["weights"])
        if asset is not None:
            weights[llm["name"]] = digests[asset]
        else:
            weights[llm["name"]] = _named(source_of(llm["name"], source), llm_named(llm["name"]).hub)
    return weights


def published(config: Mapping[str, Any]) -> dict[str, str]:
    """Source of records, and benchmark, that a configuration reads out of a folder -> digest of its annotations.

    Their folders are noted, so that whoever works on a step finds them (`records.folders`, `tasks.folders`). Raises
    UserError for a folder that is not given, is not there, or holds something else.
    """
    if not is_published(config):
        return {}
    from vlmablate.data.records import folders
    from vlmablate.data.records.formats import format_named
    from vlmablate.evaluation.tasks import folders as benchmark_folders

    given = config["data"].get("folders") or {}
    found = {}
    for source in sources_of(config):
        format_named(source)  # a wrong name is no matter of folders
        if given.get(source) is None:
            raise UserError(
                f"data={config['data'].get('name')} learns from {source}: say where it lies on this machine, "
                f"data.folders.{source}=FOLDER (README, Published data). Models of this size can also be priced "
                "without data: vlmablate cost"
            )
        found[source] = folders.remember(source, given[source])
    benchmark = config["benchmark"]
    if "folder" in benchmark:
        if benchmark["folder"] is None:
            raise UserError(
                "benchmark=published reads its questions below one folder: benchmark.folder=FOLDER "
                "(conf/benchmark/published.yaml shows how it looks)"
            )
        for name in benchmark["names"]:
            found[name] = benchmark_folders.remember(name, benchmark["folder"])
    return found


def _named(source: str, hub: str | None) -> str:
    """What tells weights apart: ``random``, a repository of the hub, or the content of files."""
    if source == "random":
        return source
    return f"{HUB}{hub}" if source == "pretrained" else FILES + weight_files.remember(source)


def _language_asset(llm: Mapping[str, Any]) -> str | None:
    if llm.get("weights") != ASSET:
        return None
    from vlmablate.vlm.llms.registry import asset_of

    return asset_of(llm["name"])


def _picture_sets() -> list[str]:
    chained = {asset.fallback for asset in SETS.values() if asset.fallback}
    return [asset.name for asset in SETS.values() if asset.fallback or asset.name in chained]
