"""`vlmablate evaluate`: from published folders and a checkpoint to scores per example."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.evaluation import published_folders, runner_world  # noqa: E402
from tests.vlm.exports.export_models import PAPER, card_of, model_of  # noqa: E402
from tests.vlm.exports.test_export_command import FEATURES, FINETUNE, step  # noqa: E402
from vlmablate.data import notes  # noqa: E402
from vlmablate.design.spec import StepSpec  # noqa: E402
from vlmablate.errors import UserError  # noqa: E402
from vlmablate.evaluate import RESULTS, SUMMARY, _lines, parse, run  # noqa: E402
from vlmablate.evaluation import answers_store, checkpoint_models, runner  # noqa: E402
from vlmablate.evaluation import published as evaluation_of_runs  # noqa: E402
from vlmablate.evaluation.checkpoint_models import checkpoint_of  # noqa: E402
from vlmablate.evaluation.published import ANSWERS, asking, run_published  # noqa: E402
from vlmablate.evaluation.scores import COLUMNS, EXAMPLES_FILE  # noqa: E402
from vlmablate.evaluation.tasks import TASKS, load, task_named  # noqa: E402
from vlmablate.files import read_json, write_json  # noqa: E402
from vlmablate.orchestration.context import StepContext, StepStopped  # noqa: E402
from vlmablate.orchestration.store import payload_files, prepare  # noqa: E402
from vlmablate.training.causal_model import TiledProjector, save_causal  # noqa: E402
from vlmablate.training.dialogues import encode  # noqa: E402
from vlmablate.training.ranks import ALONE  # noqa: E402
from vlmablate.vlm.exports.llava_hf import write_llava_hf  # noqa: E402
from vlmablate.vlm.image import TRANSFORMS  # noqa: E402
from vlmablate.vlm.prompts import Turn, template_named  # noqa: E402
from vlmablate.vlm.seen import open_vision  # noqa: E402
from vlmablate.vlm.tiling import TileLayout  # noqa: E402

IN_FOLDERS = [name for name in TASKS if name != "safety_probes"]
LIVE = {"towers": [{"tower": "test_clip", "weights": "random"}], "grid": 4, "image": {"resize": "letterbox"}}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMABLATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the folders of all benchmarks."""
    root = tmp_path_factory.mktemp("published")
    for name in IN_FOLDERS:
        published_folders.write(name, root / task_named(name).folder)
    return root


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA of transformers."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models") / "tiny-llava"
    made = runner_world.answering()
    write_llava_hf(
        folder, made.model, len(made.tokenizer), tokenizer=made.tokenizer, image={"resize": "letterbox"}
    )
    return folder


@pytest.fixture
def words(published: Path, llava: Path, tmp_path: Path) -> list[str]:
    return [f"folder={published}", f"checkpoint={llava}", "template=vicuna_v1.5", f"out={tmp_path / 'out'}"]


def results(out: Path) -> dict[str, list[Any]]:
    return pq.read_table(out / RESULTS).to_pydict()


def test_every_published_benchmark_is_asked_and_scored(
    words: list[str], published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*words, f"benchmark={','.join(IN_FOLDERS)}"]) == 0
    table, out = results(tmp_path / "out"), capsys.readouterr()
    assert tuple(table) == ("arm", "seed", *COLUMNS)
    said = read_json(tmp_path / "out" / SUMMARY)
    [arm] = said["arms"]
    for name in IN_FOLDERS:
        benchmark = task_named(name)
        examples, _ = load(benchmark, published / benchmark.folder)
        rows = [
            i
            for i, of in enumerate(table["benchmark"])
            if of == name and table["metric"][i] == benchmark.metric
        ]
        assert [table["example_id"][i] for i in rows] == [example.example_id for example in examples]
        assert [table["cluster_id"][i] for i in rows] == [example.cluster_id for example in examples]
        scores = [table["score"][i] for i in rows]
        assert arm["benchmarks"][name]["mean"] == pytest.approx(sum(scores) / len(scores))
        assert f" {name} " in out.out
        assert f"{name}: {len(examples)} questions" in out.err, "the folder has fewer than the published one"
    assert len(said["notes"]) == len(IN_FOLDERS)
    assert str(tmp_path / "out" / RESULTS) in out.out

    written = [path.stat().st_size for path in sorted((tmp_path / "out" / "answers").iterdir())]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_models, "read_llava_hf", None)
        assert run([*words, f"benchmark={','.join(IN_FOLDERS)}"]) == 0
        assert run([*words, "benchmark=vqav2", "variants.vqav2=official-2017"]) == 0
    assert results(tmp_path / "out")["metric"] == ["vqa_accuracy:official-2017"] * len(
        published_folders.VQAV2
    )
    assert [path.stat().st_size for path in sorted((tmp_path / "out" / "answers").iterdir())] == written


