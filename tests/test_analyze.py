"""The analyze command from a table of scores to its files."""

from __future__ import annotations

import html
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import vlmablate.paths
from vlmablate import analyze
from vlmablate.errors import UserError
from vlmablate.files import sha256_file

CHECKOUT = Path(vlmablate.paths.__file__).parents[1]
DECLARED = ("baseline=letterbox", "majority.pope=0.5", "family.vqa=qa")
NOTEBOOK = str(vlmablate.paths.resource("analysis") / "analyze.py")


def table(seeds: int = 3, n: int = 24) -> pd.DataFrame:
    """Three arms on two benchmarks, three questions to a picture; crop is better, naive is like letterbox."""
    parts = []
    for b, benchmark in enumerate(("vqa", "pope")):
        pictures = np.arange(n) // 3
        hard = np.random.default_rng(b).normal(0.8, 0.7, n // 3)[pictures]
        for a, (arm, lift) in enumerate((("letterbox", 0.0), ("crop", 2.5), ("naive", 0.1))):
            for seed in range(seeds):
                rng = np.random.default_rng([b, a, seed])
                right = rng.random(n) < 1 / (1 + np.exp(-hard - lift))
                part = {"arm": arm, "seed": seed, "benchmark": benchmark, "example_id": np.arange(n)}
                part |= {"cluster_id": [f"{benchmark}/{p}" for p in pictures], "score": right.astype(int)}
                parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True).sample(frac=1, random_state=0, ignore_index=True)


@dataclass(frozen=True)
class Made:
    folder: Path
    text: str
    progress: str

    @property
    def page(self) -> str:
        return (self.folder / "analysis.html").read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """The page without markup, pictures and styles."""
        bare = re.sub(r"<style>.*?</style>|<[^>]+>", "", self.page, flags=re.DOTALL)
        return re.sub(r"\s+", " ", html.unescape(bare))

    @property
    def record(self) -> dict:
        return json.loads((self.folder / "design.json").read_text(encoding="utf-8"))

    def table(self, name: str = "significance") -> pd.DataFrame:
        return pd.read_csv(self.folder / f"{name}.csv")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A CSV with other column names, analysed by the command itself; the only notebook that runs in a kernel."""
    home = tmp_path_factory.mktemp("made")
    names = {
        "arm": "model",
        "benchmark": "dataset",
        "example_id": "index",
        "cluster_id": "image",
        "score": "hit",
    }
    table().rename(columns=names).to_csv(home / "all.csv", index=False)
    words = ["results=all.csv", *DECLARED]
    words += [f"columns.{ours}={theirs}" for ours, theirs in names.items()]
    program = f"from vlmablate.analyze import main; code = main({words!r}); import sys; "
    program += "print('heavy:', 'torch' in sys.modules); raise SystemExit(code)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=home,
        env={"PYTHONPATH": str(CHECKOUT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return Made(home / "all_analysis", done.stdout, done.stderr)


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Analyses without a kernel and without figures, in a folder of their own."""
    from vlmablate.report import figures, notebook

    def no_kernel(*_):
        raise notebook.KernelError("no kernel here")

    monkeypatch.setattr(notebook, "execute", no_kernel)
    monkeypatch.setattr(figures, "save_analysis", lambda *_: {section: [] for section in figures.SECTIONS})
    monkeypatch.chdir(tmp_path)


def run(*words: str, capsys: pytest.CaptureFixture[str], out: str = "out") -> Made:
    assert analyze.main([*words, f"out={out}"]) == 0
    caught = capsys.readouterr()
    return Made(Path(out).absolute(), caught.out, caught.err)


# What it prints and writes


def test_the_terminal_has_the_verdicts_a_table_per_level_and_the_caveats(made):
    lines = made.text.splitlines()
    assert any(line.startswith("crop beats letterbox by ") for line in lines)
    assert any(line.startswith("Unresolved: naive minus letterbox is ") for line in lines)
    start = lines.index("Retraining, what the verdicts are about (level: design; unit: training run)")
    assert lines[start + 1].split()[:2] == ["arm", "difference"]
    shown = {line.split()[0]: line.split()[-3:] for line in lines[start + 2 : start + 4]}
    assert shown == {"crop": ["better", "3", "seeds"], "naive": ["unresolved", "3", "seeds"]}
    assert "these trained checkpoints only" in made.text
    assert "- The majority score of VQA is unknown" in made.text
    assert f"page:   {made.folder / 'analysis.html'}" in lines
    assert "heavy: False" in lines
    for stage in ("reading all.csv: ", "testing 3 arms on 432 scores: ", "drawing the figures: "):
        assert stage in made.progress


