"""One file that holds the whole page: styles and pictures are inside, nothing is requested from anywhere."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmablate.files import write_bytes

MEDIA = {".png": "image/png", ".jpg": "image/jpeg"}


def picture(path: Path) -> dict[str, str]:
    """A picture as a data URI, with its size in pixels if it is a PNG (keeps the page from jumping)."""
    data = path.read_bytes()
    encoded = base64.b64encode(data).decode("ascii")
    facts = {"name": path.stem, "uri": f"data:{MEDIA[path.suffix]};base64,{encoded}"}
    if path.suffix == ".png":
        width, height = struct.unpack(">II", data[16:24])
        facts |= {"width": str(width), "height": str(height)}
    return facts


def render(
    values: Mapping[str, Any],
    figures: Mapping[str, list[Path]],
    templates: Path,
    template: str = "report.html.j2",
) -> str:
    """Fill `template` from the folder `templates` (its styles come from report.css there); everything is
    escaped.

    Raises jinja2.UndefinedError if the template asks for a value that is not there.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = {section: [picture(path) for path in paths] for section, paths in figures.items()}
    style = (templates / "report.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(**values, figures=pictures, style=style)


def write(text: str, path: Path) -> None:
    """Write the page whole or not at all."""
    write_bytes(path, text.encode("utf-8"))
