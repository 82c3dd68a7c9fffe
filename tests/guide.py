"""The pages of the guide as data: their fenced blocks, commands, files to write, headings and links."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = tuple(sorted((ROOT / "docs").glob("*.md")))
PAGES = (
    *GUIDE,
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "slurm/README.md", "conf/paper/README.md")),
)
"""Every page of the site."""

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"(?:# @package _global_\n)?# (?P<path>[\w./-]+/[\w.-]+\.(?:yaml|py))\n")
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<title>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: what stands in it, and the line of its page that its fence is on (from 1)."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def smoke(self) -> bool:
        """Whether it runs as it stands, in a new folder."""
        return self.language == "bash" and self.text.startswith("# smoke\n")

    @property
    def path(self) -> str:
        """The file that it shows, relative to the checkout; empty for other blocks."""
        named = _NAMED.match(self.text) if self.language in ("yaml", "python") else None
        return named["path"] if named else ""

    @property
    def commands(self) -> list[str]:
        """The lines that are typed, continued ones as one; of a block without a language those that begin with $."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "bash":
            return [line for line in lines if line and not line.startswith("#")]
        return [line[2:] for line in lines if line.startswith("$ ")] if not self.language else []

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"])
        for found in _FENCE.finditer(text)
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """The targets of its links that lie in the checkout."""
    without_code = re.sub(r"`[^`\n]*`", "", prose(page))
    targets = [found["target"] for found in _LINK.finditer(without_code)]
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


def anchors(page: Path) -> set[str]:
    """The names by which its headings can be linked to: lower case, punctuation left out, spaces as hyphens, repeats
    numbered."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _HEADING.finditer(prose(page)):
        plain = re.sub(r"[^\w\- ]", "", heading["title"].lower()).replace(" ", "-")
        found.add(f"{plain}-{seen[plain]}" if seen[plain] else plain)
        seen[plain] += 1
    return found


def tool_words(command: str) -> Iterator[list[str]]:
    """The words behind ``vlmablate`` of every call of the tool in a line: the verb first, however it was spelled."""
    words = shlex.split(command, comments=True)
    for start, word in enumerate(words):
        if word == "vlmablate" and words[start - 1 : start] in ([], ["&&"], ["|"]):
            yield words[start + 1 :]
        elif word.startswith("vlmablate.") and words[start - 1] == "-m":
            module = word.removeprefix("vlmablate.")
            rest = words[start + 1 :]
            yield rest if module == "cli" else [{"report_verb": "report"}.get(module, module), *rest]
