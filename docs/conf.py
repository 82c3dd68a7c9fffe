"""The guide as a site, for Sphinx: `make docs` writes it to build/docs, without a network.

The source folder is the checkout itself, so pages link to each other and to the README files in the one way that also
works where the files are read as they are. A link or an anchor that leads nowhere ends the build.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "vlmablate"
author = "the vlmablate authors"
extensions = ["myst_parser"]
root_doc = "docs/index"
pages = ("tutorial", "ways-to-ask", "statistics", "published-data", "slurm", "tracking", "faq")
beside = ("README", "CONTRIBUTING", "slurm/README", "conf/paper/README")
include_patterns = [*(f"docs/{page}.md" for page in ("index", *pages)), *(f"{name}.md" for name in beside)]
# Folders that need not be looked through.
exclude_patterns = [".*", "build", "dist", "outputs", "tests", "vlmablate", "wandb"]

myst_heading_anchors = 4
smartquotes = False

html_theme = "furo"
html_title = "vlmablate"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False


def setup(app: Sphinx) -> None:
    """What a plain Markdown page cannot say: the order of the pages, and where the site begins."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _add_entrance)


def _add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    if page == root_doc:
        listed = [f"/docs/{name}" for name in pages] + [f"/{name}" for name in beside]
        source[0] += "\n".join(["", "```{toctree}", ":hidden:", "", *listed, "```", ""])


def _add_entrance(app: Sphinx, error: Exception | None) -> None:
    """The site's own index.html, which leads to the index of the guide."""
    if error is None and app.builder.format == "html":
        onward = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        entrance = f"<!doctype html>{onward}<title>{project}</title>\n"
        (Path(app.outdir) / "index.html").write_text(entrance, encoding="utf-8")
