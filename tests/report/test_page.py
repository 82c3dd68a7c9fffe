"""The page, the notebook and the tables tell the same numbers."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from synthetic_study import LABELS, make_study

from vlmablate.report import formatting as fmt


class Reader(HTMLParser):
    """Collects cells marked with data-row, the addresses the page refers to, headings and text."""

    def __init__(self) -> None:
        super().__init__()
        self.cells: list[tuple[str, str, str]] = []
        self.addresses: list[str] = []
        self.anchors: list[str] = []
        self.text = ""
        self._open: tuple[str, str, str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "data-row" in values:
            self._open = (str(values["data-row"]), str(values["data-column"]), "")
        self.addresses += [
            str(values[name]) for name in ("src", "href", "srcset", "action") if name in values
        ]
        if tag == "h2":
            self.anchors.append(str(values.get("id")))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open:
            self._open = (*self._open[:2], self._open[2] + data)

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag in ("td", "span"):
            self.cells.append((self._open[0], self._open[1], self._open[2].strip()))
            self._open = None


@pytest.fixture(scope="session")
def reader(built: Any) -> Reader:
    reader = Reader()
    reader.feed(built.page)
    return reader


def rows_by_key(table: pd.DataFrame) -> dict[str, Any]:
    names = ["level", "arm", "context", "benchmark", "family"]
    return {"|".join(str(row[name]) for name in names): row for _, row in table.iterrows()}


def shown(row: Any, column: str) -> str:
    if column == "interval":
        return fmt.interval(row["ci_low"], row["ci_high"])
    if column == "delta":
        return fmt.points(row["delta"], signed=True)
    return fmt.p_value(row[column])


def test_every_marked_number_is_the_one_in_the_table(built: Any, reader: Reader) -> None:
    rows = rows_by_key(built.table()) | rows_by_key(built.table("sensitivity"))
    assert {column for _, column, _ in reader.cells} == {"delta", "interval", "p", "p_adjusted"}
    for key, column, text in reader.cells:
        assert text == shown(rows[key], column), (key, column)
    keys = {key for key, _, _ in reader.cells}
    assert keys == set(rows), "a test of the tables is not on the page"


def test_scores_of_every_arm_and_seed_are_shown(built: Any, reader: Reader) -> None:
    results = pd.read_parquet(built.folder / "results.parquet")
    means = 100 * results.groupby(["arm", "seed", "benchmark"])["score"].mean()
    for value in means:
        assert fmt.points(value) in reader.text
    for value in means.groupby(["arm", "benchmark"]).mean():
        assert fmt.points(value) in reader.text


def test_subsets_of_a_benchmark_are_shown(built: Any, reader: Reader) -> None:
    results = pd.read_parquet(built.folder / "results.parquet")
    part = results[(results["benchmark"] == "counting") & (results["split"] == "kind_0")]
    means = 100 * part.groupby("arm")["score"].mean()
    cells = ["counting: kind 0", "60", *(fmt.points(means[arm]) for arm in LABELS)]
    assert "".join(cells) in re.sub(r"\n", "", reader.text)


def test_the_page_is_in_order_and_stands_alone(built: Any, reader: Reader) -> None:
    order = "forest benchmarks seeds arms examples training cost caveats paper methods provenance commands"
    assert reader.anchors == order.split()
    assert all(address.startswith(("data:", "#")) for address in reader.addresses)
    assert "<script" not in built.page
    assert not re.search(r"url\(|@import|https?://", built.page)
    assert reader.text.index(built.answer["verdicts"][0].replace("`", "")) < reader.text.index(
        "Differences to letterbox"
    )


def test_what_is_missing_or_silent_is_said(built: Any, reader: Reader) -> None:
    assert "1 run is missing" in reader.text
    (missing,) = built.answer["missing"]
    assert f"resize_crop / default / seed 2 (evaluate step {missing['run_id']} has no result)" in reader.text
    assert "No signal at this scale: text reading" in reader.text
    assert "a distribution-free permutation of seeds could not get below p = 0.33" in reader.text
    for note in (
        "All seeds start from the same pretrained language model",
        "cut-outs that were also seen in training",
    ):
        assert note in reader.text
    assert "Scenes reach aspect ratios of 3:1" in reader.text  # the axis's own limit
    assert "reports p = 0.0176 for naive resize vs letterbox" in reader.text


def test_provenance_commands_and_cost(built: Any, reader: Reader) -> None:
    assert "python -m vlmablate.sweep axis=image_resize scale=tiny seeds=3" in reader.text
    assert "vlmablate report resize" in reader.text
    for text in ("0" * 40, "ab" * 32, "git.sha", "results.parquet"):
        assert text in reader.text
    assert "14 min" in reader.text or "saved" in reader.text
    assert "finetune96 min 00 s" in re.sub(r"\s*\n\s*", "", reader.text)  # kind, steps, wall time


def test_verdicts_are_the_sentences_on_the_page_and_in_the_notebook(built: Any, reader: Reader) -> None:
    notebook = nbformat.read(built.answer["notebook"], as_version=4)
    for sentence in built.answer["verdicts"]:
        assert sentence.replace("`", "") in reader.text
        assert sentence in notebook.cells[0].source


def outputs(notebook: Any) -> str:
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts.append(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


def test_the_notebook_ran_and_derived_the_same_numbers(built: Any) -> None:
    notebook = nbformat.read(built.answer["notebook"], as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    text = outputs(notebook)
    assert "2 design-level contrasts agree with significance.csv" in text
    assert "10 items-level contrasts agree with significance.csv" in text
    table = built.table()
    primary = table[table["family"] == "primary"]
    assert len(primary) == 2
    for row in primary.itertuples():
        line = re.search(rf"^\d+ +{row.arm} +default +(\S+) +(\S+) +(\S+) +(\S+) +(\S+)", text, re.MULTILINE)
        assert line is not None
        numbers = [float(value) for value in line.groups()]
        assert numbers[:3] == pytest.approx([row.delta, row.ci_low, row.ci_high], abs=6e-4)
        assert numbers[3:] == pytest.approx([row.p, row.p_adjusted], rel=0.06)
    assert "note" not in [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "stderr" not in [output.get("name") for cell in code for output in cell["outputs"]]


def run_cells(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notebook's code in this process: what the kernel would run, without starting one."""
    monkeypatch.chdir(folder)
    exec(compile(source, "report.py", "exec"), {})


