"""Which part of a configuration enters which step: one table, and the graph of a run built from it. Pure.

A step's config holds exactly the subtrees that can change its result. The placement of work (threads,
workers, device, launcher) and the words for people (axis, study, label, paper) appear in no row, so they
cannot enter an id.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vlmablate.design.flops import flops, tiles_of
from vlmablate.design.identity import Encoded, canonical, digest, elide, short_id, step_id, step_text
from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.errors import UserError, unknown_name

_TRAINING_SEED = "$training_seed"

FEATURES = "features*"
"""In a row's ``deps``: one dependency per tower, with the roles features0, features1, …; none behind live towers."""

LEARNED = "learned_2d"
"""``position.name`` of a language model that adds learned codes; all others are rotary."""

SEQUENCE = "rope_1d"
"""``position.name`` of the language models of others: each brings its own code, and a picture counts on in it."""

FROZEN = "frozen"
"""``stages.finetune.vision`` of a run whose towers stay as they are. Their features are extracted once and read from
disk. Otherwise towers are live: finetuning looks at the pictures through them, its ``live`` says which towers and which
transform these are, and what it trains brings its own towers along for the evaluation."""


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        version: raise it when the meaning of the kind changes; every stored result of the kind is then
            retired.
        fields: config field of the step -> dotted path in the composed configuration, or ``$name`` for a
            value that the graph supplies (tower, weights, assets, seeds). Fields with seeds have no dots.
        deps: role -> role of the step in the run that fills it.
        added: fields that joined after ids had been given out, with the defaults at which they are left out.
    """

    version: int
    fields: Mapping[str, str]
    deps: Mapping[str, str]
    added: Mapping[str, Any] = field(default_factory=dict)


_PROJECTOR = {"projector.norm": True, "projector.hidden": 2}

TABLE: Mapping[str, Row] = MappingProxyType(
    {
        "scenes": Row(1, {"data": "data", "assets": "$assets"}, {}),
        "pretrain": Row(
            1,
            {
                "llm": "$llm",
                "grid": "vision.grid",
                "rotary": "$rotary",
                "language": "$language",
                "precision": "precision",
            },
            {"scenes": "scenes"},
            added={"llm.pretrain.text_only": 0.0, "rotary": None},
        ),
        "posttrain": Row(
            1,
            {"posttrain": "llm.posttrain", "precision": "precision"},
            {"language": "pretrain", "scenes": "scenes"},
        ),
        "features": Row(
            1,
            {
                "tower": "$tower",
                "grid": "vision.grid",
                "image": "image",
                "precision": "precision",
                "weights": "$weights",
            },
            {"scenes": "scenes"},
        ),
        "align": Row(
            1,
            {
                "projector": "projector",
                "position": "position",
                "stages.align": "stages.align",
                "llm": "$causal",
                "seed": _TRAINING_SEED,
                "precision": "precision",
            },
            {FEATURES: FEATURES, "language": "$language_model", "scenes": "scenes"},
            added={
                **_PROJECTOR,
                "llm": None,
                "stages.align.schedule": "cosine",
                "stages.align.learning_rate_factors": {},
            },
        ),
        "finetune": Row(
            1,
            {
                "projector": "projector",
                "position": "position",
                "stages.finetune": "stages.finetune",
                "live": "$live",
                "llm": "$causal",
                "seed": _TRAINING_SEED,
                "precision": "precision",
            },
            {FEATURES: FEATURES, "init": "$init", "scenes": "scenes"},
            added={
                **_PROJECTOR,
                "llm": None,
                "stages.finetune.language": "full",
                "stages.finetune.learning_rate_factors": {},
                "stages.finetune.schedule": "cosine",
                "stages.finetune.mixture": {"detailed": 0, "negative": 0, "text_only": 0.0},
                "stages.finetune.vision": FROZEN,
                "stages.finetune.vision_learning_rate": None,
                "live": None,
            },
        ),
        "evaluate": Row(
            1,
            {"benchmark": "benchmark", "seed": "$evaluation_seed", "precision": "precision"},
            {"model": "finetune", FEATURES: FEATURES, "scenes": "scenes"},
        ),
    }
)

LANGUAGE_FIELDS = ("name", "pictures")
"""The fields of ``data`` that decide the words of the language model."""

_SEED_FIELDS = frozenset({"seed"})


def select(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of a composed configuration. Raises UserError that lists the keys
    there are.
    """
    node: Any = config
    parents: list[str] = []
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            names = node if isinstance(node, Mapping) else ()
            raise unknown_name("configuration key", part, names, where=".".join(parents))
        node = node[part]
        parents.append(part)
    return node


