"""``vlmablate cost``: what training the paper's models costs, from their sizes alone: operations, GPU-hours, memory.

This module reads the command line and prints; the arithmetic is :mod:`vlmablate.design.transformer_costs`, the sizes of
a configuration are read by :mod:`vlmablate.vlm.sizes`. No torch, nothing is downloaded, nothing is written but what
Hydra composed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from vlmablate.arguments import key_values, number, whole_number
from vlmablate.design.accelerators import Accelerator, accelerator
from vlmablate.errors import UserError

_OWN = ("study", "paper", "gpu", "gpus", "mfu", "seeds", "rows", "caption", "picture_text", "text", "scale")
PRESETS = "paper"

HELP = """\
What training models costs, from their sizes alone: floating-point operations, GPU-hours, memory.

usage: vlmablate cost study=NAME|paper=MODEL[,MODEL...] [gpu=a100-80gb] [gpus=8] [mfu=0.4] [seeds=1] ...

  study=prismatic     every model that a declared study names as presets, and what each published contrast costs
  paper=one-stage+7b  models of the paper (conf/paper); a wrong name lists them
  gpu=a100-80gb       the accelerator; a wrong name lists those there are
  gpus=8              how many train one model together
  mfu=0.4             share of the accelerator's bfloat16 peak that training reaches; 0.3 to 0.5 is usual; it counts
                      real tokens, so a trainer of whose tokens half are padding reaches half of it
  seeds=1             trainings of every model
  rows=16             samples in one forward of one GPU, for the memory
  picture_text=253    text tokens beside a picture, and
  caption=30          those of a caption, which the alignment stage learns, and
  text=1000           those of a sample without a picture: means that are assumed, not measured
  scale=7b            the scale under the models, for what they leave open
  GROUP.KEY=VALUE     changes the configuration of every model, as in a sweep

examples:
  vlmablate cost study=prismatic
  vlmablate cost paper=one-stage+7b,one-stage+13b gpu=h100 gpus=16 mfu=0.45
