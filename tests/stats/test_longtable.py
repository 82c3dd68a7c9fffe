"""Tables of scores from elsewhere: what is read, what is assumed, and what is said about what is wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlmablate.errors import DataError, UserError
from vlmablate.stats.longtable import design_from_table, read_long_table
from vlmablate.stats.panel import COLUMNS
from vlmablate.stats.settings import Settings
from vlmablate.stats.table import analyse


def scores(arms: tuple[str, ...] = ("small", "large"), seeds: int = 2, n: int = 12) -> pd.DataFrame:
    """A complete table under the names of this package; arms, benchmarks and examples are not in sorted order."""
    rng = np.random.default_rng(0)
    rows = [
        (arm, "default", seed, f"{arm}-{seed}", benchmark, "test", f"q{i}", f"picture {i // 3}", "exact")
        for benchmark in ("vqa", "counting")
        for arm in arms
        for seed in range(seeds)
        for i in reversed(range(n))
    ]
    table = pd.DataFrame(rows, columns=COLUMNS[:-1])
    return table.assign(score=rng.integers(0, 2, len(table)).astype(np.float64))


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """Text in place of categories, whatever the order of the columns."""
    text = {name: "object" for name in table if name not in ("seed", "score")}
    return table.astype(text)[sorted(table.columns)]


def as_csv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False)


def as_tsv(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, sep="\t")


def as_parquet(table: pd.DataFrame, path: Path) -> None:
    table.to_parquet(path)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "a.csv": as_csv,
    "a.csv.gz": as_csv,
    "a.CSV": as_csv,
    "a.tsv": as_tsv,
    "a.tsv.gz": as_tsv,
    "a.parquet": as_parquet,
    "a.pq": as_parquet,
}


def write(table: pd.DataFrame, folder: Path, name: str = "a.csv") -> Path:
    WRITERS[name](table, folder / name)
    return folder / name


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    table = scores()
    found = read_long_table(write(table, tmp_path, name))
    assert list(found.columns) == COLUMNS
    pd.testing.assert_frame_equal(plain(found), plain(table), check_dtype=False)
    assert found["score"].dtype == np.float64
    assert found["seed"].dtype == np.int64


def test_text_is_kept_as_categories_and_the_analysis_takes_it(tmp_path: Path) -> None:
    table = scores(n=60)
    found = read_long_table(write(table, tmp_path))
    assert all(
        isinstance(found[name].dtype, pd.CategoricalDtype) for name in ("arm", "example_id", "cluster_id")
    )
    design = design_from_table(found, baseline="small")
    pd.testing.assert_frame_equal(analyse(found, design).significance, analyse(table, design).significance)


def test_columns_are_found_under_other_names_and_others_are_not_read(tmp_path: Path) -> None:
    theirs = {"arm": "model", "benchmark": "dataset", "score": "hit", "cluster_id": "image"}
    table = scores().rename(columns=theirs).assign(arm="not this one", prediction="long text")
    for name in ("a.csv", "a.parquet"):
        found = read_long_table(write(table, tmp_path, name), theirs)
        pd.testing.assert_frame_equal(plain(found), plain(scores()), check_dtype=False)


def test_what_a_table_lacks_gets_the_stated_defaults(tmp_path: Path) -> None:
    table = scores(seeds=1)[["arm", "benchmark", "example_id", "score"]]
    found = read_long_table(write(table, tmp_path))
    assert set(found["context"]) == {"default"}
    assert set(found["split"]) == {"test"}
    assert set(found["metric"]) == {"score"}
    assert set(found["seed"]) == {0}
    assert set(found["run_id"]) == {"small/default/0", "large/default/0"}
    assert (found["cluster_id"] == table["benchmark"] + "/" + table["example_id"]).all()
    assert found["cluster_id"].nunique() == 24


def test_run_ids_tell_contexts_and_seeds_apart(tmp_path: Path) -> None:
    table = pd.concat([scores(), scores().assign(context="other", seed=lambda t: t["seed"] + 7)])
    found = read_long_table(write(table.drop(columns="run_id"), tmp_path))
    expected = table["arm"] + "/" + table["context"] + "/" + table["seed"].astype(str)
    assert found["run_id"].tolist() == expected.tolist()


def test_questions_and_targets_are_kept_if_every_row_has_one(tmp_path: Path) -> None:
    table = scores().assign(question='How many, "exactly"?\nCount.', target="two")
    table.loc[3, "target"] = None
    for name in ("a.csv", "a.parquet"):
        found = read_long_table(write(table, tmp_path, name))
        assert set(found["question"]) == {'How many, "exactly"?\nCount.'}
        assert "target" not in found


@pytest.mark.parametrize(
    "values", [[True, False], ["true", "false"], ["True", "FALSE"], [1, 0], ["1.0", "0"]]
)
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_right_and_wrong_may_be_written_in_many_ways(tmp_path: Path, name: str, values: list[object]) -> None:
    table = scores()
    path = write(table.assign(score=np.where(table["score"] == 1, *values)), tmp_path, name)  # type: ignore[call-overload]
    assert read_long_table(path)["score"].tolist() == table["score"].tolist()


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_ids_and_arms_that_are_numbers_become_text(tmp_path: Path, name: str) -> None:
    table = scores().assign(
        example_id=lambda t: t["example_id"].str[1:].astype(int), arm=lambda t: t["arm"].map(len)
    )
    found = read_long_table(write(table, tmp_path, name))
    assert found["example_id"].tolist() == table["example_id"].astype(str).tolist()
    assert set(found["arm"]) == {"5"}


def test_names_that_other_readers_take_for_missing_values_are_names(tmp_path: Path) -> None:
    table = scores(arms=("None", "NA"))
    found = read_long_table(write(table, tmp_path))
    assert design_from_table(found, baseline="NA").arms == ("NA", "None")


def test_a_range_brings_points_to_fractions(tmp_path: Path) -> None:
    table = scores()
    points = write(table.assign(score=np.linspace(-50, 150, len(table))), tmp_path)
    found = read_long_table(points, score_range=(-50, 150))
    np.testing.assert_allclose(found["score"], np.linspace(0, 1, len(table)), atol=1e-15)


def test_texts_that_many_blocks_share_keep_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of a file has its own dictionary; here no two begin alike."""
    monkeypatch.setattr("vlmablate.stats.tablefiles._BLOCK_BYTES", 1000)
    table = scores(n=200).sample(frac=1, random_state=1, ignore_index=True)
    found = read_long_table(write(table, tmp_path))
    pd.testing.assert_frame_equal(plain(found), plain(table), check_dtype=False)
    pq.write_table(pa.Table.from_pandas(table), tmp_path / "b.parquet", row_group_size=17)
    found = read_long_table(tmp_path / "b.parquet")
    pd.testing.assert_frame_equal(plain(found), plain(table), check_dtype=False)


