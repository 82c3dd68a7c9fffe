"""execution.compile with the real compiler: the same training, faster where there is much to compute."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.training import tiny

COMPILERS = ("c++", "g++", "clang++")


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_compiled_layers_train_as_plain_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recompute: str
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = tiny.run(tmp_path / "plain", steps=4)
    execution = {"compile": True, "activation_checkpointing": recompute}
    compiled = tiny.run(tmp_path / "compiled", steps=4, execution=execution)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert compiled["final_loss"] == pytest.approx(plain["final_loss"], rel=1e-4)
    before, after = (torch.load(tmp_path / name / "final.pt") for name in ("plain", "compiled"))
    assert before.keys() == after.keys()  # the names of a model do not follow how it was computed