def test_probes_are_asked_without_a_folder(llava: Path, tmp_path: Path) -> None:
    words = [f"checkpoint={llava}", "template=vicuna_v1.5", f"out={tmp_path / 'out'}"]
    assert run([*words, "benchmark=safety_probes", "slim=4"]) == 0
    table = results(tmp_path / "out")
    assert table["metric"].count("right_refusal") == len(set(table["example_id"])) == 4
    further = set(table["metric"]) - {"right_refusal"}
    assert further
    assert further <= {"refused_harmful", "refused_benign"}


def test_how_long_answers_are_is_told_on_demand(words: list[str], tmp_path: Path) -> None:
    """Of what is written, and of nothing that is chosen or has no reference in words; no question is asked for it."""
    asked = ["benchmark=vizwiz,pope,refcoco", "slim=2"]
    assert run([*words, *asked]) == 0
    assert "extra_words" not in results(tmp_path / "out")["metric"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_models, "read_llava_hf", None)
        assert run([*words, *asked, "verbosity=true"]) == 0
    table = results(tmp_path / "out")
    told = {
        (name, metric)
        for name, metric in zip(table["benchmark"], table["metric"], strict=True)
        if metric in ("extra_words", "words_ratio")
    }
    assert told == {("vizwiz", "extra_words"), ("vizwiz", "words_ratio")}


def test_weights_are_read_for_their_digest_once(
    words: list[str], llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*words, "benchmark=vsr"]
    read: list[Path] = []
    digest = notes.files.sha256_file

    def noting(path: Path) -> str:
        read.append(path)
        return digest(path)

    monkeypatch.setattr(notes.files, "sha256_file", noting)
    monkeypatch.setenv("VLMABLATE_CACHE", str(tmp_path / "cache"))
    assert run(asked) == 0
    weights = [path for path in read if path.suffix == ".safetensors"]
    assert [path.parent for path in weights] == [llava]
    assert run(asked) == 0
    assert [path for path in read if path.suffix == ".safetensors"] == weights


