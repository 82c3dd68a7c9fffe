"""Frozen specifications: what a worker needs to know, and nothing it would have to compose itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepSpec:
    """One node of the work graph.

    ``id`` follows from kind, version, config and deps. ``slug`` and ``hints`` are for people and for time
    estimates; they enter no identity. ``hints["similar"]`` groups steps that cost alike (the same work with
    another seed), ``hints["scale"]`` names the scale that asked for the step first, ``hints["units"]`` is its
    size beside others of its kind, ``hints["flops"]`` its operations, or None.
    """

    kind: str
    version: int
    id: str
    slug: str
    config: dict[str, Any] = field(hash=False)
    deps: dict[str, str] = field(hash=False)
    hints: dict[str, Any] = field(hash=False, compare=False, default_factory=dict)

    @property
    def name(self) -> str:
        """Directory name: ``<slug>-<id>``."""
        return f"{self.slug}-{self.id}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as ``spec.json`` and the job manifest keep them."""
        return {
            "kind": self.kind,
            "version": self.version,
            "id": self.id,
            "slug": self.slug,
            "config": self.config,
            "deps": self.deps,
            "hints": self.hints,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> StepSpec:
        """The inverse of :meth:`to_dict`."""
        return cls(
            raw["kind"], raw["version"], raw["id"], raw["slug"], raw["config"], raw["deps"], raw["hints"]
        )


@dataclass(frozen=True)
class RunSpec:
    """One cell with one seed: its steps by role, in an order in which every step follows its dependencies."""

    arm: str
    context: str
    seed: int
    steps: dict[str, StepSpec] = field(hash=False)

    @property
    def run_id(self) -> str:
        """The id of the run's evaluate step."""
        return self.steps["evaluate"].id

    @property
    def label(self) -> str:
        """Short words for tables: arm, context when it is not the default one, and seed."""
        place = "" if self.context == "default" else f"/{self.context}"
        return f"{self.arm}{place} s{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """The entry of this run in ``study.json``."""
        return {
            "arm": self.arm,
            "context": self.context,
            "seed": self.seed,
            "run_id": self.run_id,
            "steps": {role: step.id for role, step in self.steps.items()},
        }
