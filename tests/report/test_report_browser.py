"""Pages of reports in a browser: on a screen, on a telephone, on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAM, Tab, tab
from chosen_study import space_study, tuned_study
from synthetic_study import make_study

from vlmablate.report import notebook
from vlmablate.report.build import build_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium (make browser)"),
]

PRINTABLE = 1031
"""Width in CSS pixels of A4, landscape, within the margins of the page."""
STUDIES = {"plain": make_study, "tuned": tuned_study, "space": space_study}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind, with its figures; notebooks are not run."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebook, "execute", lambda document, folder: 0.0)
        for name, make in STUDIES.items():
            home = tmp_path_factory.mktemp(name)
            folder = make(home, scenes=12, per_scene=2, seeds=(0, 1), picture=True)
            made[name] = Path(build_study(folder, home)["html"])
    return made


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("width", [1280, 400])
def test_the_body_is_no_wider_than_the_window_and_nothing_goes_wrong(
    shown: Tab, pages: dict[str, Path], name: str, width: int
) -> None:
    shown.open(pages[name], width, dark=width == 400)
    assert shown.value("document.documentElement.scrollWidth") <= width
    # Folded parts as well.
    shown.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert shown.value("document.documentElement.scrollWidth") <= width
    assert shown.trouble == []
    assert [url for url in shown.requested if not url.startswith("data:")] == [pages[name].as_uri()]


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_is_there_to_be_seen(shown: Tab, pages: dict[str, Path], name: str) -> None:
    shown.open(pages[name], 400)
    shown.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    figures = list((pages[name].parent / "figures").iterdir())
    sizes = shown.value(
        "[...document.images].map(i => [i.alt, i.complete && i.naturalWidth, i.getBoundingClientRect().height])"
    )
    assert {alt for alt, _, _ in sizes} == {path.stem.replace("_", " ") for path in figures}
    assert all(natural > 100 and height > 50 for _, natural, height in sizes)
    own = {"plain": set(), "tuned": {"tuning"}, "space": {"effects", "interactions", "importance"}}
    assert own[name] <= {alt for alt, _, _ in sizes}


@pytest.mark.parametrize("name", STUDIES)
def test_links_of_the_page_lead_to_its_sections(shown: Tab, pages: dict[str, Path], name: str) -> None:
    shown.open(pages[name], 1280)
    dead = (
        "[...document.querySelectorAll('a[href^=\"#\"]')].filter(a => !document.querySelector(a.hash)).length"
    )
    assert shown.value(dead) == 0
    assert shown.value("document.querySelectorAll('nav a').length") > 12


@pytest.mark.parametrize("name", STUDIES)
def test_on_paper_everything_is_within_the_page(shown: Tab, pages: dict[str, Path], name: str) -> None:
    shown.open(pages[name], PRINTABLE, print_view=True)
    assert shown.value("document.documentElement.scrollWidth") <= PRINTABLE
    wide = "[...document.querySelectorAll('.table')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert shown.value(wide) == 0
    assert shown.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert shown.pdf().startswith(b"%PDF-")