# ------------------------------------------------------------------------------------------- what is wrong


def holes(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def make(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{column: table[column].astype(object).where(table.index != 4)})

    return make


def changed(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def make(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(**{column: table[column].astype(object).where(table.index != 4, value)})

    return make


WRONG: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "no rows": (lambda t: t.iloc[:0], "no rows"),
    "no arm": (lambda t: t.drop(columns="arm"), r"lacks the column\(s\) arm; it has .*columns.arm=COLUMN"),
    "no arm in a row": (holes("arm"), r"'arm' is empty in 1 of 96 rows, first in row 5"),
    "no cluster in a row": (holes("cluster_id"), r"'cluster_id' is empty in 1 of 96 rows, first in row 5"),
    "no seed in a row": (holes("seed"), r"'seed' is empty in 1 of 96 rows, first in row 5"),
    "no score in a row": (holes("score"), r"'score' has no score .*in 1 of 96 rows, first in row 5"),
    "infinite": (changed("score", float("inf")), r"infinite one\) in 1 of 96 rows, first in row 5"),
    "text": (
        changed("score", "a cat"),
        r"'score' holds text .* in 1 of 96 rows, first in row 5 .*'a cat'",
    ),
    "seeds with names": (changed("seed", "first"), r"'seed' must hold a whole number .*'first' in row 5"),
    "half a seed": (changed("seed", 1.5), r"'seed' must hold a whole number .*'1.5' in row 5"),
    "above 1": (
        changed("score", 1.5),
        r"1 of 96 scores in column 'score' lie outside .*1\.5 in row 5 \(vqa/q7 of arm small\).*score_range=0,100",
    ),
    "points": (
        lambda t: t.assign(score=t["score"] * 100),
        r"look like points; if they are, write score_range=0,100",
    ),
    "below 0": (changed("score", -1), r"smallest -1.*score_range=LOW,HIGH"),
    "runs without seeds": (
        lambda t: t.drop(columns="seed"),
        r"48 rows score an example again .*first row 13 .*arm small, vqa/q11.*columns.seed=COLUMN",
    ),
    "names that run together": (
        lambda t: t.drop(columns="cluster_id").assign(
            benchmark=np.where(t["benchmark"] == "vqa", "vqa/q1", "vqa"),
            example_id=np.where(t["benchmark"] == "vqa", t["example_id"], "q1/" + t["example_id"]),
        ),
        "two different things would be called vqa/q1/q0",
    ),
}


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_are_named_with_their_row(tmp_path: Path, case: str, name: str) -> None:
    change, message = WRONG[case]
    table = change(scores())
    if name == "a.parquet" and case in ("text", "seeds with names", "half a seed"):
        column = "score" if case == "text" else "seed"
        table = table.assign(**{column: table[column].astype(str)})
    with pytest.raises(DataError, match=f"(?s){message}"):
        read_long_table(write(table, tmp_path, name))


def test_unknown_columns_are_refused_on_either_side(tmp_path: Path) -> None:
    path = write(scores(), tmp_path)
    with pytest.raises(UserError, match=r"unknown column 'arms'.*did you mean 'arm'"):
        read_long_table(path, {"arms": "arm"})
    with pytest.raises(UserError, match=r"unknown column 'amr' in .*a\.csv \(did you mean 'arm'"):
        read_long_table(path, {"arm": "amr"})
    with pytest.raises(UserError, match="from a lower to a higher"):
        read_long_table(path, score_range=(1, 0))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None, message: str) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            read_long_table(tmp_path / name)

    (tmp_path / "folder.csv").mkdir()
    refused("folder.csv", None, "is a folder")
    refused("absent.csv", None, "")
    refused("scores.xlsx", b"", r"does not end in \.csv")
    refused("empty.csv", b"", "is empty")
    refused("empty.parquet", b"", "cannot be read.*complete Parquet file")
    refused("broken.parquet", b"PAR1 and then nothing", "cannot be read.*complete Parquet file")
    refused("broken.csv.gz", gzip.compress(b"arm,benchmark,example_id,score\n" * 9)[:-9], "cannot be read")
    refused("plain.csv.gz", b"arm,benchmark,example_id,score\na,b,c,1\n", "cannot be read")
    refused(
        "ragged.csv",
        b"arm,benchmark,example_id,score\na,b,c,1\na,b\n",
        "cannot be read.*Expected 4 columns, got 2",
    )
    refused(
        "latin.csv", "arm,benchmark,example_id,score\né,b,c,1\n".encode("latin-1"), "cannot be read.*UTF-8"
    )
    refused("semicolons.csv", b"arm;benchmark;example_id;score\na;b;c;1\n", "separated by semicolons")
    refused("twice.csv", b"arm,benchmark,example_id,score,score\na,b,c,1,1\n", "2 columns called 'score'")
    lists = pa.table({"arm": [["a"]], "benchmark": ["b"], "example_id": ["c"], "score": [1.0]})
    pq.write_table(lists, tmp_path / "lists.parquet")
    refused("lists.parquet", None, "column 'arm' holds list")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    as_csv(scores(), path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    pd.testing.assert_frame_equal(plain(read_long_table(path)), plain(scores()), check_dtype=False)


# ------------------------------------------------------------------------------------------------ designs


def test_a_design_keeps_the_order_of_the_table_with_the_baseline_first() -> None:
    table = scores(arms=("zeta", "alpha", "mid"))
    settings = Settings(margin=1.0)
    found = design_from_table(
        table,
        baseline="mid",
        axis="model",
        majority={"vqa": 0.3},
        families={"vqa": "open"},
        settings=settings,
    )
    assert (found.axis, found.baseline, found.arms) == ("model", "mid", ("mid", "zeta", "alpha"))
    assert found.contexts == ("default",)
    assert list(found.metrics.items()) == [("vqa", "exact"), ("counting", "exact")]
    assert (found.majority, found.families, found.settings) == ({"vqa": 0.3}, {"vqa": "open"}, settings)


def test_a_design_asks_for_what_it_cannot_know() -> None:
    table = scores()
    with pytest.raises(UserError, match=r"which arm is the baseline.*baseline=ARM.*small, large"):
        design_from_table(table, baseline=None)
    with pytest.raises(UserError, match=r"unknown baseline 'smal'.*did you mean 'small'"):
        design_from_table(table, baseline="smal")
    with pytest.raises(UserError, match="unknown benchmark 'vqa2'"):
        design_from_table(table, baseline="small", majority={"vqa2": 0.5})
    with pytest.raises(UserError, match=r"majority score of vqa must be a fraction in \[0, 1\], got 50"):
        design_from_table(table, baseline="small", majority={"vqa": 50.0})
    with pytest.raises(UserError, match="unknown metric 'f1' in benchmark vqa"):
        design_from_table(table, baseline="small", metrics={"vqa": "f1"})


def test_of_several_metrics_one_has_to_be_chosen() -> None:
    table = pd.concat([scores(), scores().query("benchmark == 'vqa'").assign(metric="f1")])
    with pytest.raises(UserError, match=r"vqa has several metrics \(exact, f1\).*metric\.vqa=exact"):
        design_from_table(table, baseline="small")
    assert design_from_table(table, baseline="small", metrics={"vqa": "f1"}).metrics == {
        "vqa": "f1",
        "counting": "exact",
    }
