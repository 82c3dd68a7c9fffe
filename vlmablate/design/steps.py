"""The graph of a run, built from the table of `design.step_table`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from vlmablate.design import trunks
from vlmablate.design.hints import hints_of, slug_of
from vlmablate.design.identity import step_id
from vlmablate.design.published import benchmark_of, is_published, records_of
from vlmablate.design.seeds import training_seed
from vlmablate.design.spec import RunSpec, StepSpec
from vlmablate.design.step_table import (
    FEATURES,
    LANGUAGE_FIELDS,
    LEARNED,
    SCENES,
    TABLE,
    TRAINING_SEED,
    TRUNK,
    VALIDATION,
)
from vlmablate.design.supplied import (
    causal,
    live_towers,
    plain,
    scene_data,
    select,
    towers,
    validation_scenes,
    weights_of,
)


def _place(target: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for key in parents:
        target = target.setdefault(key, {})
    target[leaf] = value


def build_run(
    config: Mapping[str, Any],
    *,
    arm: str,
    context: str,
    seed: int,
    assets: Mapping[str, str],
    weights: Mapping[str, str],
    published: Mapping[str, str] = MappingProxyType({}),
    scale: str = "",
    known: dict[str, StepSpec] | None = None,
    validation: bool = False,
) -> RunSpec:
    """The steps of one run with their ids.

    Args:
        config: the composed configuration of the cell; ``precision`` must be resolved (no ``auto``).
        arm, context, seed: the run's place in the study. The seed drives initialisation and data order; the
            evaluation seed is a constant of the configuration.
        assets: asset set -> digest of its manifest, for the sets the scenes are composed from.
        weights: tower, and language model of the registry -> SHA-256 of its weights (``random`` for one that is not
            pretrained).
        published: source of records, and benchmark, that is read out of a folder -> digest of its annotations.
        scale: the scale preset, kept as a hint for time estimates.
        known: id -> step of runs at the same scale that were built before; what the run shares with them is taken from
            there, and what is new is added.
        validation: whether the evaluation asks about scenes of its own, which no comparison is made on.

    Raises:
        UserError: for a fusion that does not fit the towers, a configuration that lacks a field, and a validation
            without scenes.
        CanonicalError: for a value that has no canonical form.
    """
    known = {} if known is None else known
    listed = towers(config)
    align = select(config, "stages.align") is not None
    live = live_towers(config, listed, weights)
    llm = select(config, "llm")
    llm_read = causal(config, weights)
    finetune = select(config, "stages.finetune")
    scenes = not is_published(config)
    supplied: dict[str, Any] = {
        "$assets": dict(assets),
        "$data": scene_data(config),
        "$validation": None,
        # What follows pretraining is no part of it: a chat model and its base are made of one pretrained model.
        "$llm": {key: value for key, value in llm.items() if key != "posttrain"},
        "$causal": llm_read,
        "$live": live,
        "$align_live": None if scenes else live,
        "$align_records": records_of(config, "align", published),
        "$finetune_records": records_of(config, "finetune", published),
        "$finetune": trunks.alone(finetune),
        "$benchmark": benchmark_of(config, published),
        # A learned code is pretrained under settings of llm; a rotary one is all that pretraining has to know.
        "$rotary": None if select(config, "position.name") == LEARNED else select(config, "position"),
        "$language": {key: config["data"][key] for key in LANGUAGE_FIELDS if key in config["data"]},
        TRAINING_SEED: training_seed(seed),
        "$evaluation_seed": {"evaluation": select(config, "seed.evaluation")},
    }
    language_model = "pretrain" if llm.get("posttrain") is None else "posttrain"
    aliases: dict[str, str | None] = {
        "$language_model": language_model,
        SCENES: SCENES if scenes else None,
        TRUNK: None,
    }
    if llm_read is not None:  # read from where its weights are, not made by a step
        aliases["$language_model"] = None
    aliases["$init"] = "align" if align else aliases["$language_model"]
    features = {
        f"features{i}": f"features{i}" for i in range(len(listed))
    }  # role in a step -> role in the run
    steps: dict[str, StepSpec] = {}

    def add(role: str, kind: str, extra: Mapping[str, Any] = MappingProxyType({})) -> None:
        row = TABLE[kind]
        deps: dict[str, str] = {}
        for dep_role, source in row.deps.items():
            if dep_role == FEATURES:
                if live is None or (kind == "align" and scenes):
                    deps.update({dep: steps[made_by].id for dep, made_by in features.items()})
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
            slug=slug_of(kind, step_config, list(needed.values())),
            config=step_config,
            deps=deps,
            hints=hints_of(kind, row, step_config, needed, steps, scale),
        )

    def add_features() -> None:
        for role, tower in zip(features.values(), listed, strict=True):
            add(role, "features", {"$tower": plain(tower), "$weights": weights_of(tower, weights)})

    if scenes:
        add("scenes", "scenes")
    if llm_read is None:
        add("pretrain", "pretrain")
        if language_model == "posttrain":
            add("posttrain", "posttrain")
    if live is None or (align and scenes):
        add_features()
    if align:
        add("align", "align")
    for number, epochs in enumerate(trunks.lengths(finetune)):
        add(f"trunk{number}", "trunk", {"$piece": trunks.piece(finetune, epochs)})
        aliases[TRUNK] = f"trunk{number}"
    add("finetune", "finetune")
    if validation:
        add(VALIDATION, "scenes", {"$validation": validation_scenes(config)})
        aliases[SCENES] = VALIDATION
        features = {role: f"validation_{role}" for role in features}
        if live is None:
            add_features()
    add("evaluate", "evaluate")
    return RunSpec(arm, context, seed, steps)
