"""The runs of other seeds, made from a run without building it again. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vlmablate.design.hints import slug_of
from vlmablate.design.identity import Encoded, canonical, elide, short_id, step_text
from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.design.step_table import TABLE, seed_field

FRESH = 1000
"""Seeds from here on are not the user's where something is chosen by scores: what chose, and what judges the choice,
then had different ones."""


def training_seed(seed: int) -> dict[str, int]:
    return {"init": seed, "order": seed}


def with_seeds(run: RunSpec, seeds: Iterable[int]) -> list[RunSpec]:
    """The runs that :func:`build_run` makes of the same configuration with other seeds.

    What a seed cannot change is shared with ``run``, and not encoded again for every id.
    """
    patterns: list[_Pattern] = []
    for role, step in run.steps.items():
        others = {pattern.step.id for pattern in patterns}
        if seed_field(step.kind) or others & set(step.deps.values()):
            patterns.append(_Pattern.of(role, step, others))
    return [RunSpec(run.arm, run.context, seed, _with_seed(run, patterns, seed)) for seed in seeds]


_SEED_HERE = Encoded("\0\0")
"""A mark in the text of a pattern. Canonical texts hold no such letter: JSON writes it with a backslash."""


def _id_here(role: str) -> Encoded:
    """The mark where the id of the dependency in this role stands."""
    return Encoded(f"\0{role}\0")


@dataclass(frozen=True)
class _Pattern:
    """A step of which other seeds make others.

    Attributes:
        seeded: the field of its config that holds the seed; empty without one.
        changing: roles of the dependencies that are other steps as well.
        text: what its id is the digest of, with marks where the seed and those dependencies stand.
    """

    role: str
    step: StepSpec
    seeded: str
    changing: tuple[str, ...]
    text: str

    @classmethod
    def of(cls, role: str, step: StepSpec, others: Collection[str]) -> _Pattern:
        row = TABLE[step.kind]
        seeded = seed_field(step.kind)
        semantic = elide(step.config, row.added) if row.added else step.config
        marked = {**semantic, seeded: _SEED_HERE} if seeded else semantic
        deps = {name: _id_here(name) if id_ in others else id_ for name, id_ in step.deps.items()}
        changing = tuple(name for name, id_ in step.deps.items() if id_ in others)
        return cls(role, step, seeded, changing, step_text(step.kind, step.version, marked, deps))

    def with_seed(self, seeds: dict[str, int], encoded: str, made: Mapping[str, StepSpec]) -> StepSpec:
        """The step of another seed.

        Args:
            seeds, encoded: the seeds and their canonical text.
            made: id in the run of the pattern -> the step that stands for it.
        """
        like = self.step
        config, text, deps = like.config, self.text, dict(like.deps)
        if self.seeded:
            config = {**config, self.seeded: seeds}
            text = text.replace(_SEED_HERE, self._elided(seeds) or encoded)
        for role in self.changing:
            deps[role] = made[deps[role]].id
            text = text.replace(_id_here(role), f'"{deps[role]}"')
        return StepSpec(
            kind=like.kind,
            version=like.version,
            id=short_id(Encoded(text)),
            slug=slug_of(like.kind, config, [made[step_id] for step_id in like.deps.values()]),
            config=config,
            deps=deps,
            hints=like.hints,
        )

    def _elided(self, seeds: dict[str, int]) -> str:
        """The canonical text of seeds of which a part is left out at its default; empty when the kind has none."""
        added = TABLE[self.step.kind].added
        if not any(path.partition(".")[0] == self.seeded for path in added):
            return ""
        return canonical(elide({self.seeded: seeds}, added)[self.seeded])


def _with_seed(run: RunSpec, patterns: Sequence[_Pattern], seed: int) -> dict[str, StepSpec]:
    steps = dict(run.steps)
    made = {step.id: step for step in run.steps.values()}  # id in `run` -> the step that stands for it
    seeds = training_seed(seed)
    encoded = canonical(seeds)
    for pattern in patterns:
        steps[pattern.role] = made[pattern.step.id] = pattern.with_seed(seeds, encoded, made)
    return steps