def _place(target: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for key in parents:
        target = target.setdefault(key, {})
    target[leaf] = value


def tower_name(tower: str | Mapping[str, Any]) -> str:
    """The name of a tower that is written as a name, or as a mapping with a name and options."""
    return tower if isinstance(tower, str) else str(tower["name"])


def towers(config: Mapping[str, Any]) -> list[str | dict[str, Any]]:
    """The vision towers of a configuration, in order, each a name or a mapping with a ``name``.

    Raises:
        UserError: for anything else, for a tower that occurs twice, and for a fusion that does not fit their
            number.
    """
    listed = select(config, "vision.towers")
    fusion = select(config, "vision.fusion")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"vision.towers must be a list of towers, not {listed!r}")
    for tower in listed:
        if not isinstance(tower, str) and not (isinstance(tower, dict) and "name" in tower):
            raise UserError(f"vision.towers: a tower is a name or a mapping with a name, not {tower!r}")
    if len({canonical(tower) for tower in listed}) != len(listed):
        raise UserError(f"vision.towers names a tower twice: {listed}")
    if fusion == "none" and len(listed) > 1:
        raise UserError(
            f"{len(listed)} towers {listed} need a fusion: add fusion=channel_concat, or keep one tower"
        )
    if fusion != "none" and len(listed) < 2:
        raise UserError(
            f"fusion={fusion} needs two towers or more, vision.towers is {listed}: "
            "use vision.towers=[a,b], or fusion=none"
        )
    return listed


def build_run(
    config: Mapping[str, Any],
    *,
    arm: str,
    context: str,
    seed: int,
    assets: Mapping[str, str],
    weights: Mapping[str, str],
    scale: str = "",
    known: dict[str, StepSpec] | None = None,
) -> RunSpec:
    """The steps of one run with their ids.

    Args:
        config: the composed configuration of the cell; ``precision`` must be resolved (no ``auto``).
        arm, context, seed: the run's place in the study. The seed drives initialisation and data order; the
            evaluation seed is a constant of the configuration.
        assets: asset set -> digest of its manifest, for the sets the scenes are composed from.
        weights: tower, and language model of the registry -> SHA-256 of its weights (``random`` for one that is not
            pretrained).
        scale: the scale preset, kept as a hint for time estimates.
        known: id -> step of runs at the same scale that were built before; what the run shares with them is taken from
            there, and what is new is added.

    Raises:
        UserError: for a fusion that does not fit the towers, or a configuration that lacks a field.
        CanonicalError: for a value that has no canonical form.
    """
    known = {} if known is None else known
    listed = towers(config)
    align = select(config, "stages.align") is not None
    live = _live(config, listed, weights)
    llm = select(config, "llm")
    causal = _causal(config, weights)
    supplied: dict[str, Any] = {
        "$assets": dict(assets),
        # What follows pretraining is no part of it: a chat model and its base are made of one pretrained model.
        "$llm": {key: value for key, value in llm.items() if key != "posttrain"},
        "$causal": causal,
        "$live": live,
        # A learned code is pretrained under settings of llm; a rotary one is all that pretraining has to know.
        "$rotary": None if select(config, "position.name") == LEARNED else select(config, "position"),
        "$language": {key: config["data"][key] for key in LANGUAGE_FIELDS if key in config["data"]},
        _TRAINING_SEED: _training_seed(seed),
        "$evaluation_seed": {"evaluation": select(config, "seed.evaluation")},
    }
    language_model = "pretrain" if llm.get("posttrain") is None else "posttrain"
    aliases: dict[str, str | None] = {"$language_model": language_model}
    if causal is not None:  # read from where its weights are, not made by a step
        aliases = {"$language_model": None}
    aliases["$init"] = "align" if align else aliases["$language_model"]
    feature_roles = [f"features{i}" for i in range(len(listed))]
    steps: dict[str, StepSpec] = {}

    def add(role: str, kind: str, extra: Mapping[str, Any] = MappingProxyType({})) -> None:
        row = TABLE[kind]
        deps: dict[str, str] = {}
        for dep_role, source in row.deps.items():
            if dep_role == FEATURES:
                if live is None or kind == "align":
                    deps.update({role: steps[role].id for role in feature_roles})
            elif (made_by := aliases.get(source, source)) is not None:
                deps[dep_role] = steps[made_by].id
        values = {**supplied, **extra}
        step_config: dict[str, Any] = {}
        for name, source in row.fields.items():
            _place(step_config, name, values[source] if source.startswith("$") else select(config, source))
        found = step_id(kind, row.version, step_config, deps, row.added)
        if found in known:
            steps[role] = known[found]
            return
        by_id = {step.id: step for step in steps.values()}
        needed = {dep_role: by_id[dep_id] for dep_role, dep_id in deps.items()}
        steps[role] = known[found] = StepSpec(
            kind=kind,
            version=row.version,
            id=found,
            slug=_slug(kind, step_config, list(needed.values())),
            config=step_config,
            deps=deps,
            hints=_hints(kind, row, step_config, needed, steps, scale),
        )

    add("scenes", "scenes")
    if causal is None:
        add("pretrain", "pretrain")
        if language_model == "posttrain":
            add("posttrain", "posttrain")
    if live is None or align:
        for role, tower in zip(feature_roles, listed, strict=True):
            add(role, "features", {"$tower": _plain(tower), "$weights": _weights(tower, weights)})
    if align:
        add("align", "align")
    add("finetune", "finetune")
    add("evaluate", "evaluate")
    return RunSpec(arm, context, seed, steps)


