"""The page over all axes of a study: it tells what the folders hold, and says so where they hold nothing."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from study_site import INDEX, add_study, make_site, put_report

from vlmablate import cli, report_verb, sweep
from vlmablate.design.catalogue import load_axis
from vlmablate.design.declarations import load_declaration
from vlmablate.errors import UserError
from vlmablate.report import formatting as fmt
from vlmablate.report import study_page_facts as facts
from vlmablate.report.study_page import page, write_page
from vlmablate.report.study_page_cost import run_price, shared
from vlmablate.report.study_page_declared import index_of_sweep
from vlmablate.report.study_page_paper import beside
from vlmablate.stats import families, units


class Page(HTMLParser):
    """Text, addresses and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.addresses, self.anchors = "", list[str](), list[str]()
        self._silent = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._silent = tag == "style"
        self.anchors += [str(values["id"])] if "id" in values else []
        self.addresses += [
            str(values[name]) for name in ("href", "src", "srcset", "action") if name in values
        ]

    def handle_data(self, data: str) -> None:
        self.text += "" if self._silent else data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def written(site: Path) -> tuple[Path, Page]:
    path = write_page(INDEX, site)
    return path, Page(path.read_text(encoding="utf-8"))


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(written: tuple[Path, Page]) -> None:
    path, shown = written
    assert any(address.endswith("report.html") for address in shown.addresses)
    for address in shown.addresses:
        if address.startswith("#"):
            assert address[1:] in shown.anchors
        elif address != "data:,":
            assert not address.startswith(("/", "http", "file"))
            assert (path.parent / unquote(address)).exists(), address
    assert len(shown.anchors) == len(set(shown.anchors))
    assert "url(" not in path.read_text()
    assert "<script" not in path.read_text()


