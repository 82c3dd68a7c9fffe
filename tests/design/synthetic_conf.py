"""A configuration tree of 14 groups and 171 values, with the ways in which groups of a real one meet."""

from __future__ import annotations

from pathlib import Path

import yaml

GROUPS = tuple(f"g{i:02d}" for i in range(14))
PLAIN = GROUPS[2:12]
"""Groups that touch nothing but their own values."""
OPTIONS = ("a", "b", "c")
LEAVES = 171


def write_tree(conf: Path) -> Path:
    """Write the tree; returns ``conf``.

    ``g00`` chooses the option of ``g01``; ``g01`` writes into the package of ``g00``, where one of its values is
    always overwritten; ``g12`` builds one option on another; ``g13`` is global, comes last and hides values of ``g02``.
    Values refer to each other.
    """
    for index, group in enumerate(GROUPS):
        for option in OPTIONS:
            _write(conf / group / f"{option}.yaml", _content(index, option), _header(index))
    # An option of g00 chooses one of g01, so that one comes first.
    order = ("g01", "g00", *GROUPS[2:])
    defaults = ["_self_", *({group: "a"} for group in order)]
    sizes = {"width": 8, "depth": 2, "name": "plain"}
    _write(conf / "config.yaml", {"defaults": defaults, "sizes": sizes}, "")
    return conf


def _header(index: int) -> str:
    return {1: "# @package g00\n", 13: "# @package _global_\n"}.get(index, "")


def _content(index: int, option: str) -> dict:
    number = OPTIONS.index(option)
    if index == 0:
        chosen = {"defaults": [{"override /g01@_global_.g01": "b"}]} if option == "b" else {}
        return {**chosen, **_values(index, number, 12)}
    if index == 1:
        return {"joined": {"mode": option, "rate": 0.1 * number}, "rate": 7.0 + number}
    if index == 12 and option != "a":
        return {"defaults": ["a", "_self_"], "nested": {"value2": f"changed by {option}"}}
    if index == 13:
        hidden = {"g02": {"nested": {"value3": 99}}} if option == "a" else {}
        return {"sizes": {"width": 8 * (number + 1)}, **hidden}
    return _values(index, number, 14)


def _values(index: int, number: int, count: int) -> dict:
    nested = {f"value{i}": 100 * index + 10 * number + i for i in range(count - 7)}
    flat = {
        "name": f"{OPTIONS[number]}{index}",
        "rate": 10.0**-number,
        "width": "${sizes.width}",
        "listed": [index, number],
        "label": "${sizes.name}-${.name}" if index == 5 else "words",
        "empty": None if number == 0 else "full",
    }
    if index == 6:
        nested["deep"] = "${g07.nested}" if number == 2 else {"flat": True}
        return {**flat, "nested": nested}
    return {**flat, "truth": bool(number), "nested": nested}


def _write(path: Path, content: dict, header: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def count_leaves(node: object) -> int:
    """Values of a configuration that are no mappings."""
    return sum(map(count_leaves, node.values())) if isinstance(node, dict) else 1
