"""The replay command from its words to its files."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

import vlmablate.paths
from vlmablate import replay
from vlmablate.errors import UserError
from vlmablate.stats import paper, reference

CHECKOUT = Path(vlmablate.paths.__file__).parents[1]


@dataclass(frozen=True)
class Made:
    folder: Path
    text: str

    @property
    def page(self) -> str:
        return (self.folder / "replay.html").read_text(encoding="utf-8")

    @property
    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.folder / "replay.csv", dtype={"printed": str, "printed_v1": str})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One replay through the command line, with its notebook executed."""
    folder = tmp_path_factory.mktemp("replay") / "out"
    command = [sys.executable, "-m", "vlmablate.replay", f"out={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return Made(folder, done.stdout)


def test_the_command_prints_every_comparison_and_one_line_of_summary(made):
    lines = made.text.splitlines()
    assert lines[0].startswith(paper.LABEL)
    for row in made.table.itertuples():
        line = next(line for line in lines if line.startswith(f"{row.comparison} "))
        assert f" {row.printed} " in line
        assert line.endswith("unresolved")
    assert (
        sum("12 of 12 inside the rounding band, 11 to the last printed digit" in line for line in lines) == 1
    )
    assert "7 of 7" in made.text
    assert str(made.folder / "replay.html") in made.text


def test_the_table_keeps_printed_digits_and_full_precision(made):
    fresh = paper.replay().table
    assert list(made.table.columns) == list(paper.COLUMNS)
    assert made.table["printed"].tolist() == fresh["printed"].tolist()
    assert made.table["p"].tolist() == fresh["p"].tolist()


def test_the_page_is_one_file_that_says_what_it_is(made):
    assert "not evidence</p>" in made.page.split("<h1>")[0]
    assert re.findall(r'src="(?!data:)', made.page) == []
    assert re.findall(r'href="(?!#|data:)', made.page) == []
    assert "12 of 12 inside the rounding band" in made.page
    shown = dict(re.findall(r'data-row="(\w+)" data-column="printed">([^<]+)<', made.page))
    assert shown == dict(zip(made.table["comparison"], made.table["printed"], strict=True))
    tipping = dict(re.findall(r'data-row="(\w+)" data-column="tipping">([^<]+)<', made.page))
    assert {name: float(text) for name, text in tipping.items()} == {
        row.comparison: round(row.tipping_seed_sd, 2) for row in made.table.itertuples()
    }
    assert "but the mean difference is negative: −2.1 %" in made.page
    assert made.page.count('<span class="badge unresolved">unresolved</span></td>') == 12
    for word in ("nan", "None", "/work/", "shared/"):
        assert word not in re.sub(r"data:[^\"]+|<style>.*?</style>", "", made.page, flags=re.DOTALL)


def test_the_notebook_derived_the_numbers_again(made):
    notebook = json.loads((made.folder / "replay.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    printed = "".join(
        "".join(output.get("text", "")) for cell in code for output in cell["outputs"] if "text" in output
    )
    assert "12 p-values and 12 of the first version agree with replay.csv" in printed
    assert "the other readings agree with replay.csv" in printed


def test_the_notebook_stops_when_a_number_is_wrong(made, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    shutil.rmtree(folder / "figures")
    monkeypatch.chdir(folder)
    source = str(vlmablate.paths.resource("analysis") / "replay.py")
    runpy.run_path(source)
    table = made.table.assign(p=lambda frame: frame["p"].where(frame["comparison"] != "mistral", 0.03097))
    table.to_csv(folder / "replay.csv", index=False)
    with pytest.raises(AssertionError):
        runpy.run_path(source)


def test_other_benchmarks(tmp_path, monkeypatch, capsys):
    from vlmablate.report import notebook, replay_page

    def no_kernel(*_):
        raise notebook.KernelError("no kernel here")

    monkeypatch.setattr(notebook, "execute", no_kernel)
    monkeypatch.setattr(replay_page, "error_rates", list)
    monkeypatch.setenv("VLMABLATE_HOME", str(tmp_path))
    assert replay.main(["benchmarks=VSR"]) == 0
    assert "with 1 benchmark (the printed values belong to the paper's 12)" in capsys.readouterr().out
    page = (tmp_path / "replay" / "replay.html").read_text(encoding="utf-8")
    assert "was not executed: no kernel here" in page
    assert "benchmarks=VSR" in page
    assert "are not expected to return" in page
    source = str(vlmablate.paths.resource("analysis") / "replay.py")
    shutil.rmtree(tmp_path / "replay" / "figures")
    monkeypatch.chdir(tmp_path / "replay")
    runpy.run_path(source)


def test_arguments():
    parsed = replay.parse(["benchmarks=VQAv2, GQA", "out=here"])
    assert parsed.benchmarks == ("VQAv2", "GQA")
    assert parsed.folder() == Path("here").absolute()
    assert replay.parse([]) == replay.Arguments()
    assert replay.Arguments().command() == "python -m vlmablate.replay"


@pytest.mark.parametrize(
    "words", [["verbose"], ["benchmark=GQA"], ["out="], ["out=a", "out=b"], ["benchmarks=A", "benchmarks=B"]]
)
def test_bad_words_are_refused(words: list[str]):
    with pytest.raises(UserError):
        replay.parse(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("benchmarks=VQA2", "unknown benchmark 'VQA2'"),
        ("benchmarks=GQA,GQA", "GQA is named twice"),
        ("benchmarks=,", "no benchmark is named"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(words: str, message: str, capsys, tmp_path: Path):
    assert replay.main([words, f"out={tmp_path / 'out'}"]) == 2
    caught = capsys.readouterr()
    assert caught.err.startswith("error: ")
    assert message in caught.err
    assert caught.out == ""
    assert not (tmp_path / "out").exists()


def test_a_missing_table_is_a_message(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(reference, "reference_folder", lambda: tmp_path / "nowhere")
    assert replay.main([f"out={tmp_path}"]) == 2
    assert "cannot read the published table" in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_a_message(capsys, tmp_path: Path):
    (tmp_path / "out").write_text("taken")
    assert replay.main([f"out={tmp_path / 'out'}"]) == 2
    assert "name another folder with out=FOLDER" in capsys.readouterr().err


def test_help_teaches_and_loads_nothing_heavy():
    program = "from vlmablate.replay import main; main(['--help']); import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    assert "usage: python -m vlmablate.replay" in done.stdout
    assert not {"numpy", "pandas", "scipy", "matplotlib", "jinja2"} & set(
        done.stdout.splitlines()[-1].split()
    )