"""


@dataclass(frozen=True)
class Terms:
    """On what a price rests."""

    gpu: Accelerator
    gpus: int
    mfu: float
    seeds: int
    rows: int
    caption: float
    picture_text: float
    text: float


@dataclass(frozen=True)
class Price:
    """One model: weights, visual tokens, operations of each stage, and bytes of memory of a rank."""

    model: str
    parameters: int
    image_tokens: int
    stages: dict[str, float]
    memory: float

    @property
    def operations(self) -> float:
        """Of all stages, of one seed."""
        return sum(self.stages.values())


def run(argv: list[str]) -> int:
    """The cost verb; returns the exit code. Raises UserError for mistakes."""
    if any(word in ("-h", "--help", "help") for word in argv):
        print(HELP, end="")
        return 0
    own = [word for word in argv if word.partition("=")[0] in _OWN]
    overrides = [word for word in argv if word.partition("=")[0] not in _OWN]
    given, _ = key_values(own, _OWN)
    if ("study" in given) == ("paper" in given):
        raise UserError("name a study or models of the paper: study=prismatic, or paper=one-stage+7b")
    terms = Terms(
        gpu=accelerator(given.get("gpu", "a100-80gb")),
        gpus=whole_number("gpus", given.get("gpus", "8"), 1),
        mfu=_share("mfu", given.get("mfu", "0.4")),
        seeds=whole_number("seeds", given.get("seeds", "1"), 1),
        rows=whole_number("rows", given.get("rows", "16"), 1),
        caption=_positive("caption", given.get("caption", "30")),
        picture_text=_positive("picture_text", given.get("picture_text", "253")),
        text=_positive("text", given.get("text", "1000")),
    )
    contrasts: dict[str, list[str]] = {}
    if "study" in given:
        from vlmablate.design.declarations import load_declaration

        declared = load_declaration(given["study"])
        if not declared.presets:
            raise UserError(f"the study {declared.name} names no presets of conf/{PRESETS} to price")
        names = list(declared.presets)
        contrasts = published_contrasts(declared.contrasts)
    else:
        names = given["paper"].split(",")
    prices = {price.model: price for price in price_all(names, given.get("scale", "7b"), overrides, terms)}
    for line in lines(list(prices.values()), contrasts, terms):
        print(line)
    return 0


def _share(key: str, text: str) -> float:
    value = number(key, text)
    if not 0 < value <= 1:
        raise UserError(f"{key} is a share above 0 and at most 1, got {text}")
    return value


def _positive(key: str, text: str) -> float:
    value = number(key, text)
    if value <= 0:
        raise UserError(f"{key} must be above 0, got {text}")
    return value


def price_all(names: Sequence[str], scale: str, overrides: Sequence[str], terms: Terms) -> Iterator[Price]:
    """The price of every preset, in order. Raises UserError for unknown presets and overrides."""
    from vlmablate.design.compose import composer
    from vlmablate.design.transformer_costs import memory
    from vlmablate.orchestration.compositions import Compositions
    from vlmablate.paths import home
    from vlmablate.vlm.sizes import model_of, stages_of

    known = Compositions(None, home())
    with composer(None, known) as compose:
        for name in names:
            config = compose.compose([f"scale={scale}", f"{PRESETS}={name}", *overrides])
            model = model_of(config)
            stages = stages_of(config, terms.caption, terms.picture_text, terms.text)
            yield Price(
                model=name,
                parameters=model.parameters,
                image_tokens=model.image_tokens,
                stages={stage: model.training(facts) for stage, facts in stages.items()},
                memory=max(memory(model, facts, terms.gpus, terms.rows, True) for facts in stages.values()),
            )
    known.save()


def published_contrasts(names: Collection[str]) -> dict[str, list[str]]:
    """Label of each published comparison with its printed p -> the models that it compares."""
    import csv

    from vlmablate.paths import resource

    with open(resource("analysis") / "reference" / "comparisons.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["comparison"] in names]
    return {
        f"{row['label']} (section {row['section']}, p = {row['printed']})": [
            *row["base_models"].split(";"),
            *row["alternate_models"].split(";"),
        ]
        for row in rows
    }


def hours(operations: float, terms: Terms) -> float:
    """GPU-hours of so many operations."""
    return operations / (terms.gpu.peak * terms.mfu) / 3600


def lines(prices: Sequence[Price], contrasts: dict[str, list[str]], terms: Terms) -> list[str]:
    """The table of models, the contrasts, the totals, and what all of it rests on."""
    head = ("model", "weights", "visual tokens", "EFLOP", "GPU-hours", f"hours on {terms.gpus}", "GB a GPU")
    rows = [head]
    for price in prices:
        gpu_hours = hours(price.operations, terms)
        fits = "" if price.memory < terms.gpu.memory else " (too much)"
        rows.append(
            (
                price.model,
                f"{price.parameters / 1e9:.2f} B",
                str(price.image_tokens),
                f"{price.operations / 1e18:.1f}",
                f"{gpu_hours:.0f}",
                f"{gpu_hours / terms.gpus:.1f}",
                f"{price.memory / 1e9:.0f}{fits}",
            )
        )
    found = _table(rows)
    of = {price.model: price for price in prices}
    if contrasts:
        found.append("")
        table = [("published contrast", "models", "GPU-hours")]
        for label, models in contrasts.items():
            unique = dict.fromkeys(models)
            spent = sum(hours(of[model].operations, terms) for model in unique) * terms.seeds
            table.append((label, str(len(unique)), f"{spent:.0f}"))
        found += _table(table)
    total = sum(price.operations for price in prices) * terms.seeds
    each = f", {terms.seeds} seeds each" if terms.seeds > 1 else ""
    found += [
        "",
        f"all {len(prices)} models{each}: {total / 1e18:,.0f} EFLOP, {hours(total, terms):,.0f} GPU-hours on "
        f"{terms.gpu.name} at {terms.mfu:.0%} of its bfloat16 peak ({terms.gpu.peak / 1e12:.0f} TFLOP/s)",
        f"assumed: {terms.picture_text:g} text tokens beside a picture, {terms.caption:g} in a caption, {terms.text:g} "
        f"without a picture, nothing padded; {terms.rows} samples in a forward for the memory, which is an estimate",
    ]
    return found


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