def _plain(tower: str | dict[str, Any]) -> str | dict[str, Any]:
    """A tower without where its weights are: a step knows them by content."""
    return tower if isinstance(tower, str) else {key: tower[key] for key in tower if key != "weights"}


def _weights(tower: str | Mapping[str, Any], weights: Mapping[str, str]) -> str:
    name = tower_name(tower)
    if name not in weights:
        raise unknown_name("tower", name, weights)
    return weights[name]


def _causal(config: Mapping[str, Any], weights: Mapping[str, str]) -> dict[str, Any] | None:
    """Which language model of the registry a run reads with; None for the small one that its own steps make.

    Raises UserError for a position code that is not its own.
    """
    llm = select(config, "llm")
    if "weights" not in llm:
        return None
    position = select(config, "position.name")
    if position != SEQUENCE:
        raise UserError(
            f"llm={llm['name']} was pretrained with its own position code, so position={position} cannot be chosen "
            f"for it: use position={SEQUENCE}, or a language model that is pretrained here (llm=small_causal)"
        )
    if llm["name"] not in weights:
        raise unknown_name("language model", llm["name"], weights)
    return {
        "name": llm["name"],
        "weights": weights[llm["name"]],
        "layers": llm.get("layers"),
        "template": llm.get("template"),
    }


def _live(
    config: Mapping[str, Any], listed: Sequence[str | dict[str, Any]], weights: Mapping[str, str]
) -> dict[str, Any] | None:
    """What a finetuning that trains its towers must know of them; None for one that does not."""
    if select(config, "stages.finetune").get("vision", FROZEN) == FROZEN:
        return None
    if select(config, "image").get("tiles") is not None:
        raise UserError(
            "stages.finetune.vision trains the towers on whole pictures, and image.tiles cuts them: "
            f"use image=letterbox, or stages.finetune.vision={FROZEN}"
        )
    return {
        "towers": [{"tower": _plain(tower), "weights": _weights(tower, weights)} for tower in listed],
        "grid": select(config, "vision.grid"),
        "image": select(config, "image"),
    }


def _training_seed(seed: int) -> dict[str, int]:
    return {"init": seed, "order": seed}


