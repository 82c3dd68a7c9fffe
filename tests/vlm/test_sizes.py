"""The price of a model, against counted operations, counted weights, and what is known of the paper's models."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vlmablate.design.compose import composer
from vlmablate.design.declarations import comparison_names, load_declaration, preset_names
from vlmablate.design.transformer_costs import Llm, Model, Stage, Vit, memory, mlp_weights
from vlmablate.vlm.llms.registry import llm_named
from vlmablate.vlm.sizes import llm_shape, model_of, stages_of
from vlmablate.vlm.towers.architectures import ARCHITECTURES

LLAMA = llm_shape("llama2_7b")
SAMPLE = Stage(pictures=1, texts=0, picture_text=300, text=0, vision=False, language=True)


@pytest.mark.parametrize("name", ["test_llama", "test_qwen2", "test_gemma", "test_phi"])
def test_operations_of_a_language_model_are_those_that_torch_counts(name: str):
    from transformers import AutoModelForCausalLM

    from vlmablate.vlm.llms.registry import hf_config

    model = AutoModelForCausalLM.from_config(hf_config(llm_named(name)), attn_implementation="eager")
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, 24, dtype=torch.int64), use_cache=False)
    # The rotation table is a product of 24 positions with half a head; it is no work of the model.
    rotary = 2 * 24 * llm_shape(name).head / 2
    assert abs(counter.get_total_flops() - llm_shape(name).forward(24)) <= rotary


def test_operations_of_a_tower_are_those_that_torch_counts():
    from vlmablate.vlm.towers.vision import build_vision

    facts = ARCHITECTURES["clip_vit_l14_224"]
    tower = build_vision(facts.name, device="meta")
    counter = FlopCounterMode(display=False)
    with counter:
        tower(torch.zeros(1, 3, 224, 224, device="meta"))
    vit = Vit(facts.width, facts.layers, facts.hidden, facts.patch, 224, facts.family.prefix)
    assert counter.get_total_flops() == pytest.approx(vit.forward, rel=1e-9)


def test_a_sequence_of_llama_2_costs_what_others_measured():
    assert LLAMA.forward(879) / 1e12 == pytest.approx(12.0, abs=0.05)
    assert LLAMA.forward(2048) / 1e12 == pytest.approx(29.3, abs=0.05)


@pytest.mark.parametrize(("vision", "language"), [(False, False), (False, True), (True, True)])
def test_more_of_the_model_that_trains_costs_more_in_operations_and_memory(vision: bool, language: bool):
    model = Model(
        (Vit(64, 3, 256, 14, 224, 1),), 10**6, (64, 128, 128), Llm(128, 2, 4, 4, 32, 512, 3, 1000, 10**6)
    )
    frozen = Stage(1, 0, 20, 0, vision=False, language=False)
    stage = Stage(1, 0, 20, 0, vision=vision, language=language)
    assert model.training(stage) >= model.training(frozen)
    assert memory(model, stage, 1, 4, True) >= memory(model, frozen, 1, 4, True)
    assert model.trained(stage) == mlp_weights((64, 128, 128)) + (vision + language) * 10**6
    # What was trained is sharded over more ranks; what a rank keeps of its own samples is not.
    assert memory(model, stage, 8, 4, True) < memory(model, stage, 1, 4, True)
    assert memory(model, stage, 8, 4, True) < memory(model, stage, 8, 8, True)


def test_text_without_a_picture_teaches_a_frozen_language_model_nothing():
    model = Model((Vit(64, 3, 256, 14, 224, 1),), 10, (64, 128), Llm(128, 2, 4, 4, 32, 512, 3, 1000, 10))
    silent = Stage(0, 100, 20, 50, vision=False, language=False)
    assert model.training(silent) == 0
    assert model.training(Stage(0, 100, 20, 50, vision=False, language=True)) == pytest.approx(
        300 * model.llm.forward(50)
    )


def test_every_comparison_with_a_printed_p_has_an_axis_in_the_study_of_the_paper():
    declared = load_declaration("prismatic")
    assert list(declared.contrasts) == comparison_names()
    assert set(declared.contrasts.values()) <= set(declared.axes)
    assert list(declared.presets) == preset_names()
    assert len(declared.presets) == 49


@pytest.mark.slow
def test_every_model_of_the_paper_composes_and_is_built_on_the_meta_device_with_the_weights_it_is_priced_for():
    from vlmablate.vlm.llms.load import load_llm
    from vlmablate.vlm.projectors import build_projector
    from vlmablate.vlm.towers.vision import build_vision

    llms: dict[str, int] = {}
    towers: dict[str, tuple[int, int, int]] = {}
    with composer() as compose:
        for name in preset_names():
            config = compose.compose(["scale=7b", f"paper={name}"])
            assert config["preset"]["model"] == name
            model, stages = model_of(config), stages_of(config, 30, 253, 1000)
            assert stages["finetune"].language
            assert ("align" in stages) == ("reproduction" in name or "multi-stage" in name)
            assert stages["finetune"].vision == name.startswith("full-ft")
            llm = config["llm"]["name"]
            if llm not in llms:
                wrapped, _ = load_llm(llm, weights="random", device="meta")
                llms[llm] = sum(p.numel() for p in wrapped.parameters())
            key = str(config["vision"]["towers"])
            if key not in towers:
                tower = build_vision({"towers": config["vision"]["towers"]} if len(config["vision"]["towers"]) > 1
                                     else config["vision"]["towers"][0], device="meta")  # fmt: skip
                towers[key] = (sum(p.numel() for p in tower.parameters()), tower.channels, tower.side)
            weights, channels, side = towers[key]
            width = llm_shape(llm).width
            with torch.device("meta"):
                projector = build_projector(
                    config["projector"], channels, width, side, torch.Generator("cpu")
                )
            assert model.image_tokens == side**2
            assert model.tower_weights == weights, name
            assert mlp_weights(model.projector) == sum(p.numel() for p in projector.parameters()), name
            assert model.llm.parameters == llms[llm], name
