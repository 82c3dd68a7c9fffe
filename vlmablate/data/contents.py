"""What a converted asset set consists of: the list of its files, checked whenever the set is used."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmablate import files
from vlmablate.data.sources import AssetSet

CONTENTS_FILE = "contents.json"
NOT_FETCHED = "not fetched"


def content_digest(listing: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over the sorted (name, SHA-256) pairs of the files of a set."""
    pairs = sorted((name, facts["sha256"]) for name, facts in listing.items())
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def list_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder, by relative name, without `contents.json`."""
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CONTENTS_FILE
    }


def made_from(asset: AssetSet) -> dict[str, Any]:
    """What a set is a function of: the revision of its conversion and the SHA-256 of its archives."""
    return {"revision": asset.revision, "archives": [archive.sha256 for archive in asset.archives]}


def write_contents(asset: AssetSet, folder: Path) -> None:
    """List the files of a freshly converted folder in its `contents.json`."""
    listing = list_files(folder)
    contents = {
        "set": asset.name,
        "digest": content_digest(listing),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "made_from": made_from(asset),
        "files": listing,
    }
    files.write_json(folder / CONTENTS_FILE, contents)


def read_contents(folder: Path) -> dict[str, Any]:
    """The `contents.json` of a set. Raises OSError or ValueError when it is not there or not readable."""
    contents = files.read_json(folder / CONTENTS_FILE)
    if not isinstance(contents, dict):
        raise ValueError(f"{folder / CONTENTS_FILE} is damaged")
    return contents


def find_problem(asset: AssetSet, folder: Path) -> str | None:
    """None when the files of a set are whole (every size and SHA-256), else what is wrong with them."""
    try:
        contents = read_contents(folder)
        listing = contents["files"]
        if contents["made_from"] != made_from(asset):
            return "it was made from another version of its source"
        for name, facts in listing.items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else -1
            if size < 0:
                return f"{name} is missing"
            if size != facts["bytes"]:
                return f"{name} has {size:,} bytes, expected {facts['bytes']:,}"
            if files.sha256_file(path) != facts["sha256"]:
                return f"the content of {name} changed (its SHA-256 differs)"
        if content_digest(listing) != contents["digest"]:
            return f"{CONTENTS_FILE} is damaged"
    except FileNotFoundError:
        return f"{CONTENTS_FILE} is missing" if folder.exists() else NOT_FETCHED
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{CONTENTS_FILE} is damaged ({error})"
    return None
