"""Settings of the training stages are judged as a configuration, before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from tests.training.tiny import CARD
from vlmablate.data.mixtures import SOURCES as MADE
from vlmablate.design.mixture import SOURCES
from vlmablate.design.stage_choices import LINEARS, check_stages, read_factors
from vlmablate.errors import UserError
from vlmablate.vlm.language_model import LanguageModel

LORA = {"rank": 2, "alpha": 4, "targets": ["qkv"], "dropout": 0.0}


def config(stage: str = "finetune", llm: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    stages: dict[str, Any] = {"align": None, "finetune": {"learning_rate": 1e-3}}
    stages[stage] = {"learning_rate": 1e-3, **settings}
    return {"stages": stages, "llm": llm or {"layers": 2, "pretrain": {"text_only": 0.0}, "posttrain": None}}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "vision": "full",
            "vision_learning_rate": 1e-4,
            "learning_rate_factors": {"projector": 2, "language.blocks": 0},
        },
        {"vision": {"last": 3}, "learning_rate_factors": {"vision": 0.1}},
        {"language": {"last": 2}},
        {"language": {"lora": {**LORA, "targets": ["blocks.1.qkv", "mlp_in"]}}},
        {"schedule": {"name": "wsd", "decay": 0.2, "form": "1-sqrt", "warmup_steps": None}},
        {"mixture": {"detailed": 3, "negative": 0, "text_only": 0.0}},
    ],
    ids=str,
)
def test_what_exists_is_accepted(settings: dict[str, Any]) -> None:
    check_stages(config(**settings))


def test_a_model_of_the_registry_names_its_own_layers_and_knows_all_words() -> None:
    registry = {"name": "smollm2_135m", "weights": "random", "layers": None}
    lora = {"lora": {**LORA, "targets": ["q_proj"]}}
    check_stages(config(llm=registry, language=lora, mixture={"text_only": 0.1}))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"langauge": "full"}, r"unknown setting 'langauge' in stages.finetune \(did you mean 'language'"),
        ({"vision": "ful"}, r"'ful' in stages.finetune.vision \(did you mean 'full'"),
        ({"vision": {"lora": LORA}}, "stages.finetune.vision is frozen, full or {last: n}"),
        ({"vision": {"last": "2"}}, "stages.finetune.vision.last must be a whole number"),
        ({"language": {"lroa": LORA}}, r"'lroa' in stages.finetune.language \(did you mean 'lora'"),
        (
            {"language": {"last": 3}},
            "stages.finetune.language.last: 3 layers cannot train, the language model has 2",
        ),
        (
            {"language": {"lora": {**LORA, "targets": ["qvk"]}}},
            r"'qvk' in .*lora.targets \(did you mean 'qkv'",
        ),
        ({"language": {"lora": {**LORA, "alpha": "x"}}}, "stages.finetune.language.lora.alpha"),
        ({"schedule": "wds"}, r"'wds' in stages.finetune.schedule \(did you mean 'wsd'"),
        (
            {"schedule": {"name": "wsd", "decya": 0.1}},
            r"'decya' in stages.finetune.schedule, wsd \(did you mean 'decay'",
        ),
        ({"schedule": 3}, "stages.finetune.schedule is constant, cosine, wsd"),
        ({"mixture": {"negativ": 1}}, r"'negativ' in stages.finetune.mixture \(did you mean 'negative'"),
        ({"mixture": {"text_only": 1.0}}, "stages.finetune.mixture.text_only is the share"),
        ({"mixture": {"text_only": 0.1}}, "set llm.pretrain.text_only above 0"),
        ({"mixture": 3}, "stages.finetune.mixture holds"),
        ({"learning_rate": 0.0}, "stages.finetune.learning_rate is a number above 0"),
        ({"learning_rate_factors": {"projectr": 1.0}}, r"'projectr' in .*factors \(did you mean 'projector'"),
        ({"learning_rate_factors": {"vision": 1.0}}, "unknown part of the model 'vision'"),
        ({"learning_rate_factors": {"language": -1.0}}, "learning_rate_factors.language is a multiple"),
        (
            {"learning_rate_factors": {"language": float("nan")}},
            "learning_rate_factors.language is a multiple",
        ),
        ({"learning_rate_factors": 2.0}, "stages.finetune.learning_rate_factors is part: factor"),
        ({"vision_learning_rate": "fast"}, "stages.finetune.vision_learning_rate is a learning rate"),
        (
            {"vision": "full", "vision_learning_rate": 1e-4, "learning_rate_factors": {"vision": 0.1}},
            "two things about the rate of the towers",
        ),
    ],
    ids=str,
)
def test_what_does_not_exist_is_refused_by_its_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_stages(config(**settings))


def test_alignment_is_judged_as_well() -> None:
    with pytest.raises(UserError, match=r"stages.align.schedule \(did you mean 'cosine'"):
        check_stages(config("align", schedule="cosin"))


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        (
            {"posttrain": {"text": "dialog", "text_only": 0.1}},
            r"'dialog' in llm.posttrain.text \(did you mean 'dialogue'",
        ),
        ({"posttrain": {"text": "plain", "text_only": 1}}, "llm.posttrain.text_only is the share"),
        ({"posttrain": {"text": "plain", "text_only": 0.1}}, "set llm.pretrain.text_only above 0"),
        ({"pretrain": {"schedule": "cosin"}}, "llm.pretrain.schedule"),
    ],
    ids=str,
)
def test_the_text_of_a_language_model_is_judged_as_well(llm: dict[str, Any], said: str) -> None:
    whole = {"layers": 2, "pretrain": {"text_only": 0.0}, "posttrain": None, **llm}
    with pytest.raises(UserError, match=said):
        check_stages(config(llm=whole))


def test_without_the_parts_of_a_model_only_the_factors_are_judged() -> None:
    assert read_factors({"words": 2}) == {"words": 2.0}
    assert read_factors(None) == {}


def test_names_are_those_of_what_is_there() -> None:
    assert tuple(MADE) == SOURCES
    linears = [name for name, part in LanguageModel(CARD).named_modules() if isinstance(part, nn.Linear)]
    assert {name.rpartition(".")[2] for name in linears} == set(LINEARS)