def test_the_folder_holds_what_the_record_lists(made):
    record = made.record
    files = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    assert files == set(record["files"])
    assert {"significance.csv", "sensitivity.csv", "pairwise.csv", "components.csv", "mde_curve.csv"} <= files
    assert "figures/forest.png" in files
    assert "duplicates.csv" not in files  # tables without rows are not written
    assert record["input"]["sha256"] == sha256_file(made.folder.parent / "all.csv")
    assert record["design"]["settings"]["alpha"] == 0.05
    assert record["design"]["majority"] == {"pope": 0.5}
    for name, digest in record["sha256"].items():
        assert sha256_file(made.folder / name) == digest
    assert not list(made.folder.parent.glob(".tmp-*"))


def test_the_page_is_one_file_with_the_verdicts_of_the_terminal(made):
    assert re.findall(r'(?:src|href)="(?!data:|#)', made.page) == []
    for line in made.text.splitlines()[:3:2]:
        assert line.partition(" (Holm")[0] in made.prose
    assert made.record["input"]["sha256"] in made.page
    assert "python -m vlmablate.analyze results=all.csv" in made.prose
    assert (
        "nothing in the table can show that the settings were chosen before the scores were seen"
        in made.prose
    )
    for word in ("nan", "None", "inf]"):
        assert word not in made.prose.split()


SHOWN = {
    "delta": ("delta",),
    "mde": ("mde",),
    "interval": ("ci_low", "ci_high"),
    "new": ("new_low", "new_high"),
    "p": ("p",),
    "p_adjusted": ("p_adjusted",),
}
"""Column of the page -> the columns of significance.csv that it shows."""


def agrees(shown: str, value: float, is_p: bool) -> bool:
    """Whether a formatted number is the value, rounded."""
    if is_p:
        return value < 1e-4 if shown == "<0.0001" else abs(float(shown) - value) <= 0.051 * value
    decimals = len(shown.partition(".")[2])
    return abs(float(shown.replace("−", "-").replace(",", "")) - value) <= 0.5 * 10**-decimals + 1e-9


def test_the_numbers_of_the_page_are_those_of_the_table(made):
    keys = ["level", "arm", "context", "benchmark", "family"]
    rows = {
        "|".join(str(row[key]) for key in keys): row
        for row in pd.concat([made.table(), made.table("sensitivity")]).to_dict("records")
    }
    seen = set()
    for key, column, text in re.findall(r'data-row="([^"]+)" data-column="(\w+)">(.*?)</', made.page):
        if key in rows and column in SHOWN:  # other tables have keys of their own
            values = [rows[key][name] for name in SHOWN[column]]
            parts = html.unescape(text).strip().strip("[]").split(", ")
            if parts == ["–"]:
                assert not np.isfinite(values).all(), (key, column)
                continue
            for part, value in zip(parts, values, strict=True):
                assert agrees(part, value, column.startswith("p")), (key, column)
            seen.add((rows[key]["level"], column))
    assert seen >= {
        (level, name) for level in ("design", "items") for name in ("interval", "p", "p_adjusted")
    }
    assert seen >= {("design", "delta"), ("design", "new"), ("suite", "p"), ("checkpoint", "delta")}


