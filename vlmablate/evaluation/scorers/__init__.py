"""Scorers of single answers and of all answers to a benchmark, equal to the published ones, by the name of a variant.

Pure functions of text, boxes and numbers; no torch. What each variant does, and which source at which commit it equals,
stands beside it.
"""

from vlmablate.evaluation.scorers.answerability import says_unanswerable, vizwiz_unanswerability
from vlmablate.evaluation.scorers.boxes import (
    BOX_VARIANTS,
    OCID_REF_IOU,
    REFCOCO_IOU,
    box_accuracy,
    box_iou,
    parse_box,
)
from vlmablate.evaluation.scorers.choices import LETTERS, read_letter
from vlmablate.evaluation.scorers.counts import TALLY_CHOICES, read_count, tally_summary
from vlmablate.evaluation.scorers.gqa import GQA_VARIANTS, gqa_match, gqa_text
from vlmablate.evaluation.scorers.ranking import (
    auroc,
    auroc_one_vs_one,
    average_precision,
    macro_average_precision,
)
from vlmablate.evaluation.scorers.vqa import VQA_VARIANTS, vqa_accuracy, vqa_terms
from vlmablate.evaluation.scorers.yes_no import POPE_VARIANTS, pope_parse, pope_summary

__all__ = [
    "BOX_VARIANTS",
    "GQA_VARIANTS",
    "LETTERS",
    "OCID_REF_IOU",
    "POPE_VARIANTS",
    "REFCOCO_IOU",
    "TALLY_CHOICES",
    "VQA_VARIANTS",
    "auroc",
    "auroc_one_vs_one",
    "average_precision",
    "box_accuracy",
    "box_iou",
    "gqa_match",
    "gqa_text",
    "macro_average_precision",
    "parse_box",
    "pope_parse",
    "pope_summary",
    "read_count",
    "read_letter",
    "says_unanswerable",
    "tally_summary",
    "vizwiz_unanswerability",
    "vqa_accuracy",
    "vqa_terms",
]
