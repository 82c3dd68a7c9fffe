"""`vlmablate export`: from the folder of a finished step to files in another layout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.training.vision_world import World  # noqa: E402
from tests.vlm.exports.export_models import PAPER, card_of, model_of, same_bytes  # noqa: E402
from vlmablate import cli  # noqa: E402
from vlmablate.data.scenes_store import SceneStore  # noqa: E402
from vlmablate.files import read_json, write_json  # noqa: E402
from vlmablate.training.causal_model import load_causal, save_causal  # noqa: E402
from vlmablate.training.pictures import SquarePictures  # noqa: E402
from vlmablate.training.ranks import ALONE  # noqa: E402
from vlmablate.training.sequences import pack  # noqa: E402
from vlmablate.vlm.exports.mm_projector import FILE, to_mm_projector  # noqa: E402
from vlmablate.vlm.exports.prismatic import CHECKPOINT, from_prismatic, to_prismatic  # noqa: E402
from vlmablate.vlm.merge import IMAGE_MARK, expand  # noqa: E402
from vlmablate.vlm.seen import open_vision  # noqa: E402

FEATURES, FINETUNE = "a" * 16, "b" * 16


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def step(home: Path, kind: str, step_id: str, done: bool = True, **spec: Any) -> Path:
    """The folder of a step as the store keeps it."""
    folder = home / "steps" / kind / f"some-words-{step_id}"
    folder.mkdir(parents=True)
    write_json(folder / "spec.json", {"id": step_id, "kind": kind, **spec})
    if done:
        write_json(folder / "result.json", {"id": step_id, "files": {}})
    return folder


def trained(
    home: Path, projector: str = "gelu_mlp", llm: str = "test_llama", **card: Any
) -> tuple[Any, Path]:
    """A model whose projector and language model were trained behind frozen towers, in the folder of its step."""
    model = model_of(None, projector, llm)
    folder = step(home, "finetune", FINETUNE, deps={"scenes": "c" * 16, "features0": FEATURES})
    step(
        home,
        "features",
        FEATURES,
        config={"tower": "dinov2_small", "weights": "w", "grid": 4, "image": {"resize": "letterbox"}},
    )
    whole = {**card_of(llm), "projector": PAPER[projector], "channels": 32, "side": 4, "tiles": None, **card}
    save_causal(model, whole, ["projector", "language"], "full", folder, ALONE)
    return model, folder


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["export", *words]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("llm", ["test_llama", "test_qwen2"])  # words and head apart, and tied
def test_a_finished_step_becomes_a_checkpoint_of_prismatic(
    llm: str, home: Path, tmp_path: Path, capsys: Any
) -> None:
    model, _ = trained(home, "fused_gelu_mlp", llm)
    out = tmp_path / "out"
    assert cli.main(["export", FINETUNE[:6], "--layout", "prismatic", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"prismatic: {out}\n"
    found = torch.load(out / CHECKPOINT, weights_only=True)
    expected = to_prismatic(model, card_of(llm))
    assert all(same_bytes(found["model"][part], state) for part, state in expected["model"].items())
    other = model_of(None, "fused_gelu_mlp", llm, seed=9)
    from_prismatic(found, other, card_of(llm))
    assert same_bytes(other.state_dict(), model.state_dict())
    config = read_json(out / "config.json")["model"]
    assert (config["vision_backbone_id"], config["image_resize_strategy"]) == ("dinov2_small", "letterbox")
    assert (config["llm_backbone_id"], config["model_id"]) == (llm, "out")


def test_a_folder_in_another_place_does_too(home: Path, tmp_path: Path) -> None:
    model, folder = trained(home)
    taken = tmp_path / "taken"
    taken.mkdir()
    for name in ("model.json", "model.safetensors"):
        (folder / name).rename(taken / name)
    words = [
        "export",
        str(taken),
        "--layout",
        "mm_projector",
        "--out",
        str(tmp_path / "out"),
        "--dtype=bfloat16",
    ]
    assert cli.main(words) == 0
    found = torch.load(tmp_path / "out" / FILE, weights_only=True)
    assert same_bytes(found, to_mm_projector(model.projector, "bfloat16"))
    assert cli.main(["export", str(taken), "--layout", "prismatic", "--out", str(tmp_path / "more")]) == 0
    assert read_json(tmp_path / "more" / "config.json")["model"]["vision_backbone_id"] == "unknown"


def test_mistakes_say_what_to_do(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = trained(home)
    out = ("--out", str(tmp_path / "out"))
    assert "needs --layout and --out" in said(capsys, FINETUNE, *out)
    assert "unknown layout 'llava'" in said(capsys, FINETUNE, "--layout", "llava", *out)
    assert "unknown number format 'fp16'" in said(
        capsys, FINETUNE, "--layout", "prismatic", *out, "--dtype", "fp16"
    )
    assert "features from disk" in said(capsys, FINETUNE, "--layout", "llava_hf", *out)
    assert "leaves no vision-language model" in said(capsys, FEATURES, "--layout", "prismatic", *out)
    assert "holds no model" in said(capsys, str(tmp_path), "--layout", "prismatic", *out)
    assert "nothing is called 'nope'" in said(capsys, "nope", "--layout", "prismatic", *out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    taken = said(capsys, FINETUNE, "--layout", "prismatic", "--out", str(tmp_path / "full"))
    assert "exists already" in taken
    card = read_json(folder / "model.json")
    write_json(folder / "model.json", {**card, "tiles": {"side": 2, "thumbnail": True}})
    assert "one square per picture" in said(capsys, FINETUNE, "--layout", "prismatic", *out)
    write_json(folder / "model.json", {key: value for key, value in card.items() if key != "llm"})
    assert "language model of the registry" in said(capsys, FINETUNE, "--layout", "prismatic", *out)
    (folder / "result.json").unlink()
    assert "is not finished" in said(capsys, FINETUNE, "--layout", "prismatic", *out)
    assert not (tmp_path / "out").exists()


def test_a_run_means_its_finetuned_model(home: Path, tmp_path: Path) -> None:
    _, folder = trained(home)
    known = {"kind": "finetune", "slug": "some-words", "dir": folder.relative_to(home).as_posix()}
    run = {
        "arm": "letterbox", "context": "default", "seed": 0, "run_id": "d" * 16,
        "steps": {"finetune": FINETUNE, "align": "e" * 16},
    }  # fmt: skip
    write_json(home / "studies" / "s" / "study.json", {"runs": [run], "steps": {FINETUNE: known}})
    words = ["export", "s/letterbox/s0", "--layout", "prismatic", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert (tmp_path / "out" / CHECKPOINT).is_file()


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "from vlmablate.cli import main; main(['export', '--help']); import sys; print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "numpy", "pandas", "hydra", "transformers", "yaml"}
    assert not heavy & set(done.stdout.splitlines()[-1].split())
    assert "llava_hf" in done.stdout


@pytest.mark.parametrize("vision", ["frozen", "full"])
def test_a_run_behind_a_reference_tower_is_a_llava_of_transformers(
    vision: str, home: Path, tmp_path: Path
) -> None:
    """From pictures through a sweep's own steps to a model of transformers that says the same of a picture."""
    from transformers import LlavaForConditionalGeneration

    torch.set_num_threads(1)
    world = World(home / "steps" / "finetune")
    run = world.plan(
        "llm=random_llama", "position=rope_1d", "stages=single", "projector=paper_gelu_mlp", "image=letterbox",
        "vision.towers=[{name: test_clip, weights: random}]", f"stages.finetune.vision={vision}",
    )  # fmt: skip
    trained_in = world.done(run, "finetune")
    steps = run.steps
    write_json(trained_in / "spec.json", {"deps": steps["finetune"].deps, "kind": "finetune"})
    if vision == "frozen":
        step(home, "features", steps["features0"].id, config=steps["features0"].config)
    out = tmp_path / "llava"
    assert cli.main(["export", str(trained_in), "--layout", "llava_hf", "--out", str(out)]) == 0

    theirs = LlavaForConditionalGeneration.from_pretrained(out).eval()
    ours = load_causal(trained_in)
    store = SceneStore(world.done(run, "scenes"), "evaluation")
    live = ours.card.get("vision") or {
        "towers": [{"tower": {"name": "test_clip"}, "weights": "random"}],
        "grid": 4,
        "image": {"resize": "letterbox", "fill": "mean"},
    }
    eyes = ours.model.vision if vision == "full" else open_vision(live)
    squares = SquarePictures(store, live["image"]["resize"], eyes.squares())
    pixels = torch.from_numpy(squares.at(0)[0].copy())[None]
    image, text = theirs.config.image_token_index, [5, 9, 30]
    sample = expand([256, IMAGE_MARK, *text], [False] * 5, ["picture"], ours.tokens)
    with torch.no_grad():
        features = eyes([pixels])
        whole = pack([sample], [[0]], ours.tokens)
        said = ours.model.logits(ours.model([pixels] if ours.model.vision is not None else features, whole))
        asked = theirs(
            input_ids=torch.tensor([[256, *[image] * ours.tokens, *text]]),
            pixel_values=eyes.towers[0].normalise(pixels),
        ).logits
    torch.testing.assert_close(said, asked[..., : said.shape[-1]], atol=1e-5, rtol=1e-5)
