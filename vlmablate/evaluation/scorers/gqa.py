"""GQA: right or wrong, without punctuation and capitals. Articles and number words are not folded."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping

from vlmablate.errors import unknown_name

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def gqa_text(text: str) -> str:
    """Without ASCII punctuation, in lower case. Spaces stay as they are."""
    return text.translate(_NO_PUNCTUATION).lower()


def _as_is(text: str) -> str:
    return text


GQA_VARIANTS: Mapping[str, Callable[[str], str]] = {"lmms-eval": gqa_text, "vlm-evaluation": _as_is}
"""Name of a scorer -> what it makes of the right answer; all make `gqa_text` of the prediction."""


def gqa_match(prediction: str, answer: str, variant: str = "lmms-eval") -> bool:
    """True where prediction and answer are the same text.

    variant: ``lmms-eval`` rewrites both sides (75571cf, `exact_match` with ignore_case and ignore_punctuation).
    ``vlm-evaluation`` (d9f5896) rewrites the prediction alone before the official `eval.py` compares, so that nothing
    is right where the answer has a hyphen: "t-shirt" and "dry-erase board" are answers of GQA.

    Raises UserError for an unknown variant.

    >>> gqa_match("T-shirt.", "t-shirt"), gqa_match("T-shirt.", "t-shirt", "vlm-evaluation")
    (True, False)
    """
    given = GQA_VARIANTS.get(variant)
    if given is None:
        raise unknown_name("variant", variant, GQA_VARIANTS, "GQA")
    return gqa_text(prediction) == given(answer)