def test_the_grid_is_the_table_of_tests(site: Path) -> None:
    shown = page(INDEX, site)
    axis = shown["axes"][0]
    with open(site / "studies/demo-image_resize/significance.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["level"] == "design"]
    benchmarks = ["suite", *shown["benchmarks"]]
    for line in axis["lines"]:
        for benchmark, cell in zip(benchmarks, [line["suite"], *line["cells"]], strict=True):
            row = next(r for r in rows if (r["arm"], fmt.title(r["benchmark"])) == (line["arm"], benchmark))
            silent = families.is_silent(row["family"])
            assert cell["verdict"] == ("no signal" if silent else row["verdict"])
            assert float(cell["delta"].replace(fmt.MINUS, "-")) == pytest.approx(
                float(row["delta"]), abs=0.051
            )
            assert cell["verdict"] in cell["class"].replace("-", " ")
    assert len(axis["lines"]) == 2
    assert {cell["verdict"] for line in axis["lines"] for cell in line["cells"]} >= {"no signal"}


def test_verdicts_are_told_in_words_and_counted(site: Path, written: tuple[Path, Page]) -> None:
    verdicts = json.loads((site / "studies/demo-image_resize/report.json").read_text())["verdicts"]
    text = " ".join(written[1].text.split())
    assert all(sentence.replace("`", "") in text for sentence in verdicts)
    assert sum(count for _, count in page(INDEX, site)["tally"]) == 3  # two arms of one axis, one of another


def test_a_mean_over_contexts_is_called_so(site: Path) -> None:
    line = page(INDEX, site)["axes"][1]["lines"]
    assert [entry["where"] for entry in line] == ["mean over 2 contexts"]


def test_what_is_not_computed_is_shown_with_its_command(site: Path, written: tuple[Path, Page]) -> None:
    shown = page(INDEX, site)
    states = {axis["name"]: axis["state"] for axis in shown["axes"]}
    assert states == {
        "image_resize": "reported",
        "stages": "reported",
        "fusion": "unfinished",
        "projector": "not computed",
    }
    opened = {entry["axis"]: entry for entry in shown["open"]}
    assert opened["projector"]["command"] == INDEX.axes[3].command
    assert opened["projector"]["takes"] == "24 runs"
    assert "if its runs take as long" in opened["projector"]["price"]
    assert opened["fusion"]["takes"] == "1 run"
    assert INDEX.axes[3].command in written[1].text


def test_without_any_result_there_is_a_page_too(tmp_path: Path) -> None:
    shown = page(INDEX, tmp_path)
    assert shown["states"] == {"not computed": 4}
    assert shown["runs"] == sum(axis.runs for axis in INDEX.axes)
    assert all(entry["price"] == "" for entry in shown["open"])
    assert "Nothing is computed yet" in write_page(INDEX, tmp_path).read_text()


def test_an_unresolved_contrast_names_command_runs_and_price(site: Path) -> None:
    study = facts.read_axis(INDEX.axes[0], site).study
    assert study is not None
    entry = next(e for e in page(INDEX, site)["open"] if e["axis"] == "image_resize")
    seeds = int(entry["command"].rpartition("seeds=")[2].split()[0])
    more = (seeds - 2) * 3  # two seeds of three arms are there
    price = run_price(study)
    assert price is not None
    assert [what.partition(":")[0] for what in entry["what"]] == [
        "resize_naive against letterbox",
        "resize_crop against letterbox",
    ]
    assert entry["takes"] == f"2 → {seeds} seeds per arm, {more} more runs"
    assert fmt.duration(price.of(more)) in entry["price"]


def test_where_no_number_of_seeds_helps_none_is_invented(tmp_path: Path, site: Path) -> None:
    folder = add_study(tmp_path, "demo-image_resize")
    table = (site / "studies/demo-image_resize/significance.csv").read_text()
    put_report(folder, ["Unresolved: too noisy.", "Unresolved: run `git log`."], table)
    entries = [entry for entry in page(INDEX, tmp_path)["open"] if "against" in entry["what"][0]]
    assert [(entry["command"], entry["price"]) for entry in entries] == [("", ""), ("", "")]
    assert all("no number of seeds" in entry["takes"] for entry in entries)


def test_shared_steps_are_counted_once(site: Path) -> None:
    read = [facts.read_axis(asked, site).study for asked in INDEX.axes[:2]]
    studies = [study for study in read if study is not None]
    union = shared(studies)
    ids = [step_id for study in studies for run in study.runs for step_id in set(run.steps.values())]
    assert union.alone == len(ids)
    assert union.steps == len(set(ids)) < sum(shared([study]).steps for study in studies)
    assert union.seconds == pytest.approx(
        sum(40.0 if "evaluate" not in kind else 8.0 for kind in _kinds(studies, ids))
    )
    assert union.saved == pytest.approx(union.alone_seconds - union.seconds)


def _kinds(studies: list[Any], ids: list[str]) -> list[str]:
    steps = {key: value["kind"] for study in studies for key, value in study.facts["steps"].items()}
    return [steps[step_id] for step_id in set(ids)]


def test_a_run_costs_the_steps_that_only_its_seed_needs(site: Path) -> None:
    study = facts.read_axis(INDEX.axes[0], site).study
    assert study is not None
    price = run_price(study)
    assert price is not None
    assert (price.seconds, price.at_most) == (
        48.0,
        False,
    )  # finetune and evaluate; features and the rest are there
    one = replace(
        study, facts={**study.facts, "runs": [run for run in study.facts["runs"] if run["seed"] == 0]}
    )
    bound = run_price(one)
    assert bound is not None
    assert bound.at_most
    assert bound.seconds > price.seconds


def test_results_after_the_report_make_it_old(site: Path) -> None:
    folder = site / "studies/demo-image_resize"
    declared = (folder / "study.json").read_text()
    try:
        (folder / "study.json").write_text(declared + "\n")
        axis = page(INDEX, site)["axes"][0]
        assert (axis["state"], axis["stale"]) == ("without a report", True)
        entry = page(INDEX, site)["open"][0]
        assert entry["command"] == "vlmablate report demo-image_resize"
    finally:
        (folder / "study.json").write_text(declared)
    assert not page(INDEX, site)["axes"][0]["stale"]


def test_a_damaged_table_is_named_with_its_line(tmp_path: Path) -> None:
    folder = add_study(tmp_path, "demo-image_resize")
    put_report(folder, ["No verdict."], "axis,arm,level\nimage_resize,resize_naive,design\n")
    with pytest.raises(UserError, match=r"significance\.csv, line 2: .*vlmablate report demo-image_resize"):
        page(INDEX, tmp_path)


def test_the_paper_stands_beside(site: Path) -> None:
    paper = page(INDEX, site)["paper"]
    rows = {row["axis"]: row for row in paper["rows"]}
    assert rows["image_resize"]["printed"] == "0.0176"
    assert rows["image_resize"]["says"] == "better, not significant"
    assert rows["fusion"]["relation"] == "not tested here"
    assert paper["beyond"] == ["projector"]
    declared = page(replace(INDEX, contrasts={"two_epochs": "projector"}), site)["paper"]
    assert [(row["axis"], row["printed"]) for row in declared["rows"]] == [("projector", "0.00496")]


@pytest.mark.parametrize(
    ("significant", "verdicts", "words"),
    [
        ("yes", ["better", "unresolved"], "a difference in both"),
        ("no", ["worse"], "a difference here only"),
        ("yes", ["equivalent", "equivalent"], "a difference in the paper only"),
        ("no", ["equivalent"], "no difference in either"),
        ("yes", ["equivalent", "unresolved"], "open here"),
        ("unstated", ["better"], "the paper does not judge"),
        ("yes", [], "not tested here"),
    ],
)
def test_how_the_paper_and_a_study_stand_to_each_other(
    significant: str, verdicts: list[str], words: str
) -> None:
    assert beside({"claimed_significant": significant}, verdicts) == words


def test_words_of_the_tables_are_those_of_the_analysis() -> None:
    assert (facts.SUITE, facts.ALL_CONTEXTS) == (units.SUITE, units.ALL_CONTEXTS)
    assert (facts.PRIMARY, facts.NO_SIGNAL) == (families.PRIMARY, families.NO_SIGNAL)


def test_texts_are_escaped(tmp_path: Path) -> None:
    odd = replace(
        INDEX, question="<b>a & b</b>?", axes=(replace(INDEX.axes[0], question="<script>x</script>"),)
    )
    text = write_page(odd, tmp_path).read_text()
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;?" in text
    assert "<script>" not in text


def test_a_declared_study_brings_its_question_contrasts_and_commands() -> None:
    index = index_of_sweep(sweep.asked(sweep.parse(["study=prismatic", "seeds=4", "launcher=debug"])))
    declared = load_declaration("prismatic")
    assert (index.name, index.question, dict(index.contrasts)) == (
        "prismatic",
        declared.question,
        dict(declared.contrasts),
    )
    assert tuple(asked.axis for asked in index.axes) == declared.axes
    assert index.command == "vlmablate report study=prismatic seeds=4"
    stages = next(asked for asked in index.axes if asked.axis == "stages")
    axis = load_axis("stages", declared.scale)
    assert (stages.study, stages.runs) == ("prismatic-stages", 4 * len(axis.arms) * len(axis.contexts))


# The verb


@pytest.fixture
def in_home(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLMABLATE_HOME", str(site))
    return site


def test_the_verb_writes_the_page_of_a_declared_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path))
    assert cli.main(["report", "study=quickstart", "scale=smoke", "seeds=2"]) == 0
    path = tmp_path / "studies/quickstart-smoke/index.html"
    assert str(path) in capsys.readouterr().out
    text = Page(path.read_text()).text
    assert "python -m vlmablate.sweep axis=stages seeds=2 scale=smoke study=quickstart-smoke-stages" in text
    assert "vlmablate report study=quickstart seeds=2 scale=smoke" in text


def test_the_verb_writes_the_page_of_studies_that_exist(in_home: Path) -> None:
    assert cli.main(["report", "study=demo-stages,demo-image_resize"]) == 0
    text = (in_home / "studies/overview/index.html").read_text()
    assert text.index("demo-stages") < text.index("demo-image_resize")
    assert "../demo-stages/report.html" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study=nope"], "unknown study 'nope'"),
        (["study=demo-stages,nope"], "unknown study 'nope'"),
        (["study=demo-stages", "scale=smoke"], "belongs to a declared study"),
        (["study="], "usage:"),
        (["axis=stages"], "usage:"),
        ([], "usage:"),
    ],
)
@pytest.mark.usefixtures("in_home")
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", *words]) == 2
    assert said in capsys.readouterr().err


def test_help_names_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_verb.run(["--help"]) == 0
    assert "study=NAME" in capsys.readouterr().out


def test_the_page_needs_neither_torch_nor_pandas(in_home: Path) -> None:
    code = (
        "import sys; from vlmablate import report_verb; report_verb.run(['study=demo-image_resize,demo-stages']);"
        "print(sorted({'torch', 'numpy', 'pandas', 'matplotlib', 'hydra'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
