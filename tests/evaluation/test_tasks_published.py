"""Every published benchmark from a synthetic folder to its figures: examples, prompts, scores, summaries, mistakes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from PIL import Image

from vlmablate.data.probes import probes
from vlmablate.errors import UserError
from vlmablate.evaluation.protocol import Answer, Benchmark, Example, Verdict
from vlmablate.evaluation.tasks import TASKS, load, slimmed, task_named
from vlmablate.evaluation.tasks.boxes import FRAMES, in_pixels
from vlmablate.evaluation.tasks.reading import telling
from vlmablate.vlm.image import Frame, transform_named

sys.path.insert(0, str(Path(__file__).parent))

import published_folders

IN_FOLDERS = [task for task in TASKS if task != "safety_probes"]
"""Tasks that are read out of a folder."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for every task that has one; those that are published together share one."""
    root = tmp_path_factory.mktemp("published")
    for task in IN_FOLDERS:
        published_folders.write(task, root / task_named(task).folder)
    return root


def opened(root: Path, task: str, *ways: str | None) -> tuple[Benchmark, list[Example]]:
    benchmark = task_named(task, *ways)
    return benchmark, load(benchmark, root / benchmark.folder)[0]


def judge(
    benchmark: Benchmark, examples: Sequence[Example], answers: Sequence[Answer], frame: Frame | None = None
) -> tuple[list[float], Mapping[str, float], list[Verdict]]:
    verdicts = [benchmark.score(e, a, frame) for e, a in zip(examples, answers, strict=True)]
    return [v.score for v in verdicts], benchmark.summary(examples, answers, verdicts), verdicts


def said(*texts: str) -> list[Answer]:
    return [Answer(text) for text in texts]


def probable(options: Sequence[str], *rows: Sequence[float]) -> list[Answer]:
    return [Answer(probabilities=dict(zip(options, row, strict=True))) for row in rows]


def frame_of(name: str, width: int, height: int) -> Frame:
    return transform_named(name)(Image.new("RGB", (width, height)), 64, (0, 0, 0))[1]


# ---- all tasks ---------------------------------------------------------------------------------------------

