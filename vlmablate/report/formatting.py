"""How numbers look in sentences, tables and figures: one place, so that the same number looks the same."""

from __future__ import annotations

import math

MINUS = "\u2212"
NOTHING = "\u2013"


def _sign(text: str) -> str:
    """Typographic minus; a rounded zero has no sign."""
    if float(text) == 0:
        return text.lstrip("+-")
    return text.replace("-", MINUS)


def points(value: float, *, signed: bool = False, decimals: int = 1) -> str:
    """Points with one decimal ('3.2', '−0.4', with signed '+3.2'); '–' for nan."""
    if not math.isfinite(value):
        return NOTHING
    return _sign(f"{value:{'+' if signed else ''}.{decimals}f}")


def decimals_for(*values: float) -> int:
    """Decimals (1 to 3) at which no nonzero value of the group rounds to zero, so that signs stay visible."""
    for decimals in (1, 2):
        if all(value == 0 or not math.isfinite(value) or round(abs(value), decimals) > 0 for value in values):
            return decimals
    return 3


def interval(low: float, high: float, *, decimals: int = 1) -> str:
    """'[1.1, 5.3]'; '–' without one."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return f"[{points(low, decimals=decimals)}, {points(high, decimals=decimals)}]"


def p_value(p: float) -> str:
    """Two significant digits, never zero: '0.012', '<0.0001', '1'; '–' when no test was possible."""
    if not math.isfinite(p):
        return NOTHING
    if p < 1e-4:
        return "<0.0001"
    if p >= 0.9995:
        return "1"
    return f"{p:#.2g}" if p < 0.1 else f"{p:.2f}"


def equals_p(p: float) -> str:
    """'p = 0.012' or 'p < 0.0001', for running text."""
    text = p_value(p)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"


def duration(seconds: float) -> str:
    """'42 s', '3 min 10 s', '2 h 05 min'."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def listing(names: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(count: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def title(name: str) -> str:
    """A benchmark's name for people: 'open_vqa' -> 'open VQA'."""
    return name.replace("_", " ").replace("vqa", "VQA")


CORRECTION_NAMES = {
    "holm": "Holm",
    "hochberg": "Hochberg",
    "bh": "Benjamini–Hochberg",
    "by": "Benjamini–Yekutieli",
    "max-t": "max-T",
}


def correction_name(correction: str) -> str:
    """How an adjustment of p-values is called in text: 'holm' -> 'Holm'; other names are taken as they are."""
    return CORRECTION_NAMES.get(correction, correction)


def probability(value: float) -> str:
    """Two decimals, but never a rounded certainty: '0.83', '>0.99', '<0.01', '1' only if exactly so."""
    if not math.isfinite(value):
        return NOTHING
    if value in (0.0, 1.0):
        return f"{value:g}"
    if value > 0.995:
        return ">0.99"
    if value < 0.005:
        return "<0.01"
    return f"{value:.2f}"


def probability_interval(low: float, high: float) -> str:
    """'[0.61, 0.97]'; '–' without one."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOTHING
    return f"[{probability(low)}, {probability(high)}]"


def share(count: int, total: int) -> str:
    """'7 of 15 (47 %)'."""
    return f"{count:,} of {total:,} ({100 * count / total:.0f} %)" if total else "0 of 0"