def test_arms_and_seeds_stand_in_one_table_that_can_be_analysed(
    published: Path, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [f"checkpoint.{key}={llava}" for key in ("plain/0", "plain/1", "v1.5/0")]
    words += [f"folder={published}", "template=vicuna_v1.5", "benchmark=pope,vqav2", "slim=4", f"out={out}"]
    assert run(words) == 0
    table = results(out)
    found = list(dict.fromkeys(zip(table["arm"], table["seed"], strict=True)))
    assert found == [("plain", 0), ("plain", 1), ("v1.5", 0)]
    assert len(set(table["example_id"])) == 8
    shown = capsys.readouterr().out
    assert "plain/1" in shown
    line = next(line for line in shown.splitlines() if "vlmablate analyze" in line)
    from vlmablate.stats.longtable import read_long_table

    assert line.split()[2:4] == [f"results={out / RESULTS}", "baseline=plain"]
    assert "metric.pope=accuracy:probability" in line
    assert set(read_long_table(out / RESULTS)["arm"]) == {"plain", "v1.5"}


def test_how_a_llava_is_asked_can_be_chosen(words: list[str], tmp_path: Path) -> None:
    """Other places of the picture, transforms and templates are other answers, beside the first ones."""
    ways = ([], ["image=after_bos"], ["resize=resize_naive"])
    for way in ways:
        assert run([*words, "benchmark=vsr", *way]) == 0
    lines = [
        json.loads(line)
        for path in sorted((tmp_path / "out" / "answers").glob("part-*"))
        for line in path.read_text().splitlines()
    ]
    assert (
        len({line["key"] for line in lines}) == len(lines) == 3 * len({line["example_id"] for line in lines})
    )
    assert len({tuple(line["frame"]) for line in lines}) == 4  # two pictures, two transforms


def test_a_llava_answers_as_transformers_has_it_answer(
    words: list[str], llava: Path, tmp_path: Path, published: Path
) -> None:
    from transformers import LlavaForConditionalGeneration
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    assert run([*words, "benchmark=vizwiz"]) == 0
    given = {
        each.example_id: each.answer.text
        for each in answers_store.read(tmp_path / "out" / "answers").values()
    }
    theirs: Any = LlavaForConditionalGeneration.from_pretrained(llava).eval()
    tokenizer = runner_world.answering().tokenizer
    pixels_of = LlavaImageProcessorPil.from_pretrained(llava)
    benchmark = task_named("vizwiz")
    template = template_named("vicuna_v1.5")
    for example in load(benchmark, published / benchmark.folder)[0]:
        turn = Turn("human", f"<image>\n{benchmark.prompt(example)}")
        dialogue = encode(tokenizer, template, [turn], image="mark")
        cells = [theirs.config.image_token_index] * theirs.config.image_seq_length
        ids = np.insert(dialogue.tokens, dialogue.image_at, cells)
        photo = Image.open(published / benchmark.folder / str(example.picture)).convert("RGB")
        found = theirs.generate(
            input_ids=torch.from_numpy(ids)[None],
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            pixel_values=torch.as_tensor(pixels_of(photo, return_tensors="pt").pixel_values),
            max_new_tokens=benchmark.answer_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
        text = tokenizer.decode(found[0, len(ids) :], skip_special_tokens=True).strip()
        assert text
        assert given[example.example_id] == text


# ---- checkpoints -------------------------------------------------------------------------------------------------


def trained(home: Path, live: dict[str, Any], apart: bool, **card: Any) -> Path:
    """The folder of a finished step whose towers stayed frozen; `apart`: their features are steps of the store."""
    model = model_of("test_clip")
    model.vision = None
    if "tiles" in card:
        model.projector = TiledProjector(model.projector, TileLayout.read(card["tiles"]))
    folder = step(home, "finetune", FINETUNE, deps={"features0": FEATURES})
    if apart:
        config = {**live["towers"][0], "grid": live["grid"], "image": live["image"]}
        step(home, "features", FEATURES, config=config)
    whole = {**card_of("test_llama"), "projector": PAPER["gelu_mlp"], "channels": 32, "side": 4, **card}
    save_causal(model, {"tiles": None, **whole}, ["projector", "language"], "full", folder, ALONE)
    return folder


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))


@torch.inference_mode()
def test_a_run_looks_through_the_towers_of_its_features(tmp_path: Path) -> None:
    folder = trained(tmp_path, LIVE, apart=True)
    for word in (FINETUNE[:6], str(folder)):
        opened = checkpoint_of(tmp_path, word).open()
        squares, frame = opened.squares(picture())
        square, expected_frame = TRANSFORMS["letterbox"](picture(), 56, (122, 116, 104))
        assert [tiles.shape for tiles in squares] == [(1, 56, 56, 3)]
        assert np.array_equal(squares[0][0], np.asarray(square))
        assert frame == expected_frame
        assert (opened.image, opened.template.name, opened.tokens) == ("after_bos", "base", 16)
        seen = opened.see([torch.from_numpy(tiles)[None] for tiles in squares])
        expected = open_vision(LIVE)([torch.from_numpy(np.asarray(square).copy())[None]])
        assert torch.equal(seen, expected)


@torch.inference_mode()
def test_a_run_with_tiles_sees_all_of_them(tmp_path: Path) -> None:
    live = {**LIVE, "image": {"resize": "letterbox", "tiles": {"side": 2, "thumbnail": True}}}
    trained(tmp_path, live, apart=True, tiles={"side": 2, "thumbnail": True})
    opened = checkpoint_of(tmp_path, FINETUNE).open()
    [tiles], frame = opened.squares(picture())
    assert tiles.shape == (5, 56, 56, 3)
    assert frame.size == 112
    seen = opened.see([torch.from_numpy(np.stack([tiles, tiles[::-1]]))])
    assert opened.tokens == 5 * 16
    each = open_vision(LIVE)([torch.from_numpy(tiles)])
    torch.testing.assert_close(seen[0], each.flatten(0, 1))
    torch.testing.assert_close(seen[1], each.flip(0).flatten(0, 1))