def with_seeds(run: RunSpec, seeds: Iterable[int]) -> list[RunSpec]:
    """The runs that :func:`build_run` makes of the same configuration with other seeds.

    What a seed cannot change is shared with ``run``, and not encoded again for every id.
    """
    patterns: list[_Pattern] = []
    for role, step in run.steps.items():
        others = {pattern.step.id for pattern in patterns}
        if _seed_field(step.kind) or others & set(step.deps.values()):
            patterns.append(_Pattern.of(role, step, others))
    return [RunSpec(run.arm, run.context, seed, _with_seed(run, patterns, seed)) for seed in seeds]


def _seed_field(kind: str) -> str:
    """The field of a kind's config that holds the seed of training; empty without one."""
    return next((name for name, source in TABLE[kind].fields.items() if source == _TRAINING_SEED), "")


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
        seeded = _seed_field(step.kind)
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
            slug=_slug(like.kind, config, [made[step_id] for step_id in like.deps.values()]),
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
    seeds = _training_seed(seed)
    encoded = canonical(seeds)
    for pattern in patterns:
        steps[pattern.role] = made[pattern.step.id] = pattern.with_seed(seeds, encoded, made)
    return steps


def _hints(
    kind: str,
    row: Row,
    config: dict[str, Any],
    deps: dict[str, StepSpec],
    before: Mapping[str, StepSpec],
    scale: str,
) -> dict[str, Any]:
    """What is kept for estimates; the same for every seed."""
    return {
        "flops": flops(kind, config, {role: step.config for role, step in before.items()}),
        "scale": scale if config.get("live") is None else f"{scale}, live towers",
        "similar": _similar(kind, row, config, deps),
        "units": _units(kind, config),
        "disk_units": _units(kind, config) if kind == "features" else 1.0,
    }


def _without_seeds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seeds(v) for k, v in value.items() if k not in _SEED_FIELDS}
    return value


def _similar(kind: str, row: Row, config: dict[str, Any], deps: dict[str, StepSpec]) -> str:
    """A key shared by steps that do the same work with another seed; follows the dependencies."""
    parts = {role: step.hints["similar"] for role, step in deps.items()}
    semantic = _without_seeds(elide(config, row.added) if row.added else config)
    return digest({"kind": kind, "version": row.version, "config": semantic, "deps": parts})[:16]


def _units(kind: str, config: dict[str, Any]) -> float:
    """How much work relative to other steps of the kind at one scale: the epochs of a training step, the tiles of
    features, else 1.
    """
    if kind == "features":
        return float(tiles_of(config))
    stage = config.get("stages", {}).get(kind) if isinstance(config.get("stages"), dict) else None
    epochs = stage.get("epochs") if isinstance(stage, dict) else None
    return float(epochs) if isinstance(epochs, int | float) and epochs > 0 else 1.0


_NO_WORD = re.compile(r"[^a-z0-9_.+-]+")


def _words(*parts: Any) -> str:
    text = "-".join(str(part) for part in parts if part not in (None, ""))
    return _NO_WORD.sub("", text.lower())[:60].strip("-.") or "step"


def _slug(kind: str, config: dict[str, Any], deps: list[StepSpec]) -> str:
    """Readable words for a directory. A function of what the id is made of, so one id always gets
    one slug.
    """
    if kind == "scenes":
        data = config["data"]
        return _words(data.get("name"), data.get("pictures"), data.get("train_scenes"))
    if kind == "pretrain":
        llm = config["llm"]
        rotary = config.get("rotary") or {}
        return _words(llm.get("name"), llm.get("layers"), llm.get("width"), rotary.get("name"))
    if kind == "posttrain":
        return _words(config["posttrain"].get("text"), config["posttrain"].get("steps"))
    if kind == "features":
        tiles = "tiles" if config["image"].get("tiles") is not None else None
        return _words(tower_name(config["tower"]), config["image"].get("resize"), tiles)
    seeds = config["seed"]
    inherited = [dep.slug for dep in deps if dep.kind == "finetune"]
    if inherited:
        return inherited[0]
    llm = (config.get("llm") or {}).get("name")
    live = config.get("live")
    if live is not None:
        names = [tower_name(row["tower"]) for row in live["towers"]]
        return _words("+".join(names), live["image"].get("resize"), llm, "tuned", f"s{seeds['init']}")
    return _words("+".join(dep.slug for dep in deps if dep.kind == "features"), llm, f"s{seeds['init']}")
