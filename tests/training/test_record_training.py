"""Training on published records: every stage, layout and rank count the same; pictures from folders; what is cut."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.data.record_folders import MIXED, SHAREGPT, write_all  # noqa: E402
from tests.training.pairs import Pair  # noqa: E402
from tests.training.vision_world import World, work  # noqa: E402
from vlmablate.data.records import folders  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.training import causal_steps  # noqa: E402
from vlmablate.training.causal_model import open_language  # noqa: E402
from vlmablate.training.record_steps import record_lessons  # noqa: E402
from vlmablate.training.steps import MODEL_FILE  # noqa: E402

FIVE = ("llava_pretrain_558k", "llava_v15_mix665k", "lvis_instruct_4v", "lrv_instruct", "sharegpt")
STAGE = {
    "epochs": 1.1, "batch_samples": 6, "longest": 40, "learning_rate": 2e-3, "warmup": 0.1, "weight_decay": 0.1,
    "gradient_clip": 1.0,
}  # fmt: skip
Config = dict[str, Any]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of its own, for this process and for the ranks."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("VLMABLATE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def pair(cache: Path) -> Iterator[Pair]:
    made = Pair("tests.training.vision_world")
    yield made
    made.close()


@pytest.fixture(scope="module")
def data(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Projector, towers and language model, as a plan writes them."""
    world = World(tmp_path_factory.mktemp("world"))
    run = world.plan("llm=random_llama", "position=rope_1d", "stages=single", "stages.finetune.vision=full")
    config = run.steps["finetune"].config
    return {key: config[key] for key in ("projector", "position", "live", "llm", "precision")}


def records(data: dict[str, Path], *names: str, language_only: bool = True, **shares: Config) -> Config:
    rows = [
        {"source": name, "digest": folders.remember(name, data[name]), **shares.get(name, {"epochs": 1})}
        for name in names
    ]
    return {"sources": rows, "language_only": language_only}


def finetuning(parts: Config, data: dict[str, Path], **stage: Any) -> Config:
    """On all five sources."""
    mix = records(data, *FIVE, sharegpt={"count": 5}, lrv_instruct={"epochs": 1.5})
    seeds = {"init": 0, "order": 1}
    return copy.deepcopy({**parts, "records": mix, "stages": {"finetune": {**STAGE, **stage}}, "seed": seeds})


def run(out: Path, config: Config, deps: dict[str, str] | None = None, **more: Any) -> Config:
    stage = next(iter(config["stages"]))
    return work(kind=stage, config=config, deps=deps or {}, out=str(out), **more)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / MODEL_FILE)


def trained(folder: Path) -> set[str]:
    return {name.partition(".")[0] for name in weights(folder)}


def test_alignment_learns_captions_and_finetuning_goes_on_from_its_projector(
    parts: Config, data: dict[str, Path], tmp_path: Path
) -> None:
    aligning = {
        **parts, "records": records(data, "llava_pretrain_558k"), "stages": {"align": STAGE},
        "seed": {"init": 0, "order": 0},
    }  # fmt: skip
    aligned = run(tmp_path / "align", aligning)
    assert aligned["steps"] == 2
    assert aligned["mixture"] == {"llava_pretrain_558k": {"rows": 7, "records": 6, "left_out": 0}}
    assert trained(tmp_path / "align") == {"projector"}
    still = finetuning(parts, data, learning_rate_factors={"projector": 0.0}, language="frozen")
    run(tmp_path / "still", still, {"init": str(tmp_path / "align")})
    first, second = weights(tmp_path / "align"), weights(tmp_path / "still")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    run(tmp_path / "towers", finetuning(parts, data, vision="full", vision_learning_rate=1e-4))
    assert trained(tmp_path / "towers") == {"projector", "language", "vision"}


def test_the_layout_of_a_batch_changes_no_loss(parts: Config, data: dict[str, Path], tmp_path: Path) -> None:
    config = finetuning(parts, data)
    whole = run(tmp_path / "packed", config)
    packed = whole["losses"]
    assert len(set(packed)) == len(packed) > 3
    told = {key: whole[key] for key in ("mixture", "cut")}
    for execution in ({"pack": False, "threads": 2}, {"micro_batch": 2}):
        alone = run(tmp_path / f"alone {execution}", config, execution=execution)
        assert alone["losses"] == pytest.approx(packed, rel=1e-6, abs=1e-6), execution
        assert {key: alone[key] for key in told} == told


@pytest.mark.slow
def test_two_ranks_learn_as_one_does(
    parts: Config, data: dict[str, Path], pair: Pair, tmp_path: Path
) -> None:
    config = finetuning(parts, data)
    whole = run(tmp_path / "packed", config)
    told = {key: whole[key] for key in ("mixture", "cut")}
    job = {"kind": "finetune", "config": config, "deps": {}}
    first, second = pair.run(tmp_path / "pair", execution={"micro_batch": 2}, **job)
    assert first["losses"] == second["losses"] == pytest.approx(whole["losses"], rel=1e-6, abs=1e-6)
    assert {key: first[key] for key in told} == {key: second[key] for key in told} == told