def test_a_model_that_cannot_be_asked_is_told(tmp_path: Path, llava: Path) -> None:
    folder = trained(tmp_path / "apart", LIVE, apart=False)
    with pytest.raises(UserError, match="taken out of its results folder"):
        checkpoint_of(tmp_path, str(folder))
    card = read_json(folder / "model.json")
    write_json(folder / "model.json", {**card, "llm": None})
    with pytest.raises(UserError, match="language model of the registry"):
        checkpoint_of(tmp_path, str(folder))
    with pytest.raises(UserError, match="template=NAME"):
        checkpoint_of(tmp_path, str(llava))
    with pytest.raises(UserError, match="unknown image transform"):
        checkpoint_of(tmp_path, str(llava), "base", resize="stretch")
    with pytest.raises(UserError, match="nothing is called"):
        checkpoint_of(tmp_path, "nowhere/at/all")


PROCESSOR = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3, "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}  # fmt: skip
SQUARE = {"height": 56, "width": 56}


@pytest.mark.parametrize(
    ("settings", "resize"),
    [
        ({"size": SQUARE, "do_pad": True}, "letterbox"),
        (
            {"size": {"shortest_edge": 56}, "do_pad": True, "do_center_crop": True, "crop_size": SQUARE},
            "letterbox",
        ),
        ({"size": {"shortest_edge": 56}, "do_center_crop": True, "crop_size": SQUARE}, "resize_crop"),
        ({"size": 56, "do_center_crop": True, "crop_size": 56}, "resize_crop"),
        ({"size": SQUARE}, "resize_naive"),
        ({"size": {"shortest_edge": 56}}, None),
        ({"size": SQUARE, "resample": 2}, None),
        ({"size": SQUARE, "do_normalize": False}, None),
        ({"size": {"height": 28, "width": 28}}, None),
    ],
)
def test_the_processor_of_a_llava_is_read(
    tmp_path: Path, settings: dict[str, Any], resize: str | None
) -> None:
    write_json(tmp_path / "config.json", {"vision_config": {"image_size": 56}})
    write_json(tmp_path / "preprocessor_config.json", {**PROCESSOR, **settings})
    if resize is None:
        with pytest.raises(UserError, match="not known here"):
            checkpoint_of(tmp_path, str(tmp_path), "base")
        return
    identity = checkpoint_of(tmp_path, str(tmp_path), "base").identity()
    assert identity["resize"] == resize
    assert identity["mean"] == (0.5, 0.4, 0.3)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="how pictures become pixels"):
        checkpoint_of(tmp_path, str(tmp_path), "base")


def test_the_step_of_a_run_asks_published_benchmarks_and_goes_on(tmp_path: Path, published: Path) -> None:
    """In the folder of a step, of which a new attempt keeps nothing but what is named like a checkpoint."""
    folder, out = trained(tmp_path / "home", LIVE, apart=True), tmp_path / "step"
    out.mkdir()
    benchmark = {"names": ["pope", "vsr"], "slim": 5, "variants": {}, "frames": {}}
    config = {"benchmark": benchmark, "precision": "fp32"}
    evaluate = StepSpec("evaluate", 1, "a" * 16, "evaluate", config, {})
    folders = {name: published / name for name in ("pope", "vsr")}
    asked = itertools.count()
    saved: list[int] = []

    def context(stopping: bool) -> StepContext:
        return StepContext(
            execution={}, attempt=1, assets=tmp_path, out=out, on_saved=saved.append,
            stop_requested=lambda: stopping and next(asked) > 1,
        )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation_of_runs, "SAVED_EVERY_S", 0.0)
        patch.setattr(runner, "batches", lambda lengths, cells: [[i] for i in range(len(lengths))])
        prepare(out, evaluate)
        with pytest.raises(StepStopped):
            run_published(config, folder, folders, out, context(True))
    before = len(answers_store.read(out / ANSWERS))
    assert before > 0
    assert saved[-1] == before
    assert not (out / EXAMPLES_FILE).exists()
    prepare(out, evaluate)
    payload = run_published(config, folder, folders, out, context(False))
    table = pq.read_table(out / EXAMPLES_FILE).to_pydict()
    assert tuple(table) == COLUMNS
    assert list(payload["benchmarks"]) == ["pope", "vsr"]
    primary = [summary["metric"] for summary in payload["benchmarks"].values()]
    kept = [i for i, metric in enumerate(table["metric"]) if metric in primary]
    total = sum(summary["n"] for summary in payload["benchmarks"].values())
    assert len({table["example_id"][i] for i in kept}) == total
    assert before < len(answers_store.read(out / ANSWERS)) == total
    assert saved[-1] == total
    parts = [path.read_bytes().count(b"\n") for path in sorted((out / ANSWERS).glob("part-*"))]
    assert parts == [before, total - before]
    assert set(payload_files(out)) == {EXAMPLES_FILE}


