"""VQA accuracy: how many people gave the answer, in each of the ways in which published scorers compute it.

With n people's answers, acc = mean over i of min(1, #{j != i : answer_j = prediction} / 3): each person is left out in
turn (Antol et al. 2015; of ten people 0, 1, 2, 3 and more than 3 who agree give 0, .3, .6, .9 and 1). The scorers
differ in how they rewrite prediction and answers before that, and so do their scores: in up to a quarter of adversarial
questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vlmablate.errors import UserError, unknown_name
from vlmablate.evaluation.scorers import vqa_text

Terms = tuple[str, Sequence[str]]
"""A prediction and the people's answers as they are compared."""


def _official_2017(prediction: str, answers: Sequence[str]) -> Terms:
    """GT-Vision-Lab/VQA b7d71bb: unanimous answers are compared as they are written, others without punctuation."""
    if len(set(answers)) > 1:
        answers = list(map(vqa_text.punctuation_only, answers))
    return vqa_text.official(prediction), answers


def _official_2021(prediction: str, answers: Sequence[str]) -> Terms:
    """GT-Vision-Lab/VQA a013f00: both sides are rewritten, or, where people are unanimous, neither."""
    answers = list(map(vqa_text.on_one_line, answers))
    if len(set(answers)) > 1:
        return vqa_text.official(prediction), list(map(vqa_text.official, answers))
    return vqa_text.on_one_line(prediction), answers


def _vlm_evaluation(prediction: str, answers: Sequence[str]) -> Terms:
    """TRI-ML/vlm-evaluation d9f5896, from LAVIS: people's answers always lose their punctuation, and nothing more."""
    return vqa_text.official(prediction), list(map(vqa_text.punctuation_only, answers))


def _lmms_eval(prediction: str, answers: Sequence[str]) -> Terms:
    """EvolvingLMMs-Lab/lmms-eval 75571cf, VQAv2: both sides are rewritten, always."""
    return vqa_text.lmms_eval(prediction), list(map(vqa_text.lmms_eval, answers))


def _m4c(prediction: str, answers: Sequence[str]) -> Terms:
    """facebookresearch/mmf and LLaVA c121f04, TextVQA: both sides as EvalAI rewrites them."""
    return vqa_text.m4c(prediction), list(map(vqa_text.m4c, answers))


def _vizwiz(prediction: str, answers: Sequence[str]) -> Terms:
    """Qing Li's VizWiz scorer in vlm-evaluation d9f5896: people's answers are compared as they are written."""
    return vqa_text.vizwiz(prediction), answers


VQA_VARIANTS: Mapping[str, Callable[[str, Sequence[str]], Terms]] = {
    "official-2017": _official_2017,
    "official-2021": _official_2021,
    "vlm-evaluation": _vlm_evaluation,
    "lmms-eval": _lmms_eval,
    "m4c": _m4c,
    "vizwiz": _vizwiz,
}
"""Name of a scorer -> the terms in which it compares."""


def vqa_terms(prediction: str, answers: Sequence[str], variant: str) -> Terms:
    """The prediction and the answers, in their order, as the scorer `variant` compares them.

    Raises UserError for an unknown variant.
    """
    terms = VQA_VARIANTS.get(variant)
    if terms is None:
        raise unknown_name("variant", variant, VQA_VARIANTS, "VQA accuracy")
    return terms(prediction, answers)


def vqa_accuracy(prediction: str, answers: Sequence[str], variant: str) -> float:
    """VQA accuracy of one question in [0, 1], not rounded (the official scripts print percent with two decimals).

    answers: of all people who were asked, ten as a rule. More or fewer are scored by the same formula, as the official
    code does; of one alone nobody is left when that one is left out, and every prediction scores 0.

    The mean is formed in whole numbers and rounded once, so that the order of the people does not matter; the official
    loop adds thirds, and its sums differ from it in the last digit.

    Raises UserError for an unknown variant, and a question without answers.

    >>> vqa_accuracy("Yes.", ["yes"] * 2 + ["no"] * 8, "official-2017")
    0.6
    """
    predicted, given = vqa_terms(prediction, answers, variant)
    if not given:
        raise UserError(
            "a question without people's answers cannot be scored; the test split of VQAv2 has none"
        )
    agree, asked = given.count(predicted), len(given)
    thirds = agree * min(3, agree - 1) + (asked - agree) * min(3, agree)
    return thirds / (3 * asked)