@pytest.mark.parametrize("vision", ["frozen", "full"])
def test_a_stopped_training_goes_on_to_the_same_bits(
    parts: Config, data: dict[str, Path], tmp_path: Path, vision: str
) -> None:
    config = finetuning(parts, data, vision=vision)
    whole = run(tmp_path / "whole", config)
    execution = {"save_every": 2, "threads": 2}
    first = run(tmp_path / "cut", config, execution=execution, stop_after=3)
    assert first["stopped"]
    with open(tmp_path / "cut" / causal_steps.CUT_FILE, "a") as file:
        file.write('\n{"step": 3, "sam')  # as a kill leaves it
    rest = run(tmp_path / "cut", config, execution=execution)
    assert 0 < rest["resumed_from_step"] < rest["steps"]
    assert [*first["losses"][: rest["resumed_from_step"]], *rest["losses"]] == whole["losses"]
    ours, theirs = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert rest["cut"] == whole["cut"]
    assert whole["cut"]["samples"] > 0


def test_the_counts_of_a_mixture_are_those_of_its_samples(parts: Config, data: dict[str, Path]) -> None:
    config = finetuning(parts, data)
    with record_lessons("finetune", config) as lessons:
        asked = [sample for step in range(lessons.steps) for sample in lessons.at(step)]
        counts = lessons.counts
        backwards = [lessons.at(step) for step in reversed(range(lessons.steps))]
    assert sum(row["rows"] for row in counts.values()) == len(asked)
    assert counts["sharegpt"]["left_out"] == len(SHAREGPT) - counts["sharegpt"]["records"] == 1
    assert counts["llava_v15_mix665k"]["records"] == len(MIXED)
    assert [sample for batch in reversed(backwards) for sample in batch] == asked
    assert 0 < sum(sample.picture is None for sample in asked) < len(asked)
    assert all(Path(str(sample.picture)).is_file() for sample in asked if sample.picture)


def test_without_language_only_data_every_sample_has_a_picture(parts: Config, data: dict[str, Path]) -> None:
    config = finetuning(parts, data)
    config["records"] = records(data, *FIVE, language_only=False)
    with record_lessons("finetune", config) as lessons:
        assert lessons.counts["sharegpt"] == {"rows": 0, "records": 0, "left_out": len(SHAREGPT)}
        assert all(sample.picture for step in range(lessons.steps) for sample in lessons.at(step))


def test_what_is_longer_than_the_limit_is_cut_behind_the_picture_and_counted(
    parts: Config, data: dict[str, Path]
) -> None:
    _, tokenizer = open_language(parts["llm"])
    template = causal_steps.template_of(parts["llm"])
    with record_lessons("finetune", finetuning(parts, data)) as lessons:
        asked = [sample for step in range(lessons.steps) for sample in lessons.at(step)]
    whole, nothing = causal_steps.samples_of(asked, tokenizer, template, 9)
    assert not any(nothing)
    short, lost = causal_steps.samples_of(asked, tokenizer, template, 9, longest=12)
    assert any(lost)
    for (_, picture), before, after, count in zip(asked, whole, short, lost, strict=True):
        cells = 9 if picture else 0
        assert len(after) == len(before) - count <= 12 + cells
        assert (after.slots >= 0).sum() == cells
        assert (after.tokens == before.tokens[: len(after)]).all()
        assert (after.targets[:-1] == before.targets[: len(after) - 1]).all()


def test_mistakes_are_told_before_anything_is_trained(
    parts: Config, data: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"stages\.finetune\.batch_samples is a whole number"):
        run(tmp_path / "a", finetuning(parts, data, batch_samples=None))
    gone = finetuning(parts, data)
    gone["records"]["sources"][0]["digest"] = "0" * 64
    with pytest.raises(UserError, match=r"data\.folders\.llava_pretrain_558k=FOLDER"):
        run(tmp_path / "b", gone)


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_a_picture_that_cannot_be_read_is_named(
    parts: Config, cache: Path, tmp_path: Path, damage: str
) -> None:
    places = write_all(tmp_path / "data")
    picture = places["lrv_instruct"] / "lrv-chart" / "x_1.png"
    if damage == "missing":
        picture.unlink()
    else:
        picture.write_bytes(picture.read_bytes()[:-40])
    config = finetuning(parts, places)
    config["records"] = records(places, "lrv_instruct")
    words = "is missing" if damage == "missing" else "cannot be read"
    with pytest.raises(UserError, match=rf"x_1\.png {words}.*data verify"):
        run(tmp_path / "out", config)


def test_a_line_of_the_cut_file_says_what_a_step_lost(
    parts: Config, data: dict[str, Path], tmp_path: Path
) -> None:
    payload = run(tmp_path / "some", finetuning(parts, data, longest=30))
    lines = (tmp_path / "some" / causal_steps.CUT_FILE).read_text().splitlines()
    rows = [json.loads(line) for line in lines if line]
    assert payload["cut"]["tokens"] == sum(row["tokens"] for row in rows) > 0
    assert payload["cut"]["samples"] == sum(row["samples"] for row in rows)
    with pytest.raises(UserError, match=r"no sample of step 1 .* raise stages\.finetune\.longest"):
        run(tmp_path / "nothing", finetuning(parts, data, longest=2))
