"""What a model is asked: the prompts of Karamcheti et al. 2024 (Prismatic VLMs), which are those of LLaVA-1.5.

Each is the text of the human turn. The prompt template of a language model goes around it, and the picture in front.
The authors write a line break in front of each, which their templates take away again; it is not here.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

ANSWER_TOKENS = 128
"""What a written answer has at most, as the authors generate it."""

SHORT = "Answer the question using a single word or phrase."
LETTERS = string.ascii_uppercase


def short_answer(question: str) -> str:
    """VQAv2, GQA, TextVQA, POPE."""
    return f"{question}\n{SHORT}"


def short_or_unanswerable(question: str) -> str:
    """VizWiz: the model is told what to say where the picture does not tell."""
    return f"{question}\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT}"


def short_answer_with_tokens(question: str, tokens: str) -> str:
    """TextVQA with what an OCR system read, parted by a comma and a space."""
    return f"{question}\nReference OCR token: {tokens}\n{SHORT}"


def true_or_false(caption: str) -> str:
    """VSR."""
    return (
        f'Based on the image, is this statement "True" or "False"? {caption}\n'
        'Respond with "True" or "False" directly.'
    )


def by_letter(question: str, choices: Sequence[str]) -> str:
    """AI2D, TallyQA: the options with a letter each."""
    listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    return f"{question}\n{listed}\nAnswer with the option's letter from the given choices directly."


def box_of(sentence: str) -> str:
    """RefCOCO, OCID-Ref."""
    return f'Please provide the bounding box coordinate of the region this sentence describes: "{sentence}"'
