"""The page over all axes in a browser: on a screen, on a telephone, on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PROGRAM, Tab, tab
from study_site import INDEX, add_study, make_site, put_report

from vlmablate.report.study_page import write_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium (make browser)"),
]

TOO_WIDE = (
    """[...document.querySelectorAll('.table')].filter(e => e.scrollWidth > e.clientWidth + 1).length"""
)
MORE = ("vqav2", "gqa", "vizwiz", "textvqa_with_ocr", "refcoco_plus", "ocid_ref", "tallyqa", "pope")
PRINTABLE = 1031
"""Width in CSS pixels of A4, landscape, within the margins of the page."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(INDEX, make_site(tmp_path_factory.mktemp("site")))


@pytest.fixture(scope="module")
def wide(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with thirteen benchmarks."""
    home = tmp_path_factory.mktemp("wide")
    folder = add_study(home, "demo-image_resize")
    lines = (path.parents[1] / "demo-image_resize" / "significance.csv").read_text().splitlines()
    more = [
        line.replace(",counting,", f",{name},") for name in MORE for line in lines if ",counting," in line
    ]
    put_report(folder, ["Unresolved: a.", "Unresolved: b."], "\n".join([*lines, *more]))
    return write_page(INDEX, home)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_body_is_no_wider_than_the_window_and_nothing_goes_wrong(
    shown: Tab, path: Path, width: int, dark: bool
) -> None:
    shown.open(path, width, dark=dark)
    assert shown.value("document.documentElement.scrollWidth") <= width
    assert shown.value("document.querySelectorAll('td.cell').length") > 12
    assert shown.trouble == []
    assert [url for url in shown.requested if not url.startswith("data:")] == [path.as_uri()]


def test_on_a_telephone_the_grid_is_folded(shown: Tab, path: Path) -> None:
    shown.open(path, 400)
    assert shown.value("getComputedStyle(document.querySelector('.grid thead')).display") == "none"
    assert shown.value("document.querySelector('.grid').scrollWidth") <= 400
    label = "getComputedStyle(document.querySelector('.grid td.cell.suite'), '::before').content"
    assert "Suite" in shown.value(label)


def test_on_paper_everything_is_within_the_page(shown: Tab, path: Path) -> None:
    shown.open(path, PRINTABLE, print_view=True)
    assert shown.value("document.documentElement.scrollWidth") <= PRINTABLE
    assert shown.value(TOO_WIDE) == 0
    assert shown.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert shown.pdf().startswith(b"%PDF-")


def test_thirteen_benchmarks_scroll_on_a_screen_and_fit_on_paper(shown: Tab, wide: Path) -> None:
    shown.open(wide, 1280)
    assert shown.value("document.querySelectorAll('.grid thead th').length") == 2 + 13
    assert shown.value("document.documentElement.scrollWidth") <= 1280
    assert shown.value("getComputedStyle(document.querySelector('.grid')).overflowX") == "auto"
    shown.open(wide, PRINTABLE, print_view=True)
    assert shown.value("document.documentElement.scrollWidth") <= PRINTABLE
    assert shown.value(TOO_WIDE) == 0


def test_every_link_opens(shown: Tab, path: Path) -> None:
    shown.open(path, 1280)
    links = shown.value(
        "[...document.querySelectorAll('a')].map(a => a.href).filter(h => h.endsWith('report.html'))"
    )
    assert len(set(links)) == 2
    for link in set(links):
        shown.open(Path(link.removeprefix("file://")), 1280)
        assert shown.value("document.querySelectorAll('h1').length") == 1
        assert shown.trouble == []
