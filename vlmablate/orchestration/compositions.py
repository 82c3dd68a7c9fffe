"""What Hydra composed before, kept as files, so that a sweep whose configuration is known starts without Hydra.

One file per list of overrides under ``<home>/cache/compositions/``, named by a digest of everything a composition is
made from: the overrides, every file of the configuration tree, the installed libraries, and the code that composes.
Files of another state are never read again; all of them may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, MutableMapping
from functools import cached_property
from pathlib import Path

from vlmablate.design.compose import Composition
from vlmablate.files import read_json, write_json
from vlmablate.orchestration.provenance import lock_text
from vlmablate.paths import resource

FOLDER = Path("cache") / "compositions"
_RESOLVER = re.compile(r"\$\{(?!oc\.select:)[^${}]*:")
"""An interpolation that calls a function, whose value may be another one next time; that of ``oc.select`` may not."""


class Compositions(MutableMapping[tuple[str, ...], Composition]):
    """Overrides -> composition, of this process and of earlier ones.

    Args:
        conf: the configuration tree; None for the packaged one.
        home: the results folder. Nothing is written before :meth:`save`.
    """

    def __init__(self, conf: Path | None, home: Path) -> None:
        self._conf = conf or resource("conf")
        self._folder = home / FOLDER
        self._memory: dict[tuple[str, ...], Composition] = {}
        self._new: set[tuple[str, ...]] = set()

    def __getitem__(self, overrides: tuple[str, ...]) -> Composition:
        if overrides not in self._memory:
            if self._fingerprint is None:
                raise KeyError(overrides)
            try:
                kept = read_json(self._file(overrides))
                if kept["overrides"] != list(overrides):
                    raise KeyError(overrides)
                self._memory[overrides] = Composition(kept["raw"], kept["choices"])
            except (OSError, ValueError, TypeError) as error:
                raise KeyError(overrides) from error
        return self._memory[overrides]

    def __setitem__(self, overrides: tuple[str, ...], composition: Composition) -> None:
        self._memory[overrides] = composition
        self._new.add(overrides)

    def __delitem__(self, overrides: tuple[str, ...]) -> None:
        del self._memory[overrides]
        self._new.discard(overrides)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return iter(self._memory)

    def __len__(self) -> int:
        return len(self._memory)

    def __contains__(self, overrides: object) -> bool:
        try:
            self[overrides]  # type: ignore[index]
        except KeyError:
            return False
        return True

    def save(self) -> None:
        """Keep what is new. A configuration that calls resolvers is not kept, because they may answer differently.

        Raises:
            DiskFull: when there is no room.
        """
        if self._fingerprint is None:
            return
        for overrides in sorted(self._new):
            made = self._memory[overrides]
            record = {"overrides": list(overrides), "choices": made.choices, "raw": made.raw}
            write_json(self._file(overrides), record)
        self._new.clear()

    def _file(self, overrides: tuple[str, ...]) -> Path:
        digest = hashlib.sha256(self._fingerprint or b"")
        for text in overrides:
            digest.update(f"{text}\0".encode())
        return self._folder / f"{digest.hexdigest()[:32]}.json"

    @cached_property
    def _fingerprint(self) -> bytes | None:
        """Digest of what every composition depends on; None for a tree whose compositions cannot be kept."""
        digest = hashlib.sha256()
        for path in sorted(self._conf.rglob("*.yaml")):
            text = path.read_bytes()
            if _RESOLVER.search(text.decode(errors="replace")):
                return None
            digest.update(f"{path.relative_to(self._conf).as_posix()}\0{len(text)}\0".encode() + text)
        for path in sorted((Path(__file__).parents[1] / "design").glob("*.py")):
            digest.update(path.read_bytes())
        digest.update(lock_text().encode())
        return digest.digest()
