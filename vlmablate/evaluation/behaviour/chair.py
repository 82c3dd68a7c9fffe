"""CHAIR: which of the objects that a description names are not in the picture (Rohrbach et al., EMNLP 2018).

chair_i = mentions of objects that are not there / mentions of objects; chair_s = 1 for a description with such a
mention. Both fall for a description that says little, so the recall of what is there stands beside them, and the score
is their balance. Every mention counts, also the second of the same object, as in the official script.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vlmablate.evaluation.protocol import Verdict

METRIC = "object_f1"


def describe_verdict(
    mentioned: Sequence[str], there: Collection[str], also_true: Collection[str] = ()
) -> Verdict:
    """What a description is worth.

    Args:
        mentioned: the objects that it names, once for each mention.
        there: the objects in the picture, which a full description names.
        also_true: further names that are no mistake, such as the kind of an object; nobody misses them.

    Returns the verdict: score is the harmonic mean of the share of the named objects that are true and the share of
    `there` that is named (each object counted once; 1 where nothing is there and nothing is named); further holds
    chair_i (0 for a description without objects, as in the official script), chair_s, and object_recall where anything
    is there.
    """
    true = {*there, *also_true}
    invented = [name for name in mentioned if name not in true]
    recalled = set(there) & set(mentioned)
    further = {
        "chair_i": len(invented) / len(mentioned) if mentioned else 0.0,
        "chair_s": float(bool(invented)),
    }
    if there:
        further["object_recall"] = len(recalled) / len(set(there))
    # A true name beside `there` is neither rewarded nor held against the description.
    named, wanted = len(recalled) + len(set(invented)), len(set(there))
    score = 2 * len(recalled) / (named + wanted) if named + wanted else 1.0
    said = ", ".join(dict.fromkeys(mentioned))
    return Verdict(score, said, ", ".join(sorted(there)), further)


def chair_summary(mentioned: Sequence[Sequence[str]], true: Sequence[Collection[str]]) -> dict[str, float]:
    """The figures of all descriptions together, as the paper prints them.

    chair_i: over all mentions of all descriptions (0 without any), so that long descriptions weigh more than in the
    mean of the examples. chair_s: share of the descriptions with a mistake. objects_said: mentions per description.
    """
    invented = [sum(name not in there for name in said) for said, there in zip(mentioned, true, strict=True)]
    total = sum(map(len, mentioned))
    count = max(len(mentioned), 1)
    return {
        "chair_i": sum(invented) / total if total else 0.0,
        "chair_s": sum(map(bool, invented)) / count,
        "objects_said": total / count,
    }
