from __future__ import annotations

from pathlib import Path

import pytest

from vlmablate.errors import UserError
from vlmablate.files import write_json
from vlmablate.orchestration.names import Index


def declare(home: Path, study: str, runs: list[tuple[str, str, int, str]]) -> None:
    entries, steps = [], {}
    for arm, context, seed, run_id in runs:
        entries.append(
            {"arm": arm, "context": context, "seed": seed, "run_id": run_id, "steps": {"evaluate": run_id}}
        )
        slug = f"{arm}-s{seed}"
        steps[run_id] = {"kind": "evaluate", "slug": slug, "dir": f"steps/evaluate/{slug}-{run_id}"}
    write_json(home / "studies" / study / "study.json", {"name": study, "runs": entries, "steps": steps})


@pytest.fixture
def index(tmp_path: Path) -> Index:
    declare(tmp_path, "resize-tiny", [("letterbox", "default", s, f"aaaa{s:012d}") for s in (0, 1)])
    declare(
        tmp_path,
        "towers",
        [
            ("letterbox", "clip", 0, "bbbb000000000000"),
            ("letterbox", "siglip", 0, "cccc000000000000"),
            ("letterbox", "default", 1, "aaaa000000000001"),
        ],
    )
    return Index(tmp_path)


@pytest.mark.parametrize(
    ("word", "ids"),
    [
        ("resize-tiny", {"aaaa000000000000", "aaaa000000000001"}),
        ("resize-tiny/letterbox/s0", {"aaaa000000000000"}),
        ("resize-tiny/letterbox", {"aaaa000000000000", "aaaa000000000001"}),
        ("letterbox/clip/s0", {"bbbb000000000000"}),
        ("towers/letterbox/clip", {"bbbb000000000000"}),
        ("letterbox/clip s0", {"bbbb000000000000"}),
        ("bbbb", {"bbbb000000000000"}),
        ("BBBB0000", {"bbbb000000000000"}),
        ("cccc000000000000", {"cccc000000000000"}),
        ("letterbox-s0-aaaa000000000000", {"aaaa000000000000"}),
        ("steps/evaluate/letterbox-s0-aaaa000000000000/", {"aaaa000000000000"}),
    ],
)
def test_what_people_call_it(index: Index, word: str, ids: set[str]):
    assert {run.run_id for run in index.select(word).runs} == ids


def test_one_run_of_two_studies_is_still_one_run(index: Index):
    found = index.one("aaaa000000000001")
    assert found.title == "resize-tiny/letterbox/s1"
    assert [run.study for run in found.runs] == ["resize-tiny", "towers"]
    assert index.one("letterbox/s1").title == "resize-tiny/letterbox/s1"


def test_what_means_several_runs_lists_them(index: Index):
    with pytest.raises(UserError, match=r"means 3 runs(.|\n)*  resize-tiny/letterbox/s0  aaaa"):
        index.one("letterbox/s0")
    with pytest.raises(UserError, match="the beginning of 2 ids"):
        index.select("aaaa0000")


def test_what_means_nothing_says_what_is_close(index: Index):
    with pytest.raises(UserError, match=r"close to it:\n(.|\n)*  resize-tiny/letterbox/s0"):
        index.select("resize-tiny/letterbocks/s0")
    with pytest.raises(UserError, match="nothing is called 'aaa'"):
        index.select("aaa")
    with pytest.raises(UserError, match="nothing is called ''"):
        index.select("/")


def test_a_step_that_no_study_declares_is_found_by_its_folder(index: Index):
    (index.home / "steps" / "features" / "conv-letterbox-dddd000000000000").mkdir(parents=True)
    found = index.select("dddd")
    assert found.step is not None
    assert (found.step.kind, found.step.slug, found.runs) == ("features", "conv-letterbox", ())


def test_a_damaged_declaration_hides_no_other(index: Index):
    (index.home / "studies" / "towers" / "study.json").write_text("{")
    again = Index(index.home)
    assert (list(again.studies), again.unreadable) == (["resize-tiny"], ["towers"])


def test_the_name_that_started_several_studies_means_all_of_them(index: Index):
    for study in ("resize-tiny", "towers"):
        index.studies[study]["command"] = "python -m vlmablate.sweep study=paper seeds=3"
    assert {run.study for run in index.select("paper").runs} == {"resize-tiny", "towers"}
    with pytest.raises(UserError, match="nothing is called 'pape'"):
        index.select("pape")


def test_without_studies_it_says_so(tmp_path: Path):
    with pytest.raises(UserError, match="no studies under"):
        Index(tmp_path).select("anything")
