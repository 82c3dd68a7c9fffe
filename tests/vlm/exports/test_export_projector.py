"""The projector file of the original LLaVA, and folders that are whole or absent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[3]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.vlm.exports.export_models import PAPER, loud, same_bytes  # noqa: E402
from vlmablate.errors import DiskFull, UserError  # noqa: E402
from vlmablate.vlm.exports.folders import new_folder  # noqa: E402
from vlmablate.vlm.exports.mm_projector import (  # noqa: E402
    FILE,
    from_mm_projector,
    read_mm_projector,
    to_mm_projector,
    write_mm_projector,
)
from vlmablate.vlm.projectors import build_projector  # noqa: E402


def projector(name: str, seed: int = 0) -> Any:
    return loud(build_projector(PAPER[name], 24, 32, 4, torch.Generator().manual_seed(0)), seed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["linear", "gelu_mlp"])
def test_the_file_is_that_of_llava_and_reads_back(name: str, dtype: str, tmp_path: Path) -> None:
    made = projector(name)
    write_mm_projector(tmp_path / "out", made, dtype)
    state = torch.load(tmp_path / "out" / FILE, weights_only=True)
    there = nn.Module()  # LLaVA's own: a Sequential, or one Linear
    there.mm_projector = (
        nn.Linear(24, 32)
        if name == "linear"
        else nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 32))
    )
    nn.ModuleDict({"model": there}).load_state_dict(state)
    features = torch.randn(2, 16, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tolerance = 1e-6 if dtype == "float32" else 5e-2
        assert float((there.mm_projector(features) - made(features)).abs().max()) <= tolerance
    again = read_mm_projector(tmp_path / "out", side=4)
    assert type(again) is type(made)
    assert same_bytes(to_mm_projector(again, dtype), state)
    other = projector(name, seed=3)
    from_mm_projector(state, other)
    assert same_bytes(to_mm_projector(other, dtype), state)
    if dtype == "float32":
        assert same_bytes(other.state_dict(), made.state_dict())


def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the layout prismatic has fused_gelu_mlp"):
        write_mm_projector(tmp_path / "out", projector("fused_gelu_mlp"))
    assert not (tmp_path / "out").exists()
    made = projector("gelu_mlp")
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    state = to_mm_projector(projector("gelu_mlp", seed=2))
    for wrong, said in (
        (
            {**state, "model.embed_tokens.weight": torch.zeros(2)},
            "1 is not expected: model.embed_tokens.weight",
        ),
        ({k: v for k, v in state.items() if "bias" not in k}, "2 is missing: model.mm_projector.0.bias"),
        ({**state, "model.mm_projector.0.weight": torch.zeros(32, 9)}, r"\[32, 9\], not \[32, 24\]"),
        (to_mm_projector(projector("linear")), "4 is missing"),
    ):
        with pytest.raises(UserError, match=said):
            from_mm_projector(wrong, made)
    assert same_bytes(before, made.state_dict())
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.bin")
    with pytest.raises(UserError, match="holds no projector"):
        read_mm_projector(tmp_path / "other.bin", side=4)
    torch.save([torch.zeros(2)], tmp_path / "other.bin")
    with pytest.raises(UserError, match="no dictionary of tensors"):
        read_mm_projector(tmp_path / "other.bin", side=4)


def test_reading_moves_no_random_numbers(tmp_path: Path) -> None:
    write_mm_projector(tmp_path / "out", projector("gelu_mlp"))
    torch.manual_seed(1)
    read_mm_projector(tmp_path / "out", side=4)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))


def test_a_kill_leaves_no_half_export(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib\n"
        "from vlmablate.vlm.exports.folders import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_bytes(b'x')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], cwd=ROOT, check=False)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".tmp-")
    with new_folder(tmp_path / "out") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_bytes(b"whole")
    assert (tmp_path / "out" / "deep" / "file").read_bytes() == b"whole"


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="nothing half-written was kept"), new_folder(tmp_path / "a" / "out"):
        raise OSError(28, "No space left on device")
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as folder:
        (folder / "file").touch()
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "empty"):
        raise AssertionError
