"""Building: nothing is done twice, nothing stale stays, and a kernel that cannot start is admitted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from synthetic_study import make_study

from vlmablate.report import build, drawing, figures, notebook
from vlmablate.report.build import OUTPUTS, build_study
from vlmablate.report.study import Study


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "execute", lambda document, folder: 0.0)


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "save_all", lambda *given: {section: [] for section in figures.SECTIONS})


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs without content."""

    def pretend(study: Study) -> dict[str, Any]:
        for name in OUTPUTS:
            (study.folder / name).touch()
        return {"verdicts": [], "missing": []}

    monkeypatch.setattr(build, "_build", pretend)


def small(home: Path, **changes: Any) -> Path:
    return make_study(home, **{"seeds": (0, 1), "scenes": 6, "per_scene": 1, **changes})


def test_outputs_are_there(built: Any) -> None:
    assert built.answer["rebuilt"]
    assert all((built.folder / name).stat().st_size for name in OUTPUTS)
    names = {path.name for path in (built.folder / "figures").iterdir()}
    once = [
        "forest",
        "seeds",
        "benchmarks",
        "radar",
        "improvement",
        "components",
        "calibration",
        "power",
        "curves",
    ]
    assert names == {*(f"{name}.png" for name in once), "pairs_design.png", "pairs_items.png", "examples.jpg"}
    assert built.answer["html"] == built.folder / "report.html"


def test_an_unchanged_study_is_not_built_again_and_costs_no_heavy_import(built: Any) -> None:
    code = (
        "import sys; from pathlib import Path; from vlmablate.report.build import build_study; "
        f"answer = build_study(Path({str(built.folder)!r}), Path({str(built.home)!r})); "
        "assert not answer['rebuilt'] and len(answer['verdicts']) == 2; "
        "assert not {'numpy', 'pandas', 'matplotlib', 'pyarrow', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("pretended")
def test_what_makes_a_report_be_built_again(tmp_path: Path) -> None:
    folder = small(tmp_path)
    assert build_study(folder, tmp_path)["rebuilt"]
    assert not build_study(folder, tmp_path)["rebuilt"]
    assert build_study(folder, tmp_path, force=True)["rebuilt"]
    (folder / "report.html").unlink()
    assert build_study(folder, tmp_path)["rebuilt"]
    (folder / "report.json").write_text("{ torn")
    assert build_study(folder, tmp_path)["rebuilt"]
    study = (folder / "study.json").read_text()
    (folder / "study.json").write_text(study.replace('"laptop"', '"desktop"'))
    assert build_study(folder, tmp_path)["rebuilt"]
    next((tmp_path / "steps" / "evaluate").glob("*/result.json")).unlink()
    assert build_study(folder, tmp_path)["rebuilt"]


@pytest.mark.usefixtures("pretended")
def test_neither_equal_sizes_nor_old_times_hide_a_change(tmp_path: Path) -> None:
    folder = small(tmp_path)
    assert build_study(folder, tmp_path)["rebuilt"]
    result = next((tmp_path / "steps" / "evaluate").glob("*/result.json"))
    then, content = result.stat(), result.read_text()
    changed = result.with_name("changed")
    changed.write_text(content.replace('"wall_s": 8', '"wall_s": 9', 1))
    assert changed.stat().st_size == then.st_size
    assert changed.read_text() != content
    os.utime(changed, ns=(then.st_atime_ns, then.st_mtime_ns))
    os.replace(changed, result)
    assert build_study(folder, tmp_path)["rebuilt"]


@pytest.mark.usefixtures("pretended")
def test_files_that_were_only_copied_make_no_new_report(tmp_path: Path) -> None:
    folder = small(tmp_path / "a")
    assert build_study(folder, tmp_path / "a")["rebuilt"]
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert not build_study(tmp_path / "b" / folder.relative_to(tmp_path / "a"), tmp_path / "b")["rebuilt"]


@pytest.mark.usefixtures("no_kernel")
def test_equal_studies_give_equal_tables_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "DPI", 40)
    contents = []
    for name in ("a", "b"):
        folder = small(tmp_path / name)
        (folder / "figures").mkdir()
        (folder / "figures" / "forest_old.png").write_bytes(b"left by an earlier report")
        build_study(folder, tmp_path / name)
        paths = sorted([*folder.glob("*.parquet"), *folder.glob("*.csv"), *folder.glob("figures/*")])
        contents.append({path.name: path.read_bytes() for path in paths})
    assert contents[0] == contents[1]
    assert "forest_old.png" not in contents[0]


@pytest.mark.usefixtures("no_figures")
def test_a_kernel_that_cannot_start_is_admitted_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(document: Any, folder: Path) -> float:
        raise notebook.KernelError("the notebook kernel did not start: no sockets")

    monkeypatch.setattr(notebook, "execute", refuse)
    answer = build_study(small(tmp_path), tmp_path)
    assert "was not executed: the notebook kernel did not start: no sockets" in answer["html"].read_text()
    assert all(not cell.get("outputs") for cell in nbformat.read(answer["notebook"], as_version=4).cells)


@pytest.mark.usefixtures("no_kernel", "no_figures")
def test_mixed_conditions_are_a_caveat(tmp_path: Path) -> None:
    folder = small(tmp_path)
    path = sorted((tmp_path / "steps" / "finetune").glob("*/result.json"))[0]
    path.write_text(path.read_text().replace('"float32"', '"bfloat16"').replace('"laptop"', '"server"'))
    page = build_study(folder, tmp_path)["html"].read_text()
    assert "different numeric precisions (bfloat16 and float32)" in page
    assert "different hosts (laptop and server)" in page


def test_percent_format_becomes_cells() -> None:
    source = "# %% [markdown]\n# # {title}\n#\n# text\n\n# %%\nx = {1: 2}\n\n# %%\nprint(x)\n"
    document = notebook.from_percent(source, {"title": "A question", "x": "unused"})
    assert [cell.cell_type for cell in document.cells] == ["markdown", "code", "code"]
    assert document.cells[0].source == "# A question\n\ntext"
    assert document.cells[1].source == "x = {1: 2}"
    nbformat.validate(document)
