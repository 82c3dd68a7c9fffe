"""Whether the settings of the training stages say something that exists: asked when a study is planned, because what is
wrong in a finetuning would show hours later. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

from vlmablate.design import trunks, tuning_choices
from vlmablate.design.mixture import TEXT_ONLY, Mixture, read_share
from vlmablate.design.schedule import Schedule
from vlmablate.errors import UserError, unknown_name

STAGES = ("align", "finetune")
TEXTS = ("plain", "dialogue")
"""What a language model that was pretrained here may be trained on further (``llm.posttrain.text``)."""
SETTINGS = (
    "epochs", "batch_scenes", "batch_samples", "longest", "questions_per_visit", "learning_rate",
    "learning_rate_factors", "schedule", "warmup", "weight_decay", "gradient_clip", "mixture", "language", "vision",
    "vision_learning_rate", trunks.SETTING,
)  # fmt: skip
_WORDS = (
    "whose words this language model does not know; set llm.pretrain.text_only above 0 "
    "(llm=small_text and llm=small_chat do)"
)
LINEARS = ("qkv", "attention_out", "mlp_in", "mlp_out")
"""The linear layers of a language model that is made here, which LoRA may adapt."""
_PARTS = ("projector", "language")
_VISION = "vision"
_FROZEN = "frozen"


def check_stages(config: Mapping[str, Any]) -> None:
    """Of a composed configuration, as far as it can be told without the models.

    Looked at are the names of all settings of the stages, the values of ``schedule``, ``learning_rate_factors``,
    ``mixture``, ``language``, ``vision``, ``vision_learning_rate`` and ``branches``, and the text of pretraining.

    Raises:
        UserError: which key is wrong, and what there is.
    """
    llm = config.get("llm") or {}
    made_here = "pretrain" in llm
    if made_here:
        _check_texts(llm)
    for name in STAGES:
        stage = (config.get("stages") or {}).get(name)
        if stage is not None:
            _check_stage(stage, f"stages.{name}", llm if made_here else None)
    finetune = (config.get("stages") or {}).get("finetune") or {}
    mixture = Mixture.read(finetune.get("mixture"))
    if mixture.text_only and made_here and not llm["pretrain"].get(TEXT_ONLY):
        raise UserError(f"stages.finetune.mixture.text_only asks for requests without a picture, {_WORDS}")
    trunks.check_branches(finetune, "stages.finetune", trunks.most_rows(config))


def read_factors(
    value: Mapping[str, Any] | None,
    where: str = "learning_rate_factors",
    parts: Collection[str] | None = None,
) -> dict[str, float]:
    """Part of the model -> its learning rate as a multiple; ``language.blocks`` is a part of ``language``.

    Args:
        parts: those of the model; None: not known here.

    Raises:
        UserError: for a part that is none of them, and a factor that is no number from 0 up.
    """
    if not isinstance(value, Mapping | None):
        raise UserError(f"{where} is part: factor, as in {{projector: 2.0}}, not {value!r}")
    for part, factor in (value or {}).items():
        if parts is not None and str(part).partition(".")[0] not in parts:
            raise unknown_name("part of the model", str(part), parts, where)
        if not _number(factor) or factor < 0:
            raise UserError(f"{where}.{part} is a multiple of the learning rate, from 0 up, not {factor!r}")
    return {str(part): float(factor) for part, factor in (value or {}).items()}


def _check_stage(stage: Mapping[str, Any], where: str, llm: Mapping[str, Any] | None) -> None:
    """llm: the settings of a language model that is made here."""
    for setting in stage:
        if setting not in SETTINGS:
            raise unknown_name("setting", str(setting), SETTINGS, where)
    Schedule.read(stage.get("schedule") or "cosine", f"{where}.schedule")
    if where != "stages.finetune" and stage.get(trunks.SETTING) is not None:
        raise UserError(
            f"{where}.{trunks.SETTING}: only finetunings share a trunk; use stages.finetune.{trunks.SETTING}"
        )
    way, options = tuning_choices.read(stage.get("language", "full"), f"{where}.language")
    if llm is not None and way == "last" and options["last"] > llm["layers"]:
        raise UserError(
            f"{where}.language.last: {options['last']} layers cannot train, the language model has {llm['layers']}"
        )
    if llm is not None and way == "lora":
        for target in options["targets"]:
            if target.rpartition(".")[2] not in LINEARS:
                raise unknown_name("LoRA target", target, LINEARS, f"{where}.language.lora.targets")
    vision = stage.get("vision", _FROZEN)
    way, _ = tuning_choices.read(vision, f"{where}.vision")
    if way == "lora":
        raise UserError(f"{where}.vision is frozen, full or {{last: n}}: towers take no LoRA adapters")
    parts = _PARTS if way == _FROZEN else (*_PARTS, _VISION)
    factors = read_factors(stage.get("learning_rate_factors"), f"{where}.learning_rate_factors", parts)
    base = stage.get("learning_rate")
    if not _number(base) or base <= 0:
        raise UserError(f"{where}.learning_rate is a number above 0, not {base!r}")
    rate = stage.get("vision_learning_rate")
    if rate is None:
        return
    if not _number(rate) or rate < 0:
        raise UserError(f"{where}.vision_learning_rate is a learning rate, or null, not {rate!r}")
    if _VISION in factors:
        raise UserError(
            f"{where}.vision_learning_rate and {where}.learning_rate_factors.vision say two things about the rate of "
            "the towers: keep one"
        )


def _check_texts(llm: Mapping[str, Any]) -> None:
    """The stages of a language model that is made here."""
    for name in ("pretrain", "posttrain"):
        stage = llm.get(name)
        if stage is None:
            continue
        Schedule.read(stage.get("schedule") or "cosine", f"llm.{name}.schedule")
        read_factors(stage.get("learning_rate_factors"), f"llm.{name}.learning_rate_factors")
        read_share(stage.get(TEXT_ONLY, 0.0), f"llm.{name}.{TEXT_ONLY}")
    posttrain = llm.get("posttrain")
    if posttrain is None:
        return
    if posttrain["text"] not in TEXTS:
        raise unknown_name("text", str(posttrain["text"]), TEXTS, "llm.posttrain.text")
    if not llm["pretrain"].get(TEXT_ONLY):
        raise UserError(f"llm.posttrain needs requests, {_WORDS}")


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
