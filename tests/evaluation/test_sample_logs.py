"""Logs of lmms-eval and VLMEvalKit, as their code writes them, through `vlmablate logs`."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vlmablate import logs, verbs
from vlmablate.errors import DataError, UserError
from vlmablate.evaluation.logs import lmms_eval, vlmevalkit
from vlmablate.report.collect import SCHEMA
from vlmablate.stats.longtable import design_from_table, read_long_table
from vlmablate.stats.panel import align


def pope_sample(doc_id: int, answer: str, target: str, **fields: Any) -> dict[str, Any]:
    """As `pope_process_results` and `save_results_samples` leave it."""
    verdict = {"question_id": doc_id, "score": float(answer == target), "prediction": answer}
    return {
        "doc_id": doc_id,
        "target": target,
        "filtered_resps": answer,
        "token_counts": [None],
        "doc_hash": "0" * 64,
        "pope_accuracy": verdict,
        "pope_f1_score": verdict,
        "input": "Is there a dog?\nAnswer the question using a single word or phrase.",
        **fields,
    }


def write_lines(path: Path, samples: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return path


def pope_log(path: Path, answers: Sequence[str], **fields: Any) -> Path:
    targets = ["yes", "no"] * len(answers)
    samples = [
        pope_sample(i, answer, target, **fields)
        for i, (answer, target) in enumerate(zip(answers, targets, strict=False))
    ]
    return write_lines(path, samples)


def imported(out: Path, *words: str) -> pd.DataFrame:
    assert logs.run(["import", *words, "--out", str(out)]) == 0
    return pd.read_parquet(out)


def test_two_arms_of_lmms_eval_reach_the_statistics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = {"input_media": ["coco/val2014/COCO_val2014_000000000042.jpg"]}
    a = pope_log(tmp_path / "a" / "20260301_120000_samples_pope.jsonl", ["yes", "yes", "no"], **media)
    b = pope_log(tmp_path / "b" / "20260302_120000_samples_pope.jsonl", ["yes", "no", "yes"], **media)
    table = imported(tmp_path / "out.parquet", f"naive={a}", f"letterbox/0={b.parent}")
    assert list(table.columns) == SCHEMA.names
    assert table[["arm", "example_id", "score", "prediction", "target"]].values.tolist() == [
        ["naive", "pope/0", 1.0, "yes", "yes"],
        ["naive", "pope/1", 0.0, "yes", "no"],
        ["naive", "pope/2", 0.0, "no", "yes"],
        ["letterbox", "pope/0", 1.0, "yes", "yes"],
        ["letterbox", "pope/1", 1.0, "no", "no"],
        ["letterbox", "pope/2", 1.0, "yes", "yes"],
    ]
    assert set(table["cluster_id"]) == {"coco/42"}
    printed = capsys.readouterr().out
    assert set(table["metric"]) == {"pope_accuracy"}  # the F1 is one of all samples
    assert f"vlmablate analyze results={tmp_path / 'out.parquet'} baseline=naive" in printed
    # what analyze does first
    read = read_long_table(tmp_path / "out.parquet")
    design = design_from_table(read, baseline="naive")
    panels = align(read, design.metrics)
    assert panels.by_benchmark["pope"].scores.shape == (2, 3)


def test_answers_in_lists_numbers_and_pictures_of_older_versions(tmp_path: Path) -> None:
    samples = [
        {
            "doc_id": i,
            "doc": {"question": "?", "image_id": 262148 + i // 2},
            "target": "red",
            "resps": [["red"]],
            "filtered_resps": ["red"],
            "exact_match": i / 2,
            "submission": {"score": 1},
        }
        for i in range(3)
    ]
    log = lmms_eval.read(write_lines(tmp_path / "20240101_000000_samples_vqav2_val.jsonl", samples))
    assert log.benchmark == "vqav2_val"
    assert [sample.scores for sample in log.samples] == [{"exact_match": i / 2} for i in range(3)]
    assert [sample.picture for sample in log.samples] == ["vqav2_val/262148"] * 2 + ["vqav2_val/262149"]
    assert log.samples[0].prediction == "red"


def test_boxes_are_scored_as_lmms_eval_does_at_the_end(tmp_path: Path) -> None:
    boxes = {"answer": "dog", "pred": [0, 0, 0.5, 1.0], "ann_id": 1, "bbox": [0, 0, 1, 1]}
    names = ("refcoco_IoU", "refcoco_ACC@0.5", "refcoco_ACC@0.7", "refcoco_Center_ACC")
    sample = {"doc_id": 0, "target": "dog", "filtered_resps": "[0, 0, 0.5, 1]", **dict.fromkeys(names, boxes)}
    log = lmms_eval.read(write_lines(tmp_path / "1_samples_refcoco.jsonl", [sample]))
    assert log.samples[0].scores == {"refcoco_IoU": 0.5, "refcoco_ACC@0.5": 1.0, "refcoco_ACC@0.7": 0.0}


def test_several_requests_per_document_keep_their_answers(tmp_path: Path) -> None:
    sample = {
        "doc_id": 0,
        "target": "1",
        "filtered_resps": [["-1.0", "True"], ["-2.0", "False"]],
        "acc": True,
    }
    log = lmms_eval.read(write_lines(tmp_path / "1_samples_t.jsonl", [sample]))
    assert json.loads(log.samples[0].prediction) == sample["filtered_resps"]
    assert log.samples[0].scores == {"acc": 1.0}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"doc_id": 1, "targ', "line 2: this is no JSON"),
        ("[1]", r"line 2: a sample must be a JSON object, got \[1\]"),
        ('{"doc_id": 1, "target": "a"}', "line 2: a sample of lmms-eval has filtered_resps"),
        (
            '{"doc_id": 1, "target": "a", "filtered_resps": "a", "judged": "A"}',
            r"line 2: no metric is a number \(logged: judged\)",
        ),
        (
            '{"doc_id": 0, "target": "a", "filtered_resps": "a", "acc": 1}',
            "line 2: t/0 stands there already, in line 1",
        ),
        (
            '{"doc_id": 1, "target": "a", "filtered_resps": "a", "acc": 1, "vlmablate": 3}',
            "line 2: the field",
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "1_samples_t.jsonl"
    path.write_text('{"doc_id": 0, "target": "a", "filtered_resps": "a", "acc": 1}\n' + line + "\n")
    with pytest.raises(DataError, match=f"{re.escape(str(path))}, {complaint}"):
        lmms_eval.read(path)


def test_logs_that_do_not_pair_are_refused(tmp_path: Path) -> None:
    a = pope_log(tmp_path / "a" / "1_samples_pope.jsonl", ["yes", "yes", "no"])
    short = pope_log(tmp_path / "b" / "1_samples_pope.jsonl", ["yes", "no"])
    other = write_lines(
        tmp_path / "c" / "1_samples_pope.jsonl", [pope_sample(i, "yes", "yes") for i in range(3)]
    )
    second = pope_log(tmp_path / "a" / "1_samples_pope_full.jsonl", ["no"])
    out = tmp_path / "out.parquet"
    for words, complaint in (
        ((f"x={a}", f"y={short}"), r"1 samples of pope are in .*a/1_samples.* and not in .*b/.*pope/2"),
        ((f"y={short}", f"x={a}"), r"1 samples of pope are in .*a/1_samples.* and not in .*b/.*pope/2"),
        (
            (f"x={a}", f"y={other}"),
            r"pope/1 is not the same question .* 'no' .*line 2, and 'yes' in .*line 2",
        ),
        ((f"x={a}", f"x/0={short}"), r"x/0 has two logs of pope: .*x/0=…, x/1=…"),
        ((f"x={a.parent}", f"y={a}"), "y/0 has no log of pope_full, which x/0 has"),
        ((f"x/one={a}",), "cannot read 'x/one="),
        ((str(a),), "cannot read"),
        ((f"x={tmp_path / 'none'}",), "there is no file or folder"),
        ((f"x={tmp_path / 'a'}", f"y:b={tmp_path / 'a'}"), "a benchmark is named for one file"),
    ):
        with pytest.raises(UserError, match=complaint):
            logs.run(["import", *words, "--out", str(out)])
        assert not out.exists()
    second.unlink()
    imported(out, f"x={a}", f"x/1={a}", f"y={a}", f"y/1={a}")


def test_two_dates_of_a_task_in_a_folder_are_refused(tmp_path: Path) -> None:
    for date in ("20260301_1", "20260302_1"):
        pope_log(tmp_path / f"{date}_samples_pope.jsonl", ["yes"])
    with pytest.raises(UserError, match="two logs of pope"):
        lmms_eval.sample_files(tmp_path)
    with pytest.raises(UserError, match="log_samples"):
        lmms_eval.sample_files(tmp_path / "nothing")


def test_metrics_that_are_no_shares_or_not_everywhere_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sample(doc_id: int, **scores: float) -> dict[str, Any]:
        return {"doc_id": doc_id, "target": "a", "filtered_resps": "a", **scores}

    a = write_lines(
        tmp_path / "1_samples_t.jsonl", [sample(0, acc=1, cider=3.5, old=0), sample(1, acc=0, cider=1)]
    )
    b = write_lines(
        tmp_path / "2_samples_t.jsonl", [sample(0, acc=1, cider=0.5, new=0), sample(1, acc=1, cider=1)]
    )
    table = imported(tmp_path / "out.parquet", f"x={a}", f"y={b}")
    assert set(table["metric"]) == {"acc"}
    printed = capsys.readouterr().out
    assert "cider left out, its scores go from 0.5 to 3.5" in printed
    assert f"old left out, which {a}, line 2 lacks" in printed
    assert f"new left out, which {a}, line 1 lacks" in printed
    assert "the logs do not tell which picture a sample is about" in printed
    only = write_lines(tmp_path / "3_samples_u.jsonl", [sample(0, cider=3.5)])
    with pytest.raises(DataError, match="no metric scores every sample"):
        logs.run(["import", f"x={only}", "--out", str(tmp_path / "none.parquet")])


def test_pictures_that_one_log_knows_hold_for_all(tmp_path: Path) -> None:
    a = pope_log(tmp_path / "1_samples_pope.jsonl", ["yes", "no"])
    b = pope_log(tmp_path / "2_samples_pope.jsonl", ["yes", "no"], input_media=["data:image/png;base64,AAAA"])
    table = imported(tmp_path / "out.parquet", f"x={a}", f"y={b}")
    assert table["cluster_id"].nunique() == 1
    assert table["cluster_id"][0].startswith("content/")


def test_round_trip_through_the_format_of_lmms_eval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "study": "s", "axis": "image_resize", "arm": arm, "context": context, "seed": seed,
            "run_id": f"{arm}{context}{seed}", "benchmark": benchmark, "split": split, "example_id": f"{benchmark}/{i}",
            "cluster_id": f"coco/{i // 2}", "metric": metric, "score": (i + seed + len(metric) + len(context)) % 7 / 7,
            "prediction": f"“{i}”\n", "target": str(i),
        }
        for arm in ("naive", "letterbox")
        for context in ("clip", "siglip")
        for seed in (0, 1)
        for benchmark, metrics, split in (("pope", ("a", "b:c@0.5"), "random"), ("vsr", ("acc",), "zeroshot"))
        for metric in metrics
        for i in range(12)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_parquet(tmp_path / "results.parquet")
    out = tmp_path / "logs"
    assert logs.run(["export", str(tmp_path / "results.parquet"), "--out", str(out)]) == 0
    folders = sorted(path.name for path in out.iterdir())
    runs = [
        (arm, context, seed)
        for arm in ("letterbox", "naive")
        for context in ("clip", "siglip")
        for seed in (0, 1)
    ]
    assert folders == [f"{arm}__{context}__s{seed}" for arm, context, seed in runs]
    (summary,) = (out / "naive__clip__s0").glob("*_results.json")
    results = json.loads(summary.read_text())
    assert results["n-samples"]["pope"] == {"original": 12, "effective": 12}
    mean = table[(table["run_id"] == "naiveclip0") & (table["metric"] == "b:c@0.5")]["score"].mean()
    assert results["results"]["pope"]["b:c@0.5,none"] == pytest.approx(mean, abs=1e-15)
    words = [f"{arm}/{seed}={out / f'{arm}__{context}__s{seed}'}" for arm, context, seed in runs]
    again = imported(tmp_path / "again.parquet", *words)
    key = ["arm", "context", "seed", "benchmark", "metric", "example_id"]
    pd.testing.assert_frame_equal(
        again.sort_values(key, ignore_index=True),
        table.sort_values(key, ignore_index=True)[SCHEMA.names],
        check_dtype=False,
    )
    with pytest.raises(UserError, match="exists"):
        logs.run(["export", str(tmp_path / "results.parquet"), "--out", str(out)])


def test_an_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    row = dict.fromkeys(SCHEMA.names, "x") | {"seed": 0, "score": 1.0}
    pd.DataFrame([row, row]).to_parquet(tmp_path / "twice.parquet")
    pd.DataFrame([row]).drop(columns="metric").to_parquet(tmp_path / "lacks.parquet")
    (tmp_path / "text.parquet").write_text("no")
    for name, complaint in (
        ("twice", "scores x twice by x"),
        ("lacks", "lacks the columns metric"),
        ("text", "cannot be read as Parquet"),
        ("none", "there is no file"),
    ):
        with pytest.raises(UserError, match=complaint):
            logs.run(["export", str(tmp_path / f"{name}.parquet"), "--out", str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "lacks.parquet",
        "text.parquet",
        "twice.parquet",
    ]


KIT = [
    {
        "index": 1,
        "question": "what\nis it?",
        "answer": "['red', 'Red']",
        "prediction": "red",
        "image_path": "a/7.jpg",
    },
    {"index": 2, "question": "and, this?", "answer": "['dog']", "prediction": "cat", "image_path": "a/7.jpg"},
]


def kit_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=4))
    elif path.suffix == ".xlsx":
        pd.DataFrame(rows).to_excel(path, index=False)
    else:
        frame = pd.DataFrame(rows)
        separator = "," if path.suffix == ".csv" else "\t"
        frame.to_csv(path, sep=separator, index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)
    return path


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".json", ".xlsx"])
def test_a_table_of_vlmevalkit(tmp_path: Path, suffix: str) -> None:
    if suffix == ".xlsx":
        pytest.importorskip("openpyxl")
    rows = [
        {**KIT[0], "eval_match": [0.3333333333333333, 0.0], "eval_score": 0.16666666666666666},
        {**KIT[1], "eval_match": [0], "eval_score": 0},
    ]
    path = tmp_path / "llava_v1.5_7b" / "T2026_G1" / f"llava_v1.5_7b_TextVQA_VAL_results{suffix}"
    log = vlmevalkit.read(kit_table(path, rows))
    assert log.benchmark == "TextVQA_VAL"
    assert [sample.example_id for sample in log.samples] == ["TextVQA_VAL/1", "TextVQA_VAL/2"]
    assert [sample.scores for sample in log.samples] == [{"eval_score": 1 / 6}, {"eval_score": 0.0}]
    assert [sample.picture for sample in log.samples] == ["a/7", "a/7"]
    assert (log.samples[0].prediction, log.samples[0].target) == ("red", "['red', 'Red']")


@pytest.mark.parametrize(
    ("name", "benchmark", "column", "values", "scores"),
    [
        ("m_MMBench_DEV_EN_exact_matching_result.csv", "MMBench_DEV_EN", "hit", [1, 0], [1, 0]),
        ("m_MMBench_DEV_EN_gpt-4o_result.csv", "MMBench_DEV_EN", "hit", [True, False], [1, 0]),
        ("m_POPE_auxmatch.tsv", "POPE", "score", [True, False], [1, 0]),
        ("m_GQA_detailed_results.tsv", "GQA", "verifier_score", [True, True], [1, 1]),
        ("m_DocVQA_VAL_results.json", "DocVQA_VAL", "eval_match", [[0.2, 0.7], [0.6]], [0.8, 0]),
        ("m_ChartQA_TEST_results.json", "ChartQA_TEST", "eval_match", [[True, False], [False]], [1, 0]),
    ],
)
def test_scores_where_vlmevalkit_puts_them(
    tmp_path: Path, name: str, benchmark: str, column: str, values: Sequence[Any], scores: Sequence[float]
) -> None:
    rows = [{**row, column: value} for row, value in zip(KIT, values, strict=True)]
    log = vlmevalkit.read(kit_table(tmp_path / "m" / name, rows))
    assert log.benchmark == benchmark
    assert [next(iter(sample.scores.values())) for sample in log.samples] == pytest.approx(scores)


def test_what_is_wrong_in_a_table_is_named(tmp_path: Path) -> None:
    good = {**KIT[0], "hit": 1}
    cases = [
        (
            "scores.tsv",
            [good, {**KIT[1], "hit": "failed"}],
            r"scores.tsv, line 4: hit holds no score for index 2",
        ),
        ("scores.json", [good, {**KIT[1], "hit": None}], r"scores.json, record 2: hit holds no score"),
        ("twice.tsv", [good, good], "line 4: B/1 stands there already, in line 2"),
        ("blank.tsv", [{**good, "index": ""}], "line 2: this row has no index"),
        ("plain.tsv", KIT, "predictions without scores"),
        ("acc.csv", [{"split": "val", "Overall": 3}], "no column index, prediction, answer; it has split"),
        ("match.json", [{**good, "eval_match": "[oops"}], "record 1: eval_match holds no score"),
    ]
    for name, rows, complaint in cases:
        with pytest.raises(DataError, match=complaint):
            vlmevalkit.read(kit_table(tmp_path / name, rows), "B")
    (tmp_path / "cut.tsv").write_text("index\tprediction\tanswer\thit\n1\ta\n")
    with pytest.raises(DataError, match="line 2: 2 fields under a header of 4"):
        vlmevalkit.read(tmp_path / "cut.tsv", "B")
    (tmp_path / "cut.json").write_text('[{"index": 1')
    (tmp_path / "p.pkl").write_bytes(b"")
    for name, complaint in (("cut.json", "cannot be read"), ("p.pkl", "a pickle is not read")):
        with pytest.raises(UserError, match=complaint):
            vlmevalkit.read(tmp_path / name, "B")
    with pytest.raises(UserError, match="ARM/SEED:BENCHMARK"):
        vlmevalkit.read(kit_table(tmp_path / "m_B.tsv", [good]))


def test_excel_without_its_package_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise ImportError("Missing optional dependency 'openpyxl'")

    monkeypatch.setattr(pd, "read_excel", absent)
    (tmp_path / "t.xlsx").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install openpyxl, or .*PRED_FORMAT=tsv"):
        vlmevalkit.read(tmp_path / "t.xlsx", "B")


def test_both_harnesses_in_one_table(tmp_path: Path) -> None:
    rows = [{**row, "hit": i} for i, row in enumerate(KIT)]
    words = []
    for arm in ("x", "y"):
        words.append(f"{arm}:MMBench={kit_table(tmp_path / arm / 'scores.tsv', rows)}")
        words.append(f"{arm}={pope_log(tmp_path / arm / '1_samples_pope.jsonl', ['yes', 'no'])}")
    table = imported(tmp_path / "out.parquet", *words)
    assert sorted(table["benchmark"].unique()) == ["MMBench", "pope"]


def test_help_and_mistakes_of_the_command(tmp_path: Path) -> None:
    for words in ([], ["--help"], ["import", "--help"], ["export", "-h"]):
        with pytest.raises(verbs.Help, match="usage: vlmablate logs"):
            logs.run(words)
    log = pope_log(tmp_path / "1_samples_pope.jsonl", ["yes"])
    for words, complaint in (
        (["imprt"], "did you mean 'import'"),
        (["import", f"x={log}"], "Write --out"),
        (["import", f"x={log}", "--out", str(tmp_path / "o.csv")], "must end in .parquet"),
        (["import", f"x={log}", "--out", str(log)], "exists"),
        (["export", "a", "b", "--out", str(tmp_path / "o")], "one table at a time"),
    ):
        with pytest.raises(UserError, match=complaint):
            logs.run(words)