def test_the_notebook_stops_if_the_table_was_altered(
    built: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlmablate.paths import resource

    source = (resource("analysis") / "report.py").read_text()
    for name in ("study.json", "benchmarks.json", "results.parquet"):
        (tmp_path / name).write_bytes((built.folder / name).read_bytes())
    table = built.table()
    table.loc[table["family"] == "primary", "delta"] += 0.1
    table.to_csv(tmp_path / "significance.csv", index=False)
    with pytest.raises(AssertionError):
        run_cells(source, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "shape",
    [
        {"contexts": ("clip", "siglip")},
        {"seeds": (0,)},
        {"analysis": {"signal_margin": 60.0, "margin": 1.0}},
        {"unfinished": [("letterbox", 0), ("letterbox", 1)], "seeds": (0, 1)},
    ],
    ids=["contexts", "one seed", "no signal", "no baseline"],
)
def test_other_shapes_of_studies_are_reported(
    shape: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlmablate.paths import resource
    from vlmablate.report import drawing, notebook
    from vlmablate.report.build import build_study

    monkeypatch.setattr(notebook, "execute", lambda document, folder: 0.0)
    monkeypatch.setattr(drawing, "DPI", 40)
    folder = make_study(tmp_path, **{"seeds": (0, 1), "scenes": 10, "per_scene": 2, **shape})
    answer = build_study(folder, tmp_path)
    page = answer["html"].read_text(encoding="utf-8")
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    reader = Reader()
    reader.feed(page)
    rows = rows_by_key(pd.read_csv(folder / "significance.csv")) | rows_by_key(
        pd.read_csv(folder / "sensitivity.csv")
    )
    for key, column, text in reader.cells:
        assert text == shown(rows[key], column)
    run_cells((resource("analysis") / "report.py").read_text(), folder, monkeypatch)
    if shape.get("seeds") == (0,):
        assert all("tipping seed SD" in sentence for sentence in answer["verdicts"])
    if "contexts" in shape:
        assert json.loads((folder / "study.json").read_text())["contexts"] == ["clip", "siglip"]
        assert all("on average over 2 contexts" in sentence for sentence in answer["verdicts"])
    if "analysis" in shape or "unfinished" in shape:
        assert answer["verdicts"][0].startswith("No verdict")
