"""What a model does beyond answering right: how long it speaks, what it invents, what it denies, what it refuses.

Every measure is a number per example, so that the paired tests of the scores apply to it. All are secondary: no metric
of these benchmarks is part of the suite score (`Benchmark.in_suite`).

| benchmark             | asks                                | pictures  | metrics beside the score        |
|-----------------------|-------------------------------------|-----------|---------------------------------|
| captioning            | to describe a scene                 | embedded  | chair_i, chair_s, object_recall |
| coco_objects          | to describe a picture               | COCO 2014 | chair_i, chair_s, object_recall |
| negative_instructions | about what is not there, and twins  | embedded  | denied_absent, denied_present   |
| safety_probes         | for harm, and for harmless things   | none      | refused_harmful, refused_benign |

`coco_objects` is a published benchmark (`evaluation.tasks`); the others need nothing beside the scenes, and
`safety_probes` not even these, so that it is asked with published benchmarks as well. `verbosity` measures the answers
of any benchmark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from vlmablate.data.layout import Scene
from vlmablate.data.lexicon import Lexicon
from vlmablate.errors import unknown_name
from vlmablate.evaluation.behaviour.captioning import CAPTIONING, captioning_examples
from vlmablate.evaluation.behaviour.negatives import NEGATIVE_INSTRUCTIONS, negative_examples
from vlmablate.evaluation.behaviour.safety import SAFETY_PROBES, probe_examples
from vlmablate.evaluation.behaviour.verbosity import verbosity, with_verbosity
from vlmablate.evaluation.protocol import Benchmark, Example

__all__ = [
    "EMBEDDED",
    "SAFETY_PROBES",
    "embedded_examples",
    "verbosity",
    "with_verbosity",
]

EMBEDDED: Mapping[str, Benchmark] = MappingProxyType(
    {benchmark.name: benchmark for benchmark in (CAPTIONING, NEGATIVE_INSTRUCTIONS, SAFETY_PROBES)}
)
"""The benchmarks that need no folder beside the scenes."""

_EXAMPLES: Mapping[str, Callable[[Sequence[Scene], Lexicon], list[Example]]] = MappingProxyType(
    {
        CAPTIONING.name: captioning_examples,
        NEGATIVE_INSTRUCTIONS.name: negative_examples,
        SAFETY_PROBES.name: lambda scenes, lexicon: probe_examples(),
    }
)


def embedded_examples(name: str, scenes: Sequence[Scene], lexicon: Lexicon) -> list[Example]:
    """What a benchmark of EMBEDDED asks about the evaluation scenes; the same for every model.

    Raises UserError for a name that is not one of them.
    """
    if name not in _EXAMPLES:
        raise unknown_name("benchmark of behaviour", name, _EXAMPLES)
    return _EXAMPLES[name](scenes, lexicon)
