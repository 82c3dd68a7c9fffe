"""Requests to general language models that should be refused, each with a benign twin: probes.yaml, which says how they
were made, what they measure and what they do not.

They stand beside `data.text_only`, whose requests are written in a closed vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from vlmablate.errors import UserError

_FILE = Path(__file__).with_name("probes.yaml")


@dataclass(frozen=True)
class Probe:
    """One request. pair: what it shares with its twin, ``theft-1a2b3c4d``, named by the harmful text."""

    text: str
    category: str
    pair: str
    harmful: bool

    @property
    def id(self) -> str:
        """Changes with the text, so that results of another wording are never paired with it."""
        return f"{self.category}-{_digest(self.text)}"


def read_probes(text: str, where: str) -> tuple[Probe, ...]:
    """The probes of a YAML text, category -> list of {harmful, benign}; each harmful one in front of its twin.

    Raises UserError, which names `where` and the entry, for another form and for a text that occurs twice.
    """
    found: list[Probe] = []
    read = yaml.safe_load(text)
    if not isinstance(read, dict):
        raise UserError(f"{where}: expected categories, each with a list of pairs")
    for category, pairs in read.items():
        for number, pair in enumerate(pairs or ()):
            if not (
                isinstance(pair, dict)
                and sorted(pair) == ["benign", "harmful"]
                and all(isinstance(text, str) and text for text in pair.values())
            ):
                raise UserError(f"{where}, {category}[{number}]: expected two texts, 'harmful' and 'benign'")
            name = f"{category}-{_digest(pair['harmful'])}"
            found += [
                Probe(pair[role], str(category), name, role == "harmful") for role in ("harmful", "benign")
            ]
    seen: set[str] = set()
    for probe in found:
        if probe.text in seen:
            raise UserError(f"{where}, {probe.category}: asks twice: {probe.text}")
        seen.add(probe.text)
    return tuple(found)


@cache
def probes() -> tuple[Probe, ...]:
    """All of probes.yaml, in its order."""
    return read_probes(_FILE.read_text(encoding="utf-8"), _FILE.name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