def test_the_notebook_derived_the_numbers_again(made):
    cells = json.loads((made.folder / "analysis.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    printed = "".join(
        "".join(out.get("text", "")) for cell in code for out in cell["outputs"] if "text" in out
    )
    assert "p: 6 of 6 rows derived, all agree with significance.csv" in printed
    assert "2 p-values of suite rows agree with 4,096 random flips" in printed
    assert re.search(r"\d+ adjusted p-values in \d+ families agree with significance.csv", printed)


@pytest.mark.parametrize(
    ("level", "column"),
    [("design", "ci_low"), ("design", "p"), ("items", "delta"), ("items", "ci_high"), ("items", "p")],
)
def test_the_notebook_stops_when_a_number_is_wrong(made, tmp_path, monkeypatch, level, column):
    for name in ("design.json", "results.parquet"):
        shutil.copy(made.folder / name, tmp_path)
    wrong = made.table()
    place = wrong.index[(wrong["level"] == level) & (wrong["benchmark"] == "suite")][0]
    wrong.loc[place, column] = 0.9 * wrong.loc[place, column] + 0.02
    wrong.to_csv(tmp_path / "significance.csv", index=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError):
        runpy.run_path(NOTEBOOK)


def test_parquet_gives_the_same_numbers_as_csv(made, light, tmp_path, capsys):
    table().assign(hint="not used").to_parquet(tmp_path / "scores.parquet", index=False)
    again = run("results=scores.parquet", *DECLARED, capsys=capsys)
    assert (again.folder / "significance.csv").read_bytes() == (made.folder / "significance.csv").read_bytes()
    assert "was not executed: no kernel here" in again.prose
    copied = pd.read_parquet(again.folder / "results.parquet")
    assert len(copied) == 432
    assert "hint" not in copied


def test_points_and_their_majority_are_rescaled(light, tmp_path, capsys):
    table().assign(score=lambda frame: 100 * frame["score"]).to_csv(tmp_path / "points.csv", index=False)
    table().to_csv(tmp_path / "fractions.csv", index=False)
    points = run(
        *("results=points.csv", "baseline=naive", "score_range=0,100", "majority.pope=90"),
        capsys=capsys,
        out="a",
    )
    same = run(*("results=fractions.csv", "baseline=naive", "majority.pope=0.9"), capsys=capsys, out="b")
    pd.testing.assert_frame_equal(points.table(), same.table(), rtol=1e-9)
    assert points.record["signal"] == ["vqa"]
    assert "No signal at this scale: pope" in points.text
    assert "score range" in points.prose


def test_settings_reach_the_tests(light, tmp_path, capsys):
    table(seeds=2).to_csv(tmp_path / "t.csv", index=False)
    words = ["results=t.csv", "baseline=crop", "alpha=0.1", "margin=3", "alternative=less", "correction=bh"]
    words += ["paired_seeds=true", "axis=image_resize"]
    found = run(*words, capsys=capsys)
    settings = found.record["design"]["settings"]
    assert (settings["alpha"], settings["margin"], settings["correction"]) == (0.1, 3.0, "bh")
    assert (settings["alternative"], settings["paired_seeds"]) == ("less", True)
    assert set(found.table()["axis"]) == {"image_resize"}
    assert "paired seeds" in found.table().query("level == 'design'")["method"].iloc[0]
    assert (
        "alpha = 0.1, margin = 3.0, alternative = less, correction = bh and paired_seeds = True"
        in found.prose
    )


# One training run per arm


def test_without_seeds_only_the_checkpoints_are_compared(light, tmp_path, capsys):
    table(seeds=1).drop(columns="seed").to_csv(tmp_path / "t.csv", index=False)
    found = run("results=t.csv", "baseline=letterbox", capsys=capsys)
    design = found.table().query("level == 'design'")
    assert design["p"].isna().all()
    assert (design["verdict"] == "unresolved").all()
    items = found.table().query("level == 'items' and benchmark == 'suite'").set_index("arm")
    assert items.loc["crop", "verdict"] == "better"
    assert "tipping seed SD" in found.text.splitlines()[0]
    assert "one seed per arm says nothing about retraining" in found.text
    assert "- The table holds one training run per arm" in found.text
    delta = items.loc["crop", "delta"]
    assert (
        f"On new pictures of this kind, with these checkpoints: crop scores {delta:.1f} points above"
        in found.prose
    )
    assert "It says nothing about training again with the same choice." in found.prose


def test_a_table_without_clusters_says_what_that_means(light, tmp_path, capsys):
    table().drop(columns="cluster_id").to_csv(tmp_path / "t.csv", index=False)
    found = run("results=t.csv", "baseline=letterbox", capsys=capsys)
    assert "Clusters unknown: every example counts as its own cluster" in found.text
    assert "Clusters unknown: every example counts as its own cluster" in found.prose
    items = found.table().query("level == 'items'")
    assert (items["n_clusters"] == items["n_examples"]).all()


def test_a_seed_that_one_arm_lacks_is_named(light, tmp_path, capsys):
    whole = table()
    whole[~((whole["arm"] == "crop") & (whole["seed"] == 2))].to_csv(tmp_path / "t.csv", index=False)
    found = run("results=t.csv", "baseline=letterbox", capsys=capsys)
    assert "missing: crop: seed 2." in found.text


def test_a_sentence_is_refused_that_its_row_contradicts():
    from vlmablate.report.analysis_page import checkpoint_sentence

    row = {"arm": "a", "baseline": "b", "context": "c", "level": "items", "delta": -1.0, "ci_low": -2.0}
    row |= {"ci_high": -0.1, "p": 0.01, "p_adjusted": 0.01, "floor": 1e-4, "verdict": "worse", "margin": 2.0}
    row |= {"alternative": "two-sided", "correction": "holm", "n_clusters": 1200}
    sentence = checkpoint_sentence(row, 0.05)
    assert "a scores 1.0 points below b: −1.0 [−2.0, −0.1], p = 0.01" in sentence
    assert sentence.endswith("(unit: 1,200 clusters of examples).")
    with pytest.raises(ValueError, match="contradicts its difference"):
        checkpoint_sentence({**row, "verdict": "better"}, 0.05)


def test_many_arms_are_counted_on_the_terminal(light, tmp_path, capsys):
    parts = [table(seeds=1).query("arm == 'naive'").assign(arm=f"model-{i}") for i in range(11)]
    pd.concat(parts).to_csv(tmp_path / "t.csv", index=False)
    found = run("results=t.csv", "baseline=model-0", capsys=capsys)
    first = "10 contrasts with model-0: 10 unresolved. The page has a sentence on each."
    assert found.text.splitlines()[0] == first
    assert found.prose.count("Unresolved: model-") == 10


# Mistakes: one message, exit code 2, nothing written


def mistakes() -> list[tuple[str, list[str], str]]:
    good = ["results=t.csv", "baseline=letterbox"]
    return [
        ("no results", ["baseline=letterbox"], "results=FILE is missing"),
        ("no file", ["results=u.csv", "baseline=letterbox"], "u.csv"),
        ("no key", [*good, "verbose"], "cannot read 'verbose'"),
        ("unknown argument", [*good, "marign=2"], "unknown argument 'marign' (did you mean 'margin'?)"),
        ("twice", [*good, "margin=2", "margin=3"], "margin is given twice"),
        ("empty", [*good, "axis="], "axis= needs a value"),
        ("no baseline", ["results=t.csv"], "baseline=ARM; the arms are"),
        ("unknown baseline", ["results=t.csv", "baseline=leterbox"], "did you mean 'letterbox'?"),
        ("unknown column of ours", [*good, "columns.modle=arm"], "unknown column 'modle'"),
        ("unknown column of theirs", [*good, "columns.score=hit"], "hit"),
        ("unknown benchmark", [*good, "majority.gqa=0.5"], "unknown benchmark 'gqa'"),
        ("unknown metric", [*good, "metric.vqa=f1"], "unknown metric 'f1'"),
        (
            "majority outside",
            [*good, "majority.vqa=50"],
            "majority.vqa=50 lies outside the range of the scores",
        ),
        ("range", [*good, "score_range=1,0"], "score_range must go from a lower"),
        ("scores outside", [*good, "score_range=0.5,1"], "lie outside 0.5 to 1"),
        ("alpha", [*good, "alpha=2"], "error: alpha must lie in (0, 0.5)"),
        ("margin", [*good, "margin=0"], "margin must be positive"),
        ("no number", [*good, "margin=two"], "margin must be a "),
        ("alternative", [*good, "alternative=bigger"], "unknown alternative 'bigger'"),
        ("correction", [*good, "correction=bonferroni"], "unknown correction 'bonferroni'"),
        ("truth value", [*good, "paired_seeds=maybe"], "paired_seeds must be true or false"),
        ("twice scored", ["results=twice.csv", "baseline=letterbox"], "scored more than once by one run"),
        ("gap", ["results=gap.csv", "baseline=letterbox"], "missing in arm crop"),
        ("one arm", ["results=one.csv", "baseline=crop"], "the table holds one arm only, crop"),
        ("suite", ["results=suite.csv", "baseline=crop"], "a benchmark of the table is called 'suite'"),
        ("all contexts", [*good, "columns.context=all"], "a context of the table is called '(all)'"),
        ("taken", [*good, "out=t.csv"], "is a file"),
        ("full", [*good, "out=taken"], "taken holds other things (notes.txt) and no earlier analysis"),
        ("inside", ["results=taken/t.csv", "baseline=letterbox", "out=taken"], "taken"),
    ]


@pytest.mark.parametrize(("words", "message"), [pytest.param(*rest, id=name) for name, *rest in mistakes()])
def test_mistakes_are_one_message_and_leave_nothing(words, message, light, tmp_path, capsys):
    good = table(seeds=1, n=9)
    good.assign(all="(all)").to_csv(tmp_path / "t.csv", index=False)
    good[good["arm"] == "crop"].to_csv(tmp_path / "one.csv", index=False)
    good.replace({"benchmark": {"vqa": "suite"}}).to_csv(tmp_path / "suite.csv", index=False)
    pd.concat([good, good.iloc[:1]]).to_csv(tmp_path / "twice.csv", index=False)
    good.drop(index=good.index[good["arm"] == "crop"][0]).to_csv(tmp_path / "gap.csv", index=False)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert analyze.main(words) == 2
    caught = capsys.readouterr()
    assert caught.out == ""
    assert message in caught.err
    assert sum(line.startswith("error: ") for line in caught.err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


# Other people's files


def test_an_earlier_analysis_is_replaced_and_other_files_stay(light, tmp_path, capsys):
    table().to_csv(tmp_path / "t.csv", index=False)
    first = run("results=t.csv", "baseline=letterbox", capsys=capsys)
    assert (first.folder / "mde_curve.csv").exists()
    (first.folder / "notes.txt").write_text("mine")
    table(seeds=1).to_csv(tmp_path / "t.csv", index=False)
    again = run("results=t.csv", "baseline=crop", capsys=capsys)
    assert not (
        again.folder / "mde_curve.csv"
    ).exists()  # with one seed there is none, and the old one is not true
    assert (again.folder / "notes.txt").read_text() == "mine"
    assert again.record["design"]["baseline"] == "crop"
    assert "notes.txt" not in again.record["files"]


def test_a_file_that_the_record_does_not_list_is_not_overwritten(light, tmp_path, capsys):
    table(seeds=1).to_csv(tmp_path / "t.csv", index=False)
    folder = run("results=t.csv", "baseline=letterbox", capsys=capsys).folder
    (folder / "mde_curve.csv").write_text("mine")
    table().to_csv(tmp_path / "t.csv", index=False)
    assert analyze.main(["results=t.csv", "baseline=letterbox", "out=out"]) == 2
    assert "mde_curve.csv was not made by the earlier analysis" in capsys.readouterr().err
    assert (folder / "mde_curve.csv").read_text() == "mine"


def test_no_record_can_make_it_delete_anything_else(tmp_path):
    folder, made = tmp_path / "out", tmp_path / "made"
    for place in (folder, made):
        place.mkdir()
    (tmp_path / "precious.csv").write_text("mine")
    names = ["../precious.csv", str(tmp_path / "precious.csv"), "figures/../../precious.csv", "notes.txt"]
    record = {"made_by": "vlmablate.analyze", "files": [*names, "design.json", "figures/old.png"]}
    (folder / "design.json").write_text(json.dumps(record))
    (folder / "notes.txt").write_text("mine")
    earlier = analyze.earlier_files(folder)
    assert earlier == ["design.json", "figures/old.png"]
    (made / "design.json").write_text("{}")
    analyze.publish(made, folder, earlier)
    assert (tmp_path / "precious.csv").exists()
    assert (folder / "notes.txt").exists()


def test_a_crash_leaves_the_earlier_analysis_as_it_was(light, tmp_path, capsys, monkeypatch):
    from vlmablate.report import html as pages

    table(seeds=1).to_csv(tmp_path / "t.csv", index=False)
    folder = run("results=t.csv", "baseline=letterbox", capsys=capsys).folder
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def broken(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(pages, "render", broken)
    with pytest.raises(RuntimeError, match="broken"):
        analyze.run(["results=t.csv", "baseline=crop", "out=out"])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.csv"]


def test_an_interruption_writes_nothing(light, tmp_path, capsys, monkeypatch):
    from vlmablate.report import html as pages

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    table(seeds=1).to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr(pages, "render", interrupted)
    assert analyze.main(["results=t.csv", "baseline=crop"]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


# The command line


def test_arguments():
    parsed = analyze.parse(
        ["results=a/b.v2.csv.gz", "baseline=A", "majority.MMB_V1.1=25", "score_range=0,100"]
    )
    assert parsed.out == Path("b.v2_analysis").absolute()
    assert parsed.majority == {"MMB_V1.1": 0.25}
    assert parsed.command().endswith(
        "results=a/b.v2.csv.gz baseline=A majority.MMB_V1.1=25 score_range=0,100"
    )
    assert shlex.split(analyze.parse(["results=my table.csv"]).command())[-1] == "results=my table.csv"


def test_the_examples_of_the_help_can_be_read():
    text = analyze.HELP.partition("examples\n")[2].partition("\n\n")[0].replace("\\\n", " ")
    commands = [
        line.split("python -m vlmablate.analyze ")[1] for line in text.splitlines() if "vlmablate" in line
    ]
    assert len(commands) == 3
    for command in commands:
        analyze.parse(shlex.split(command))
    with pytest.raises(UserError):
        analyze.parse(["results"])


def test_help_teaches_and_loads_nothing_heavy():
    program = "from vlmablate.analyze import main; main(['--help']); import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    assert "usage: python -m vlmablate.analyze" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not {"numpy", "pandas", "scipy", "matplotlib", "jinja2", "rich", "torch"} & loaded