def test_how_benchmarks_are_scored_can_be_chosen(published: Path) -> None:
    asked, notes = asking(
        ["refcoco", "pope"],
        {"pope": published / "pope"},
        {"pope": "official"},
        {"refcoco": "picture"},
        1,
        published,
    )
    assert [one.benchmark.metric for one in asked] == ["acc@0.5:picture", "accuracy:official"]
    assert [len(one.examples) for one in asked] == [1, 1]
    assert len(notes) == 4, "each is a small folder, and a subset"


# ---- the command line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("benchmark=popee", "unknown published benchmark 'popee'"),
        ("benchmark=pope,pope", "given twice"),
        ("variants.pope=odd", "unknown variant of pope"),
        ("variants.gqa=official", "unknown benchmark 'gqa'"),
        ("frames.pope=square", "no frame to choose"),
        ("folders.pope=/nowhere", "is not there"),
        ("slim=0", "slim must be a whole number"),
        ("verbosity=yes", "unknown value 'yes'"),
        ("device=tpu", "unknown value 'tpu'"),
        ("precision=fp16", "unknown precision"),
        ("template=vicuna", "unknown prompt template"),
        ("image=first", "unknown value 'first'"),
        ("checkpoint.a=b", "checkpoint=MODEL, or several"),
        ("colour=red", "unknown argument 'colour'"),
    ],
)
def test_mistakes_are_told_before_a_model_is_read(
    words: list[str], change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_models, "read_llava_hf", None)
    key = change.partition("=")[0]
    kept = [word for word in [*words, "benchmark=pope"] if not word.startswith(f"{key}=")]
    with pytest.raises(UserError, match=message):
        run([*kept, change])


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="benchmark=NAME is missing"):
        parse(["checkpoint=a"])
    with pytest.raises(UserError, match=r"folders\.gqa=FOLDER"):
        parse(["checkpoint=a", "benchmark=pope,gqa", "folders.pope=b"])
    assert parse(["checkpoint=a", "benchmark=safety_probes"]).root is None
    with pytest.raises(UserError, match="checkpoint=MODEL"):
        parse(["benchmark=pope", "folder=b"])
    with pytest.raises(UserError, match="seed of checkpoint"):
        parse(["benchmark=pope", "folder=b", "checkpoint.a/x=c"])
    with pytest.raises(UserError, match="same arm and seed"):
        parse(["benchmark=pope", "folder=b", "checkpoint.a/0=c", "checkpoint.a=d"])


def test_results_of_something_else_are_left_alone(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / RESULTS).write_text("precious")
    with pytest.raises(UserError, match="would be overwritten"):
        run([*words, "benchmark=pope"])


def test_help_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in TASKS)
    assert max(map(len, shown.splitlines())) <= 120


def test_lines_of_progress_are_few_and_the_last_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    told = _lines("arm", lambda: now)
    for done in range(1, 101):
        now += 1.0
        told(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "arm: 30 of 100 questions, 70 s left"
    assert lines[-1] == "arm: 100 of 100 questions, 0 s left"
    assert len(lines) == 4
