"""Links between the pages of the guide lead somewhere, and the site can be built from them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.guide import GUIDE, PAGES, anchors, links  # noqa: E402


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_their_anchors_are_there(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.relative_to(ROOT)} links to {target}"
        assert found.is_relative_to(ROOT), f"{page.relative_to(ROOT)} links out of the checkout: {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.relative_to(ROOT)} links to {target}"


def test_every_page_of_the_guide_is_reached_from_its_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
    assert set(GUIDE) - {index} <= reached


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_nobody_for_anything(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", ".", str(tmp_path))
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    for page in PAGES:
        html = tmp_path / page.relative_to(ROOT).with_suffix(".html")
        loaded = re.findall(
            r'<(?:script|img|link)[^>]*\b(?:src|href)="(https?:[^"]*)"', html.read_text("utf-8")
        )
        assert not loaded, html
    assert "docs/index.html" in (tmp_path / "index.html").read_text("utf-8")
