"""Studies that are reported once, for all tests that only read the outcome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from IPython import display
from matplotlib.figure import Figure
from PIL import Image
from reported import SHAPES, Built
from synthetic_study import make_study

from vlmablate.paths import resource
from vlmablate.report import figures, notebook
from vlmablate.report.build import build_study


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Three arms, three seeds, one run without scores; the only report whose notebook runs in a kernel."""
    home = tmp_path_factory.mktemp("home")
    folder = make_study(home, unfinished=[("resize_crop", 2)])
    return Built(home, folder, build_study(folder, home))


def unrendered(figure: Figure, path: Path) -> None:
    """In place of drawing.save: the figure was put together; rendering is the slow part and is tested elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("1", (1, 1)).save(path)


@pytest.fixture(scope="session")
def shape(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """The report of a study of another shape, made when it is first asked for; no notebook is run."""
    made: dict[str, Built] = {}

    def get(name: str) -> Built:
        if name not in made:
            home = tmp_path_factory.mktemp("shape")
            folder = make_study(home, **{"seeds": (0, 1), "scenes": 12, "per_scene": 2, **SHAPES[name]})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(notebook, "execute", lambda document, folder: 0.0)
                patch.setattr(figures, "save", unrendered)
                made[name] = Built(home, folder, build_study(folder, home))
        return made[name]

    return get


@pytest.fixture
def run_cells(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """Run the notebook's code in this process, as the kernel would, and return what it prints."""
    source = (resource("analysis") / "report.py").read_text()

    def run(folder: Path) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(display, "display", lambda *shown: None)
        exec(compile(source, "report.py", "exec"), {})
        return capsys.readouterr().out

    return run
