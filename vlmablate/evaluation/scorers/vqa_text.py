"""How the VQA scorers rewrite an answer before they compare it. Every reader is a pure function text -> text.

Four steps, of which each scorer takes some (GT-Vision-Lab/VQA, `vqaEval.py`):

(a) line breaks and tabs become spaces, and the ends are stripped;
(b) of 21 punctuation marks, one that stands beside a space anywhere in the text goes, and every other becomes a space;
    where a comma stands between two digits all marks go;
(c) periods that no digit follows go, at most 32 of them: the scorers hand ``re.UNICODE``, which is 32, to ``re.sub``
    as its count. Their look-behind for a digit is misspelled and holds everywhere, so that "3." loses its period;
(d) lower case, words none and zero to ten as digits, without a, an and the, contractions with their apostrophes, and
    one space between words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from vlmablate.evaluation.scorers.contractions import CONTRACTIONS, VIZWIZ_CONTRACTIONS

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_ANY_MARK = re.compile(f"[{re.escape(_MARKS)}]")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = int(re.UNICODE)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"\d,+\d")
"""Of EvalAI's processor, which TextVQA and lmms-eval use: any number of commas, as in ``1,,000``."""
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})

REMEMBERED = 1 << 17
"""Texts that each reader keeps with what it made of them: people's answers repeat, and are few against questions."""


def on_one_line(text: str) -> str:
    """Step (a)."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(text: str, comma: re.Pattern[str] = _COMMA_IN_NUMBER) -> str:
    """Steps (b) and (c). comma: the comma inside a number, at which all marks go."""
    plain = text
    if _ANY_MARK.search(text):
        in_number = comma.search(text) is not None
        for mark in _MARKS:
            if mark in text:
                goes = in_number or mark + " " in text or " " + mark in text
                plain = plain.replace(mark, "" if goes else " ")
    return _PERIOD.sub("", plain, count=_MOST_PERIODS)


def folded(text: str, contractions: Mapping[str, str] = CONTRACTIONS) -> str:
    """Step (d)."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


@lru_cache(REMEMBERED)
def punctuation_only(text: str) -> str:
    """Steps (b) and (c): people's answers of VQAv2 as the scorers of 2017 read them."""
    return without_punctuation(text)


@lru_cache(REMEMBERED)
def official(text: str) -> str:
    """Steps (a) to (d)."""
    return folded(without_punctuation(on_one_line(text)))


@lru_cache(REMEMBERED)
def lmms_eval(text: str) -> str:
    """Steps (a) to (d) with EvalAI's commas (lmms-eval, `vqav2_process_results`)."""
    return folded(without_punctuation(on_one_line(text), _COMMAS_IN_NUMBER))


@lru_cache(REMEMBERED)
def m4c(text: str) -> str:
    """Lower case, without commas and question marks, ``'s`` a word of its own, then (a) to (d): TextVQA
    (mmf and LLaVA, `m4c_evaluator.py`, after EvalAI)."""
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return folded(without_punctuation(on_one_line(words), _COMMAS_IN_NUMBER))


@lru_cache(REMEMBERED)
def vizwiz(text: str) -> str:
    """Steps (a) to (d) with back-ticks in contractions (Qing Li's VizWiz scorer)."""
    return folded(without_punctuation(on_one_line(text)), VIZWIZ_CONTRACTIONS)