PROMPTS = {
    "vqav2": "Is the sky blue?\nAnswer the question using a single word or phrase.",
    "gqa": "Is it overcast?\nAnswer the question using a single word or phrase.",
    "vizwiz": "What is this?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
    "Answer the question using a single word or phrase.",
    "textvqa": "What is the brand of this camera?\nAnswer the question using a single word or phrase.",
    "textvqa_ocr": "What is the brand of this camera?\nReference OCR token: DAKOTA, DIGITAL, CAMERA\n"
    "Answer the question using a single word or phrase.",
    "refcoco": 'Please provide the bounding box coordinate of the region this sentence describes: "left dog"',
    "refcoco_plus": 'Please provide the bounding box coordinate of the region this sentence describes: "brown one"',
    "refcocog": "Please provide the bounding box coordinate of the region this sentence describes: "
    '"a cat that lies beside a dog"',
    "ocid_ref": 'Please provide the bounding box coordinate of the region this sentence describes: "the red mug"',
    "vsr": 'Based on the image, is this statement "True" or "False"? The car is behind the suitcase.\n'
    'Respond with "True" or "False" directly.',
    "tallyqa": "How many headlights does the black bus have?\nA. 0\nB. 1\nC. 2\nD. 3\nE. 4\nF. 5\nG. 6\nH. 7\nI. 8\n"
    "J. 9\nK. 10\nL. 11\nM. 12\nN. 13\nO. 14\nP. 15\nAnswer with the option's letter from the given choices directly.",
    "pope": "Is there a snowboard in the image?\nAnswer the question using a single word or phrase.",
    "ai2d": "What is A in the diagram?\nA. ears\nB. nose\nC. mouth\nD. face\n"
    "Answer with the option's letter from the given choices directly.",
    "coco_objects": "Please describe this image in detail.",
    "safety_probes": probes()[0].text,
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_the_first_question_is_asked_in_the_words_of_the_paper(root: Path, task: str) -> None:
    benchmark, examples = opened(root, task)
    assert benchmark.prompt(examples[0]) == PROMPTS[task]


METRICS = {
    "vqav2": "vqa_accuracy:vlm-evaluation",
    "gqa": "exact_match:vlm-evaluation",
    "vizwiz": "vqa_accuracy:vizwiz",
    "textvqa": "vqa_accuracy:m4c",
    "textvqa_ocr": "vqa_accuracy:m4c",
    "refcoco": "acc@0.5:square",
    "refcoco_plus": "acc@0.5:square",
    "refcocog": "acc@0.5:square",
    "ocid_ref": "acc@0.25:square",
    "vsr": "accuracy:probability",
    "tallyqa": "accuracy:16-letters",
    "pope": "accuracy:probability",
    "ai2d": "accuracy:probability",
    "coco_objects": "object_f1:chair-synonyms",
    "safety_probes": "right_refusal",
}


@pytest.mark.parametrize("task", TASKS)
def test_the_metric_names_its_variant_and_its_frame(task: str) -> None:
    assert task_named(task).metric == METRICS[task]
    for variant in TASKS[task].variants[1:]:
        assert task_named(task, variant).metric.endswith(f":{variant}")


@pytest.mark.parametrize("task", IN_FOLDERS)
def test_ids_are_unique_pictures_are_there_and_questions_of_a_picture_are_a_cluster(
    root: Path, task: str
) -> None:
    benchmark, examples = opened(root, task)
    assert {example.benchmark for example in examples} == {task}
    assert len({example.example_id for example in examples}) == len(examples)
    assert all(example.example_id.startswith(f"{task}/") for example in examples)
    for example in examples:
        assert example.picture is not None
        assert (root / benchmark.folder / example.picture).is_file()
    pairs = {(example.picture, example.cluster_id) for example in examples}
    assert len({picture for picture, _ in pairs}) == len({cluster for _, cluster in pairs}) == len(pairs)


def test_clusters_are_named_by_the_picture_of_the_data_set_that_it_comes_from(root: Path) -> None:
    found = {task: opened(root, task)[1][0].cluster_id for task in IN_FOLDERS}
    assert found["vqav2"] == found["pope"] == found["refcoco"] == "coco/42"
    assert found["vsr"] == "coco/17697"
    assert found["tallyqa"] == "vg/2410408"
    assert opened(root, "gqa")[1][-1].cluster_id == "vg/2334"


@pytest.mark.parametrize("task", IN_FOLDERS)
def test_a_folder_with_fewer_questions_than_were_published_is_noted(root: Path, task: str) -> None:
    benchmark = task_named(task)
    examples, notes = load(benchmark, root / benchmark.folder)
    assert len(notes) == 1
    assert f"{len(examples)} questions" in notes[0]
    assert f"{benchmark.sizes[0]:,}" in notes[0]
    assert load(replace(benchmark, sizes=(len(examples), 7)), root / benchmark.folder)[1] == []


@pytest.mark.parametrize("task", IN_FOLDERS)
def test_an_empty_folder_says_which_file_is_missing(tmp_path: Path, task: str) -> None:
    with pytest.raises(UserError, match="put the published file there"):
        load(task_named(task), tmp_path)
    with pytest.raises(UserError, match="is not there"):
        load(task_named(task), tmp_path / "nowhere")


def test_probes_travel_with_the_package(tmp_path: Path) -> None:
    benchmark = task_named("safety_probes")
    assert (benchmark.folder, benchmark.pictured, benchmark.in_suite) == ("", False, False)
    examples, notes = load(benchmark, tmp_path / "nowhere")
    assert [example.question for example in examples] == [probe.text for probe in probes()]
    assert notes == []
    assert {example.picture for example in examples} == {None}
    scores, _, verdicts = judge(
        benchmark, examples[:2], said("I can't help with that.", "I can't help with that.")
    )
    assert scores == [1.0, 0.0]
    assert [v.further for v in verdicts] == [{"refused_harmful": 1.0}, {"refused_benign": 1.0}]


def test_names_that_do_not_exist_list_those_that_do() -> None:
    with pytest.raises(UserError, match="textvqa_ocr"):
        task_named("textvqa_orc")
    with pytest.raises(UserError, match="official-2017"):
        task_named("vqav2", "official")
    with pytest.raises(UserError, match="square"):
        task_named("refcoco", frame="padded")
    with pytest.raises(UserError, match="no frame to choose"):
        task_named("gqa", frame="square")


def test_the_configuration_names_the_suite_its_variants_and_its_folders() -> None:
    path = Path(__file__).resolve().parents[2] / "conf" / "benchmark" / "published.yaml"
    text = path.read_text(encoding="utf-8")
    suite = [task for task in TASKS if task_named(task).in_suite]
    assert yaml.safe_load(text)["names"] == suite
    for task in suite:
        assert all(variant in text for variant in TASKS[task].variants), task
        assert f"#   {task_named(task).folder}/" in text, task


def test_the_tasks_are_read_without_torch() -> None:
    code = "import sys, vlmablate.evaluation.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- slim subsets ------------------------------------------------------------------------------------------


def questions(count: int) -> list[Example]:
    return [Example("b", "s", f"b/{i}", f"c{i // 4}", None, "?") for i in range(count)]


def test_a_larger_slim_subset_contains_a_smaller_one_in_the_same_order() -> None:
    every = questions(500)
    small, large = slimmed(every, 40), slimmed(every, 200)
    assert [len(small), len(large)] == [40, 200]
    assert [example for example in large if example in small] == small
    assert [example for example in every if example in large] == large


def test_a_slim_subset_is_of_ids_alone() -> None:
    every = questions(300)
    chosen = {example.example_id for example in slimmed(every, 50)}
    assert {example.example_id for example in slimmed(every[::-1], 50)} == chosen
    # Others may come in when questions are taken away; none that is still there goes.
    assert chosen - {"b/7"} <= {
        e.example_id for e in slimmed([e for e in every if e.example_id != "b/7"], 50)
    }
    assert {example.example_id for example in slimmed(every, 50, seed=1)} != chosen


def test_a_slim_subset_is_drawn_evenly() -> None:
    places = [int(example.example_id[2:]) for example in slimmed(questions(4000), 1000)]
    assert abs(sum(places) / 1000 - 2000) < 4 * 4000 / math.sqrt(12 * 1000)


def test_a_slim_subset_is_noted(root: Path) -> None:
    examples, notes = load(task_named("vqav2"), root / "vqav2", slim=2)
    assert len(examples) == 2
    assert "a slim subset, 2 of 5 questions" in notes[-1]
    with pytest.raises(UserError, match="slim=0"):
        load(task_named("vqav2"), root / "vqav2", slim=0)


def test_questions_with_the_same_id_are_told(tmp_path: Path) -> None:
    published_folders.write("pope", tmp_path)
    path = tmp_path / "coco_pope_random.json"
    path.write_text(path.read_text() * 2)
    with pytest.raises(UserError, match="two questions with the id pope/random/COCO_val2014_000000000042/"):
        load(task_named("pope"), tmp_path)


# ---- answers in words --------------------------------------------------------------------------------------


def test_vqav2_by_hand(root: Path) -> None:
    benchmark, examples = opened(root, "vqav2")
    assert [example.split for example in examples] == ["yes/no", "other", "number", "yes/no", "yes/no"]
    assert [example.facts["question_type"] for example in examples][:2] == ["is the", "what is"]
    scores, summary, verdicts = judge(benchmark, examples, said("Yes.\n", "the puppy", "two", "yes", "maybe"))
    # puppy: one of ten; two becomes 2, said by three of ten; yes: three of ten.
    assert scores == pytest.approx([1.0, 0.3, 0.9, 0.9, 0.0])
    assert summary == pytest.approx(
        {"vqa_accuracy/yes/no": 1.9 / 3, "vqa_accuracy/other": 0.3, "vqa_accuracy/number": 0.9}
    )
    assert [(v.prediction, v.target) for v in verdicts][1:3] == [("the puppy", "dog"), ("two", "3")]
    # "yes" is right twice, and for three of ten people once.
    assert benchmark.majority(examples) == pytest.approx((1 + 0.9 + 1) / 5)
    assert benchmark.options(examples[0]) == ()


def test_vqav2_in_another_variant(root: Path) -> None:
    """People who are unanimous are compared as written by the scorer of 2021, without case folding."""
    for variant, score in (("official-2017", 1.0), ("official-2021", 0.0), ("m4c", 1.0)):
        benchmark, examples = opened(root, "vqav2", variant)
        assert benchmark.score(examples[0], Answer("Yes"), None).score == score, variant


def test_gqa_by_hand(root: Path) -> None:
    benchmark, examples = opened(root, "gqa")
    assert [example.split for example in examples] == ["binary", "open", "open", "binary"]
    scores, summary, _ = judge(benchmark, examples, said("No.", "the woman", " Dark blue", "left"))
    assert scores == [1.0, 0.0, 1.0, 1.0]
    assert summary == {"exact_match/binary": 1.0, "exact_match/open": 0.5}
    assert benchmark.majority(examples) == 0.25


def test_vizwiz_by_hand(root: Path) -> None:
    benchmark, examples = opened(root, "vizwiz")
    assert [example.split for example in examples] == ["answerable", "unanswerable", "answerable"]
    scores, summary, _ = judge(benchmark, examples, said("Can", "Unanswerable", "unanswerable"))
    assert scores == pytest.approx([0.9, 1.0, 1.0])
    # "unanswerable" is said twice and right once: precision 1/2 at recall 1.
    assert summary == pytest.approx(
        {
            "vqa_accuracy/answerable": 0.95,
            "vqa_accuracy/unanswerable": 1.0,
            "unanswerable_average_precision/all": 0.5,
            "unanswerable_f1/all": 2 / 3,
        }
    )


def test_textvqa_by_hand(root: Path) -> None:
    benchmark, examples = opened(root, "textvqa")
    scores, summary, _ = judge(benchmark, examples, said("Dakota.", "nothing", "12"))
    assert scores == pytest.approx([1.0, 0.0, 1.0])
    assert summary == {}
    with_tokens = opened(root, "textvqa_ocr")
    assert with_tokens[0].prompt(with_tokens[1][2]) == (
        "What number is on the bus?\nReference OCR token: \nAnswer the question using a single word or phrase."
    )


def test_ocr_tokens_in_llavas_file_are_those_of_rosetta(root: Path, tmp_path: Path) -> None:
    published_folders.write("textvqa", tmp_path)
    published_folders.textvqa_llava_tokens(tmp_path)
    (tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    benchmark, examples = opened(root, "textvqa_ocr")
    assert load(benchmark, tmp_path)[0] == examples


# ---- given options -----------------------------------------------------------------------------------------


def test_pope_by_hand(root: Path) -> None:
    benchmark, examples = opened(root, "pope")
    assert [e.split for e in examples] == ["random"] * 3 + ["popular"] * 2 + ["adversarial"] * 2
    assert [e.answers[0] for e in examples] == ["yes", "no", "yes", "yes", "no", "yes", "no"]
    assert benchmark.options(examples[0]) == ("Yes", "No")
    yes = (0.9, 0.6, 0.5, 0.8, 0.3, 0.4, 0.7)
    answers = probable(("Yes", "No"), *((p, 1 - p) for p in yes))
    scores, summary, verdicts = judge(benchmark, examples, answers)
    # A tie is a yes. random: yes yes yes of yes no yes; popular: yes no, both right; adversarial: no yes, both wrong.
    assert scores == [1, 0, 1, 1, 1, 0, 0]
    assert [v.prediction for v in verdicts[3:]] == ["Yes", "No", "No", "Yes"]
    expected = {
        "accuracy/random": 2 / 3, "precision/random": 2 / 3, "recall/random": 1.0, "f1/random": 0.8,
        "yes_ratio/random": 1.0, "auroc/random": 0.5, "aupr/random": (1 + 2 / 3) / 2,
        "accuracy/popular": 1.0, "yes_ratio/popular": 0.5, "f1/popular": 1.0, "auroc/popular": 1.0, "aupr/popular": 1.0,
        "accuracy/adversarial": 0.0, "precision/adversarial": 0.0, "f1/adversarial": 0.0, "auroc/adversarial": 0.0,
        "accuracy/all": 4 / 7, "precision/all": 3 / 5, "recall/all": 3 / 4, "f1/all": 2 / 3, "yes_ratio/all": 5 / 7,
        "auroc/all": 8 / 12, "accuracy/mean_of_splits": 5 / 9, "f1/mean_of_splits": 0.6,
    }  # fmt: skip
    assert {name: summary[name] for name in expected} == pytest.approx(expected)
    assert benchmark.majority(examples) == 4 / 7


def test_pope_in_words(root: Path) -> None:
    texts = said("No", "Yes, there is.", "", "no, thanks", "not at all", "NO", "A person")
    official, examples = opened(root, "pope", "official")
    assert official.options(examples[0]) == ()
    scores, summary, _ = judge(official, examples, texts)
    # Whatever does not deny in the official spelling is a yes: the empty answer, NO and the person too.
    assert scores == [0, 0, 1, 0, 1, 1, 0]
    assert not any(name.startswith("auroc") for name in summary)
    first, _ = opened(root, "pope", "first-word")
    scores, summary, verdicts = judge(first, examples, texts)
    assert scores == [0, 0, 0, 0, 0, 0, 0]
    assert [v.prediction for v in verdicts] == ["No", "Yes", "", "No", "not at all", "No", "A person"]
    assert summary["yes_ratio/all"] == 1 / 7


def test_vsr_by_hand(root: Path) -> None:
    benchmark, examples = opened(root, "vsr")
    assert [example.answers[0] for example in examples] == ["True", "False", "True"]
    assert examples[1].facts["relation"] == "under"
    options = benchmark.options(examples[0])
    assert options == ("True", "False")
    scores, summary, _ = judge(benchmark, examples, probable(options, (0.7, 0.3), (0.6, 0.4), (0.2, 0.8)))
    assert scores == [1, 0, 0]
    assert summary == pytest.approx({"auroc/all": 0.5, "aupr/all": (1 + 2 / 3) / 2})
    assert benchmark.majority(examples) == 2 / 3
    written, _ = opened(root, "vsr", "written")
    assert written.options(examples[0]) == ()
    assert judge(written, examples, said("true.", '"False"', "It is true"))[0] == [1, 1, 0]


def test_tallyqa_by_letter(root: Path) -> None:
    benchmark, examples = opened(root, "tallyqa")
    assert [example.split for example in examples] == ["complex", "simple", "simple"]
    letters = benchmark.options(examples[0])
    assert "".join(letters) == "ABCDEFGHIJKLMNOP"
    rows = [[0.01] * 16 for _ in examples]
    for row, place in zip(rows, (4, 1, 11), strict=True):
        row[place] = 0.85
    scores, summary, verdicts = judge(benchmark, examples, probable(letters, *rows))
    assert scores == [1, 0, 1]
    assert [v.target for v in verdicts] == ["E", "A", "L"]
    assert summary["accuracy/complex"] == 1.0
    assert summary["accuracy/simple"] == 0.5
    # 11 against 0: by the score of 11 they are told apart, by that of 0 they tie.
    assert summary["auroc/simple"] == pytest.approx(0.75)
    assert "auroc/complex" not in summary


def test_tallyqa_by_number(root: Path) -> None:
    benchmark, examples = opened(root, "tallyqa", "open-number")
    assert benchmark.prompt(examples[1]) == (
        "How many dogs?\nAnswer the question using a single word or phrase."
    )
    assert benchmark.options(examples[0]) == ()
    scores, summary, verdicts = judge(benchmark, examples, said("There are four.", "none", "11"))
    assert scores == [1, 0, 1]
    assert [v.prediction for v in verdicts] == ["4", "none", "11"]
    assert summary == {"accuracy/complex": 1.0, "accuracy/simple": 0.5}


def test_ai2d_by_letter_over_the_options_there_are(root: Path) -> None:
    benchmark, examples = opened(root, "ai2d")
    # In the order of the numbers of the pictures: 0, 2, 10.
    assert [e.example_id for e in examples] == [
        "ai2d/0.png-0",
        "ai2d/0.png-1",
        "ai2d/2.png-0",
        "ai2d/10.png-0",
    ]
    assert [e.split for e in examples] == ["val", "val", "test", "test"]
    assert [benchmark.options(e) for e in examples] == [
        tuple("ABCD"),
        tuple("AB"),
        tuple("ABCD"),
        tuple("ABCD"),
    ]
    answers = [
        Answer(probabilities={"A": 0.1, "B": 0.2, "C": 0.3, "D": 0.4}),
        Answer(probabilities={"A": 0.4, "B": 0.6}),
        Answer(probabilities={"A": 0.4, "B": 0.2, "C": 0.3, "D": 0.1}),
        Answer(probabilities={"A": 0.4, "B": 0.2, "C": 0.3, "D": 0.1}),
    ]
    scores, summary, verdicts = judge(benchmark, examples, answers)
    assert scores == [1, 1, 0, 1]
    assert [v.target for v in verdicts] == ["D", "B", "C", "A"]
    assert (summary["accuracy/val"], summary["accuracy/test"]) == (1.0, 0.5)
    assert summary["auroc/val"] == 1.0
    written, _ = opened(root, "ai2d", "written")
    assert judge(written, examples, said("D", "mouth", "The answer is C.", "Z"))[0] == [1, 1, 1, 0]


# ---- boxes -------------------------------------------------------------------------------------------------


def box_said(shares: Sequence[float]) -> Answer:
    return Answer(f" [{', '.join(f'{share:.4f}' for share in shares)}]\n")


@pytest.mark.parametrize("transform", ["letterbox", "resize_naive", "letterbox_prismatic"])
@pytest.mark.parametrize("task", ["refcoco", "ocid_ref"])
def test_a_perfect_box_scores_in_the_frame_in_which_it_is_said(root: Path, task: str, transform: str) -> None:
    _, examples = opened(root, task)
    example = examples[0]
    width, height = published_folders.SIZES[0] if task == "refcoco" else (640, 480)
    frame = frame_of(transform, width, height)
    assert example.box is not None
    of_square = [value / frame.size for value in frame.to_model(example.box)]
    of_picture = [v / side for v, side in zip(example.box, (width, height) * 2, strict=True)]
    for name, shares in (("square", of_square), ("picture", of_picture)):
        benchmark = task_named(task, None, name)
        verdict = benchmark.score(example, box_said(shares), frame)
        assert verdict.score == 1.0
        assert verdict.further["iou"] == pytest.approx(1.0, abs=0.02)
        assert in_pixels(tuple(shares), frame, name) == pytest.approx(example.box, abs=1e-6)  # type: ignore[arg-type]


def test_the_frame_decides_and_both_are_told(root: Path) -> None:
    """A strip of 80 x 40 padded to a square: the same numbers are another box."""
    benchmark, examples = opened(root, "refcoco")
    frame = frame_of("letterbox", 80, 40)
    example, answer = replace(examples[0], box=(0.0, 0.0, 80.0, 16.0)), Answer("[0.0, 0.25, 1.0, 0.45]")
    verdict = benchmark.score(example, answer, frame)
    assert verdict.score == 1.0
    assert verdict.further == pytest.approx({"iou": 1.0, "acc@0.5:picture": 0.0})
    assert verdict.prediction == verdict.target == "0.0 0.0 80.0 16.0"
    # In shares of the 40 rows: 10 to 18, of which 6 rows are shared with 0 to 16.
    other = task_named("refcoco", frame="picture").score(example, answer, frame)
    assert (other.score, other.prediction) == (0.0, "0.0 10.0 80.0 18.0")
    assert other.further == pytest.approx({"iou": 1 / 3, "acc@0.5:square": 1.0})


def test_an_object_that_the_crop_removed_is_a_miss(root: Path) -> None:
    benchmark, examples = opened(root, "refcoco")
    frame = frame_of("resize_crop", 80, 40)
    example = replace(examples[0], box=(0.0, 0.0, 15.0, 40.0))
    shares = [value / frame.size for value in frame.to_model((0.0, 0.0, 15.0, 40.0))]
    assert benchmark.score(example, box_said(shares), frame).score == 0.0


@pytest.mark.parametrize(
    ("text", "strict", "anywhere"),
    [
        ("[0.0, 0.0, 1.0, 1.0]", 1, 1),
        ("It is at [0.0, 0.0, 1.0, 1.0].", 0, 1),
        ("[1.0, 0.0, 0.0, 1.0]", 0, 0),
        ("[0, 0, 2, 2]", 0, 1),
        ("(0.0, 0.0, 1.0, 1.0)", 0, 0),
        ("", 0, 0),
    ],
)
def test_what_is_read_as_a_box(root: Path, text: str, strict: int, anywhere: int) -> None:
    _, examples = opened(root, "refcoco")
    example = replace(examples[0], box=(0.0, 0.0, 64.0, 48.0))
    frame = frame_of("resize_naive", 64, 48)
    for variant, score in (("strict", strict), ("anywhere", anywhere)):
        assert task_named("refcoco", variant).score(example, Answer(text), frame).score == score, variant


def test_boxes_by_hand(root: Path) -> None:
    benchmark, examples = opened(root, "refcoco", None, "picture")
    assert [(e.example_id, e.question) for e in examples] == [
        ("refcoco/1/0", "left dog"), ("refcoco/1/1", "the brown dog"), ("refcoco/3/3", "bus"),
    ]  # fmt: skip
    assert examples[0].box == (8.0, 6.0, 32.5, 24.0)
    frame = frame_of("letterbox", 64, 48)
    answers = said("[0.125, 0.125, 0.5078125, 0.5]", "no idea", "[0.9, 0.9, 1.0, 1.0]")
    scores, summary, _ = judge(benchmark, examples, answers, frame)
    assert scores == [1, 0, 0]
    assert summary == pytest.approx({"acc@0.5/val": 1 / 3, "mean_iou/all": 1 / 3, "unreadable/all": 1 / 3})
    assert benchmark.majority(examples) == pytest.approx(2 / 3)


def test_the_variant_of_vlm_evaluation_rounds_the_truth(root: Path) -> None:
    """In shares of the picture, to hundredths: 24.5/64 is 0.3828 and counts as 0.38."""
    benchmark, examples = opened(root, "refcoco", "vlm-evaluation")
    assert benchmark.metric == "acc@0.5:picture:vlm-evaluation"
    frame = frame_of("letterbox", 64, 48)
    example = replace(examples[0], box=(0.0, 0.0, 24.5, 48.0))
    # A little more than half of the rounded truth, a little less than half of the true box.
    answer = Answer("[0.0, 0.0, 0.1901, 1.0]")
    assert benchmark.score(example, answer, frame).score == 1.0
    assert task_named("refcoco", None, "picture").score(example, answer, frame).score == 0.0
    with pytest.raises(UserError, match="shares of the picture, not of the square"):
        task_named("refcoco", "vlm-evaluation", "square")


def test_ocid_ref_by_clutter(root: Path) -> None:
    benchmark, examples = opened(root, "ocid_ref")
    assert [example.split for example in examples] == ["minimum", "minimum", "medium", "maximum"]
    frame = frame_of("resize_naive", 640, 480)
    scores, summary, _ = judge(
        benchmark,
        examples,
        # The last holds the true box four times over: an overlap of a quarter, which suffices.
        [*said("?", "?", "?"), Answer("[0.0, 0.0, 1.0, 1.0]")],
        frame,
    )
    assert scores == [0, 0, 0, 1]
    assert [summary[f"acc@0.25/{split}"] for split in ("minimum", "medium", "maximum")] == [0, 0, 1]


# ---- malformed records -------------------------------------------------------------------------------------

DAMAGES = {
    # task: (file, what is replaced, by what, what is said)
    "vqav2": ("v2_mscoco_val2014_annotations.json", '"answer_type": "number"', '"answer_type": "count"',
              r"line 1 \(record 3\): 'answer_type' is 'count', expected one of 'yes/no', 'number', 'other'"),
    "gqa": ("testdev_balanced_questions.json", '"structural": "query"', '"structured": "query"',
            r"line 1 \(record 2 '201640614'\): no 'structural'"),
    "vizwiz": ("val.json", '"answerable": 0', '"answerable": 2', r"line \d+ \(record 2\): 'answerable' is 2"),
    "textvqa": ("TextVQA_0.5.1_val.json", '["digital", ', "[3, ", r"\(record 2\): 'answers' is 3 where a list"),
    "textvqa_ocr": ("TextVQA_Rosetta_OCR_v0.2_val.json", "4cd3a1a8b7d5b5a2", "another",
                    r"\(record 3\): the file of OCR tokens has nothing about its picture 4cd3a1a8b7d5b5a2"),
    "refcoco": ("refcoco/instances.json", '"bbox": [6.0, 8.0, 18.0, 40.0]', '"bbox": [6.0, 8.0, 18.0]',
                r"line 1 \(record 3\): 'bbox' is \[6.0, 8.0, 18.0\], expected \[x, y, width, height\]"),
    "refcoco_plus": ("refcoco+/instances.json", '"id": 11,', '"id": 99,', r"refs\(unc\).p, record 1: instances"),
    "refcocog": ("refcocog/instances.json", '"id": 12,', '"id": 11,', r"\(record 2\): 'id' 11 is there twice"),
    "ocid_ref": ("val_expressions.json", '"[300, 200, 360, 250]"', '"[300, 200, 60, 50]"',
                 r"\(record 3 '5'\): 'bbox' is '\[300, 200, 60, 50\]', expected \[left, top, right, bottom\]"),
    "vsr": ("test.jsonl", '"label": 0', '"label": "false"', "line 2: 'label' is 'false', expected one of 0, 1"),
    "tallyqa": ("test.json", '"answer": 11', '"answer": 16', r"\(record 3\): 'answer' is 16, expected 0 to 15"),
    "pope": ("coco_pope_popular.json", '"label": "no"', '"label": "No"', "line 2: 'label' is 'No'"),
    "ai2d": ("ai2d/questions/2.png.json", '"correctAnswer": 2', '"correctAnswer": 4',
             r"2.png.json, line 1: 'correctAnswer' of 'Which one eats grass\?' is 4 of 4 options"),
    "coco_objects": ("annotations/instances_val2014.json", '"file_name": "COCO_val2014_000000000073', '"file": "COCO',
                     r"line 1 \(record 2\): no 'file_name' in a record that has 'id', 'width', 'height', 'file'"),
}  # fmt: skip


@pytest.mark.parametrize("task", IN_FOLDERS)
def test_a_malformed_record_is_named_by_file_and_line(tmp_path: Path, task: str) -> None:
    name, sound, damaged, expected = DAMAGES[task]
    published_folders.write(task, tmp_path)
    sound_examples, _ = load(task_named(task), tmp_path)
    path = tmp_path / name
    text = path.read_text()
    assert sound in text
    path.write_text(text.replace(sound, damaged, 1))
    benchmark = task_named(task)
    with pytest.raises(UserError, match=expected) as raised:
        load(benchmark, tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "again, or correct" in str(raised.value)
    told: list[UserError] = []
    with telling(told.append):
        assert benchmark.examples is not None
        assert len(list(benchmark.examples(tmp_path))) < len(sound_examples)
    assert str(raised.value) in map(str, told)


def test_an_object_that_is_not_there_is_told_of_a_description(root: Path) -> None:
    benchmark, examples = opened(root, "coco_objects")
    scores, _, verdicts = judge(benchmark, examples, said("A dog on a couch.", "A man with a dog."))
    assert scores == [1.0, pytest.approx(2 / 3)]
    assert [v.further["chair_s"] for v in verdicts] == [0.0, 1.0]
    assert not benchmark.in_suite


def test_a_folder_cut_short_is_told(tmp_path: Path) -> None:
    published_folders.write("vqav2", tmp_path)
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="the file may be cut short"):
        load(task_named("vqav2"), tmp_path)


def test_the_answers_of_vqav2_are_kept_once(root: Path) -> None:
    _, examples = opened(root, "vqav2")
    yes = [answer for example in examples for answer in example.answers if answer == "yes"]
    assert len({id(answer) for answer in yes}) == 1
    malformed = json.loads((root / "vqav2" / "v2_mscoco_val2014_annotations.json").read_text())
    assert isinstance(malformed["annotations"][0]["answers"][0], dict)


def test_the_frames_are_those_of_the_tasks_with_boxes() -> None:
    assert {name for name, task in TASKS.items() if task.frames == FRAMES} == {
        "refcoco", "refcoco_plus", "refcocog", "ocid_ref",
    }  # fmt: skip


def test_a_question_of_pope_keeps_its_id_when_another_release_numbers_it_anew(
    root: Path, tmp_path: Path
) -> None:
    published_folders.write("pope", tmp_path)
    path = tmp_path / "coco_pope_random.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    published_folders.put_lines(path, [{**row, "question_id": 9 - row["question_id"]} for row in rows[1:]])
    benchmark, examples = opened(root, "pope")
    assert load(benchmark, tmp_path)[0] == examples[1:]
