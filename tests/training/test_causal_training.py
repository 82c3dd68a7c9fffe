"""Training around a pretrained language model: both stages, layouts, ranks, interruption, and what is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training.pairs import Pair  # noqa: E402
from tests.training.vision_world import World, work  # noqa: E402
from vlmablate.design.spec import RunSpec  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.training.causal_model import load_causal, open_language  # noqa: E402
from vlmablate.training.steps import MODEL_FILE  # noqa: E402

LLAMA = ("llm=random_llama", "position=rope_1d")
LORA = (
    "tuning=lora",
    "stages.finetune.language.lora.targets=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]",
)
FULL_TOWERS = "stages.finetune.vision=full"
TEXT = "stages.finetune.mixture.text_only=0.3"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def pair(pairs: Callable[[str], Pair]) -> Pair:
    return pairs("tests.training.vision_world")


def plan(world: World, *overrides: str) -> RunSpec:
    return world.plan(*LLAMA, *overrides)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / MODEL_FILE)


def parts(folder: Path) -> set[str]:
    return {name.partition(".")[0] for name in weights(folder)}


def train(world: World, run: RunSpec, out: Path, **more: Any) -> dict[str, Any]:
    return work(out=str(out), **world.job(run, "finetune"), **more)


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_pretrained_language_model_needs_no_pretraining(world: World) -> None:
    run = plan(world)
    assert list(run.steps) == ["scenes", "features0", "align", "finetune", "evaluate"]
    assert run.steps["align"].deps.keys() == {"features0", "scenes"}
    assert run.steps["finetune"].deps["init"] == run.steps["align"].id
    assert plan(world, "stages=single").steps["finetune"].deps.keys() == {"features0", "scenes"}
    named = {"name": "test_llama", "weights": "random", "layers": 2, "template": None}
    assert run.steps["finetune"].config["llm"] == named
    assert plan(world, "llm.layers=1").steps["align"].id != run.steps["align"].id


def test_another_position_code_is_refused(world: World) -> None:
    with pytest.raises(UserError, match="position=m_rope cannot be chosen"):
        world.plan("llm=random_llama", "position=m_rope")


def test_each_stage_keeps_what_it_trained_and_finetuning_starts_from_the_aligned_projector(
    world: World,
) -> None:
    run = plan(world)
    aligned, finetuned = world.done(run, "align"), world.done(run, "finetune")
    assert parts(aligned) == {"projector"}
    assert parts(finetuned) == {"projector", "language"}
    untouched, _ = open_language(run.steps["align"].config["llm"])
    model = load_causal(aligned).model
    for name, tensor in untouched.state_dict().items():
        assert torch.equal(model.language.state_dict()[name], tensor), name
    still = plan(world, "tuning=frozen", "+stages.finetune.learning_rate_factors.projector=0.0")
    assert parts(world.done(still, "finetune")) == {"projector"}
    assert_same_bits(world.done(still, "finetune"), aligned)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [(), (TEXT,), (FULL_TOWERS, "stages=single"), (FULL_TOWERS, TEXT, "stages=single")]
)
def test_the_layout_of_a_batch_changes_no_loss(
    world: World, pair: Pair, tmp_path: Path, change: tuple[str, ...]
) -> None:
    run = plan(world, *change)
    packed = train(world, run, tmp_path / "packed")["losses"]
    assert len(set(packed)) == len(packed) > 3
    for name, execution in {"padded": {"pack": False}, "micro": {"micro_batch": 2}}.items():
        losses = train(world, run, tmp_path / name, execution=execution)["losses"]
        assert losses == pytest.approx(packed, rel=1e-6, abs=1e-6), name
    together: dict[str, dict[str, Any]] = {"packed": {}, "padded, micro": {"pack": False, "micro_batch": 1}}
    for name, execution in together.items():
        first, second = pair.run(
            tmp_path / f"pair, {name}", execution=execution, **world.job(run, "finetune")
        )
        assert first["losses"] == second["losses"]
        assert first["losses"] == pytest.approx(packed, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("change", [(), (FULL_TOWERS, TEXT, "stages=single"), LORA])
def test_a_stopped_training_goes_on_to_the_same_bits(
    world: World, tmp_path: Path, change: tuple[str, ...]
) -> None:
    run = plan(world, *change)
    whole = train(world, run, tmp_path / "whole")
    execution = {"save_every": 2, "threads": 2}
    first = train(world, run, tmp_path / "cut", execution=execution, stop_after=3)
    assert first["stopped"]
    rest = train(world, run, tmp_path / "cut", execution=execution)
    assert 0 < rest["resumed_from_step"] < rest["steps"]
    assert [*first["losses"][: rest["resumed_from_step"]], *rest["losses"]] == whole["losses"]
    assert_same_bits(tmp_path / "cut", tmp_path / "whole")


def test_adapters_are_merged_into_what_is_kept(world: World) -> None:
    run = plan(world, *LORA)
    folder = world.done(run, "finetune")
    assert not [name for name in weights(folder) if "lora" in name]
    untouched, _ = open_language(run.steps["align"].config["llm"])
    changed = {
        name
        for name, tensor in load_causal(folder).model.language.state_dict().items()
        if not torch.equal(tensor, untouched.state_dict()[name])
    }
    assert len(changed) == 2 * 7
    assert all(name.endswith("proj.weight") for name in changed)


def test_text_alone_is_counted_and_learnt_without_a_picture(world: World, tmp_path: Path) -> None:
    counts = train(world, plan(world, TEXT), tmp_path / "mixed")["mixture"]
    assert 0 < counts["text_only"]["rows"] < counts["base"]["rows"]


def test_a_damaged_model_is_told(world: World, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    source = world.done(plan(world), "finetune")
    state = weights(source)
    dropped = next(name for name in state if name.startswith("projector"))
    del state[dropped]
    (tmp_path / "model.json").write_bytes((source / "model.json").read_bytes())
    save_file(state, tmp_path / MODEL_FILE)
    with pytest.raises(UserError, match=f"1 are missing or too many, such as {dropped}"):
        load_causal(tmp_path)


@pytest.mark.parametrize("layers", [0, 3, "all"])
def test_layers_that_are_not_there_are_told(layers: Any) -> None:
    with pytest.raises(UserError, match="1 to 2"):
        open_language({"name": "test_llama", "weights": "random", "layers": layers})
