"""Training curves, and the contact sheet of examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vlmablate.files import write_with
from vlmablate.report.drawing import legend_above, new_figure, shorten, style
from vlmablate.report.study import STEP_ORDER, Study
from vlmablate.stats.declaration import Design


def training_curves(study: Study, design: Design) -> Figure | None:
    """Loss of every run (and of shared training steps), one panel per step kind; None without curves."""
    curves: dict[str, list[tuple[str, str, str]]] = {}
    for run in study.runs:
        for step_id in run.steps.values():
            kind = study.kind(step_id)
            if kind in ("pretrain", "posttrain", "align", "finetune"):
                curves.setdefault(kind, []).append((step_id, run.arm, run.context))
    looks, lines = style(design), ("solid", "dashed", "dotted", "dashdot")
    drawn = {kind: [entry for entry in entries if study.curve(entry[0])] for kind, entries in curves.items()}
    kinds = [kind for kind in STEP_ORDER if drawn.get(kind)]
    if not kinds:
        return None
    figure = new_figure(2.6)
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    labels: dict[str, Any] = {}
    for axis, kind in zip(axes, kinds, strict=True):
        users: dict[str, set[str]] = {}
        for step_id, arm, _ in drawn[kind]:
            users.setdefault(step_id, set()).add(arm)
        seen: set[str] = set()
        for step_id, arm, context in drawn[kind]:
            if step_id in seen:
                continue
            seen.add(step_id)
            curve = study.curve(step_id)
            shared = len(users[step_id]) > 1
            colour = "black" if shared else looks[arm][0]
            (line,) = axis.plot(
                [point["step"] for point in curve],
                [point["loss"] for point in curve],
                color=colour,
                linewidth=0.9,
                alpha=0.8,
                linestyle=lines[study.contexts.index(context) % len(lines)],
            )
            labels.setdefault("shared by several arms" if shared else arm, line)
        axis.set_title(kind, fontsize=9, loc="left")
        axis.set_xlabel("step")
    axes[0].set_ylabel("training loss")
    legend_above(figure, {shorten(name): line for name, line in labels.items()}, 4)
    return figure


def contact_sheet(study: Study, path: Path, widest: int = 1800) -> bool:
    """Copy the scenes step's contact sheet, no wider than `widest` pixels; False if there is none."""
    from PIL import Image

    for step_id, step in study.facts["steps"].items():
        source = study.directory(step_id) / "contact_sheet.png"
        if step["kind"] != "scenes" or not source.exists():
            continue
        with Image.open(source) as opened:
            picture = opened.convert("RGB")
        if picture.width > widest:
            picture = picture.resize((widest, round(picture.height * widest / picture.width)))
        with write_with(path) as temporary:
            picture.save(temporary, format="JPEG", quality=88)
        return True
    return False
