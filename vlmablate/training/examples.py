"""From scenes and questions to token segments in the frame that a model sees."""

from __future__ import annotations

from collections.abc import Iterable

from vlmablate.data.layout import Scene
from vlmablate.data.questions import VISIBLE_SHARE, Question
from vlmablate.data.vocabulary import Vocabulary, box_words
from vlmablate.training.packing import Segment
from vlmablate.vlm.image import Frame

DESCRIBE = "describe"


def question_segment(question: Question, frame: Frame, vocabulary: Vocabulary) -> Segment | None:
    """The segment of one training question; None for a box that the transform (nearly) removed.

    A box answer is written in shares of the model's square, as the transform shows it.
    """
    if question.box is None:
        answer = question.answer
    else:
        box = frame.visible(question.box, VISIBLE_SHARE)
        if box is None:
            return None
        answer = box_words(box)
    return Segment(tuple(vocabulary.prompt(question.text)), tuple(vocabulary.encode(answer)))


def question_segments(questions: Iterable[Question], frame: Frame, vocabulary: Vocabulary) -> list[Segment]:
    segments = (question_segment(question, frame, vocabulary) for question in questions)
    return [segment for segment in segments if segment is not None]


def caption_segment(scene: Scene, vocabulary: Vocabulary) -> Segment | None:
    """The alignment target: the words of all things from left to right. None for an empty scene."""
    things = sorted(scene.things, key=lambda thing: thing.centre[0])
    words = [thing.written for thing in things]
    if not words:
        return None
    return Segment(tuple(vocabulary.prompt(DESCRIBE)), tuple(vocabulary.encode(" ".join(words))))
