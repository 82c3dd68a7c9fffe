"""Small synthetic folders in the format in which each benchmark is published: official file names, keys and layouts.

``write(task, folder)`` draws the pictures and writes the annotations of one benchmark; the same call writes the same
bytes. What is asked is invented; what the answers are can be read below.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

Size = tuple[int, int]
SIZES: tuple[Size, ...] = ((64, 48), (48, 64), (80, 40))


def write(task: str, folder: Path) -> Path:
    """The folder of a benchmark, by the name of its task. Tasks that share a published folder share this one."""
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[task](folder)
    return folder


def draw(path: Path, size: Size, seed: int) -> None:
    """A picture of two rectangles, another one for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    image = Image.new("RGB", size, (40 + 37 * seed % 200, 90, 255 - 29 * seed % 200))
    pen = ImageDraw.Draw(image)
    pen.rectangle((width // 8, height // 8, width // 2, height // 2), fill=(250, 20 * seed % 255, 10))
    pen.rectangle((width // 2, height // 2, width - 4, height - 3), fill=(10, 200, 30 * seed % 255))
    image.save(path, quality=85)


def put_json(path: Path, value: Any, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")


def put_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


VQAV2 = (
    # picture, question id, question, its type, type of the answer, ten answers
    (42, 42000, "Is the sky blue?", "is the", "yes/no", ["yes"] * 10),
    (42, 42001, "What is on the left?", "what is", "other", ["dog"] * 6 + ["a dog", "puppy", "cat", "cat"]),
    (73, 73000, "How many cats?", "how many", "number", ["2"] * 3 + ["two"] * 3 + ["3"] * 4),
    (73, 73001, "Is it raining?", "is it", "yes/no", ["no"] * 7 + ["yes"] * 3),
    (74, 74000, "Is there a bus?", "is there a", "yes/no", ["yes"] * 9 + ["no"]),
)


def vqav2(folder: Path) -> None:
    """Questions and annotations of VQAv2 val, and pictures of COCO val2014."""
    questions = [{"image_id": image, "question": text, "question_id": n} for image, n, text, *_ in VQAV2]
    annotations = [
        {
            "question_type": kind,
            "multiple_choice_answer": max(answers, key=answers.count),
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": i + 1}
                for i, answer in enumerate(answers)
            ],
            "image_id": image,
            "answer_type": of_answer,
            "question_id": number,
        }
        for image, number, _, kind, of_answer, answers in VQAV2
    ]
    facts = {"data_type": "mscoco", "data_subtype": "val2014", "license": {}, "info": {}}
    put_json(
        folder / "v2_OpenEnded_mscoco_val2014_questions.json",
        {**facts, "task_type": "Open-Ended", "questions": questions},
    )
    put_json(folder / "v2_mscoco_val2014_annotations.json", {**facts, "annotations": annotations})
    for i, image in enumerate(sorted({row[0] for row in VQAV2})):
        draw(folder / "val2014" / f"COCO_val2014_{image:012d}.jpg", SIZES[i % 3], i)


GQA = (
    # question id, picture, question, answer, structural type
    ("201307251", "n161313", "Is it overcast?", "no", "verify"),
    ("201640614", "n235859", "Who is wearing the dress?", "woman", "query"),
    ("202225914", "n235859", "What color is the t-shirt?", "dark blue", "query"),
    ("202209312", "2334", "Is the bag to the left or to the right of the man?", "left", "choose"),
)


def gqa(folder: Path) -> None:
    """Questions of GQA testdev_balanced, and their pictures."""
    questions = {
        number: {
            "semantic": [],
            "entailed": [],
            "equivalent": [number],
            "question": question,
            "imageId": image,
            "isBalanced": True,
            "groups": {"global": None, "local": None},
            "answer": answer,
            "semanticStr": "",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {"detailed": "", "semantic": "attr", "structural": structural},
            "fullAnswer": f"{answer}.",
        }
        for number, image, question, answer, structural in GQA
    }
    put_json(folder / "testdev_balanced_questions.json", questions)
    for i, image in enumerate(dict.fromkeys(row[1] for row in GQA)):
        draw(folder / "images" / f"{image}.jpg", SIZES[i % 3], 10 + i)


VIZWIZ = (
    # question, answers, can it be answered
    ("What is this?", ["soda can"] * 5 + ["can"] * 3 + ["coca cola"] * 2, 1),
    ("What colour is it?", ["unanswerable"] * 8 + ["grey", "unsuitable"], 0),
    ("Ok. There is another picture I hope it is a better one.", ["unanswerable"] * 4 + ["shampoo"] * 6, 1),
)


def vizwiz(folder: Path) -> None:
    """Annotations and pictures of VizWiz-VQA val."""
    rows = [
        {
            "image": f"VizWiz_val_{i:08d}.jpg",
            "question": question,
            "answers": [{"answer": answer, "answer_confidence": "yes"} for answer in answers],
            "answer_type": "other" if answerable else "unanswerable",
            "answerable": answerable,
        }
        for i, (question, answers, answerable) in enumerate(VIZWIZ)
    ]
    put_json(folder / "val.json", rows, indent=1)
    for i in range(len(rows)):
        draw(folder / "val" / f"VizWiz_val_{i:08d}.jpg", SIZES[i % 3], 20 + i)


TEXTVQA = (
    # picture, question id, question, answers, what an OCR system read
    ("003a8ae2ef43b901", 34602, "what is the brand of this camera?", ["dakota"] * 8 + ["clos culombu"] * 2,
     ["DAKOTA", "DIGITAL", "CAMERA"]),
    ("003a8ae2ef43b901", 34603, "what does the small text say?", ["digital"] * 10, ["DAKOTA", "DIGITAL", "CAMERA"]),
    ("4cd3a1a8b7d5b5a2", 34604, "what number is on the bus?", ["12"] * 5 + ["twelve"] * 5, []),
)  # fmt: skip


def textvqa(folder: Path) -> None:
    """Questions, pictures and Rosetta's tokens of TextVQA val."""
    rows = [
        {
            "question": question,
            "image_id": image,
            "image_classes": ["Camera"],
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "image_width": SIZES[0][0],
            "image_height": SIZES[0][1],
            "answers": answers,
            "question_tokens": question.rstrip("?").split(),
            "question_id": number,
            "set_name": "val",
        }
        for image, number, question, answers, _ in TEXTVQA
    ]
    put_json(
        folder / "TextVQA_0.5.1_val.json",
        {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1", "data": rows},
    )
    read = {image: tokens for image, _, _, _, tokens in TEXTVQA}
    put_json(
        folder / "TextVQA_Rosetta_OCR_v0.2_val.json",
        {
            "dataset_type": "val",
            "dataset_name": "textvqa",
            "dataset_version": "0.2",
            "data": [
                {"image_id": image, "ocr_tokens": tokens, "ocr_info": []} for image, tokens in read.items()
            ],
        },
    )
    for i, image in enumerate(read):
        draw(folder / "train_images" / f"{image}.jpg", SIZES[0], 30 + i)


def textvqa_llava_tokens(folder: Path) -> None:
    """The same tokens in the file that LLaVA's evaluation reads, beside or instead of Rosetta's."""
    put_lines(
        folder / "llava_textvqa_val_v051_ocr.jsonl",
        [
            {
                "question_id": image,
                "image": f"{image}.jpg",
                "text": f"{question.capitalize()}\nReference OCR token: {', '.join(tokens)}\n"
                "Answer the question using a single word or phrase.",
                "category": "default",
            }
            for image, _, question, _, tokens in TEXTVQA
        ],
    )


REFERENCES = {
    # folder: who split it, and its references: (reference, box number, picture, split, sentences)
    "refcoco": (
        "unc",
        (
            (1, 11, 42, "val", ("left dog", "the brown dog")),
            (2, 12, 42, "train", ("right cat",)),
            (3, 13, 73, "val", ("bus",)),
            (4, 13, 73, "testA", ("big bus",)),
        ),
    ),
    "refcoco+": ("unc", ((1, 11, 42, "val", ("brown one",)), (7, 13, 73, "val", ("blue thing", "tallest")))),
    "refcocog": ("umd", ((5, 12, 42, "val", ("a cat that lies beside a dog",)),)),
}
BOXES = {11: [8.0, 6.0, 24.5, 18.0], 12: [32.0, 24.0, 28.0, 20.25], 13: [6.0, 8.0, 18.0, 40.0]}
"""x, y, width and height in pixels of the object with that number."""


def refcoco(folder: Path) -> None:
    """References, boxes and pictures of RefCOCO, RefCOCO+ and RefCOCOg, as the REFER interface expects them."""
    images = {42: SIZES[0], 73: SIZES[1]}
    holders = {11: 42, 12: 42, 13: 73}
    sentence_id = 0
    for name, (splitter, references) in REFERENCES.items():
        refs = []
        for ref_id, ann_id, image_id, split, sentences in references:
            said = []
            for sentence in sentences:
                said.append(
                    {"tokens": sentence.split(), "raw": sentence, "sent_id": sentence_id, "sent": sentence}
                )
                sentence_id += 1
            refs.append(
                {
                    "sent_ids": [one["sent_id"] for one in said],
                    "file_name": f"COCO_train2014_{image_id:012d}_{ann_id}.jpg",
                    "ann_id": ann_id,
                    "ref_id": ref_id,
                    "image_id": image_id,
                    "split": split,
                    "sentences": said,
                    "category_id": 18,
                }
            )
        place = folder / name
        place.mkdir(exist_ok=True)
        (place / f"refs({splitter}).p").write_bytes(pickle.dumps(refs, protocol=2))
        put_json(
            place / "instances.json",
            {
                "info": {},
                "licenses": [],
                "images": [
                    {"id": n, "width": w, "height": h, "file_name": f"COCO_train2014_{n:012d}.jpg"}
                    for n, (w, h) in images.items()
                ],
                "annotations": [
                    {
                        "id": n,
                        "image_id": holders[n],
                        "category_id": 18,
                        "bbox": box,
                        "iscrowd": 0,
                        "area": 1.0,
                    }
                    for n, box in BOXES.items()
                ],
                "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
            },
        )
    for i, (image_id, size) in enumerate(images.items()):
        draw(folder / "train2014" / f"COCO_train2014_{image_id:012d}.jpg", size, 40 + i)


OCID = (
    # sentence id, number of the picture in its sequence, sentence, box
    ("1", 3, "the red mug", [100, 80, 220, 240]),
    ("2", 9, "the box to the left of the mug", [10, 20, 90, 130]),
    ("5", 10, "the lemon", [300, 200, 360, 250]),
    ("9", 17, "the cereal box behind the ball", [0, 0, 320, 240]),
)


def ocid_ref(folder: Path) -> None:
    """Expressions of OCID-Ref val, and pictures of OCID."""
    rows = {}
    for number, take, sentence, box in OCID:
        sequence = "ARID20/table/top/seq04"
        scene = f"{sequence}/rgb/result_2018-08-20-09-{take:02d}-00.png"
        rows[number] = {
            "seq_id": "4", "scene_id": str(take), "take_id": take, "scene_path": scene, "sequence_path": sequence,
            "sub_dataset": "ARID20", "instance_id": 1, "scene_instance": 1, "class": "mug", "class_instance": "mug_1",
            "new_class": "mug", "sentence": sentence, "tokens": sentence.split(), "bbox": json.dumps(box),
            "sentence_type": "template",
        }  # fmt: skip
        draw(folder / "OCID-dataset" / scene, (640, 480), 50 + take)
    put_json(folder / "val_expressions.json", rows)


VSR = (
    # picture, caption, is it true, relation
    ("000000017697.jpg", "The car is behind the suitcase.", 1, "behind"),
    ("000000199940.jpg", "The cat is under the backpack.", 0, "under"),
    ("000000199940.jpg", "The backpack is touching the cat.", 1, "touching"),
)


def vsr(folder: Path) -> None:
    """The test part of the zero-shot split of VSR, and its pictures."""
    put_lines(
        folder / "test.jsonl",
        [
            {
                "image": image, "image_link": f"http://images.cocodataset.org/train2017/{image}", "caption": caption,
                "label": label, "relation": relation, "subj": "car", "obj": "cat", "annotator_id": 2,
                "vote_true_validator_id": "[18, 2]", "vote_false_validator_id": "[]",
            }
            for image, caption, label, relation in VSR
        ],
    )  # fmt: skip
    for i, image in enumerate(dict.fromkeys(row[0] for row in VSR)):
        draw(folder / "images" / image, SIZES[i % 3], 60 + i)


TALLYQA = (
    # picture, question id, question, answer, is it simple
    ("VG_100K_2/2410408.jpg", 30095774, "How many headlights does the black bus have?", 4, False),
    ("VG_100K/2334.jpg", 30095775, "How many dogs?", 0, True),
    ("VG_100K/2334.jpg", 30095776, "How many people?", 11, True),
)


def tallyqa(folder: Path) -> None:
    """The test questions of TallyQA, and their pictures of Visual Genome."""
    put_json(
        folder / "test.json",
        [
            {
                "answer": answer, "data_source": "amt" if simple else "imported_genome", "image": image,
                "image_id": 90000000 + i, "issimple": simple, "question": question, "question_id": number,
            }
            for i, (image, number, question, answer, simple) in enumerate(TALLYQA)
        ],
    )  # fmt: skip
    for i, image in enumerate(dict.fromkeys(row[0] for row in TALLYQA)):
        draw(folder / image, SIZES[i % 3], 70 + i)


POPE = {
    # split: (picture, thing, is it there)
    "random": ((42, "snowboard", "yes"), (42, "car", "no"), (73, "person", "yes")),
    "popular": ((42, "snowboard", "yes"), (42, "person", "no")),
    "adversarial": ((42, "snowboard", "yes"), (73, "backpack", "no")),
}


def pope(folder: Path) -> None:
    """The three question files of POPE about COCO, and pictures of COCO val2014."""
    for split, rows in POPE.items():
        put_lines(
            folder / f"coco_pope_{split}.json",
            [
                {
                    "question_id": i + 1,
                    "image": f"COCO_val2014_{image:012d}.jpg",
                    "text": f"Is there a {thing} in the image?",
                    "label": label,
                }
                for i, (image, thing, label) in enumerate(rows)
            ],
        )
    for i, image in enumerate((42, 73)):
        draw(folder / "val2014" / f"COCO_val2014_{image:012d}.jpg", SIZES[i], 80 + i)


AI2D = {
    # number of the picture: (question, options, number of the right one)
    0: (
        ("What is A in the diagram?", ("ears", "nose", "mouth", "face"), 3),
        ("What is B?", ("face", "mouth"), 1),
    ),
    2: (("Which one eats grass?", ("hawk", "snake", "rabbit", "fox"), 2),),
    10: (("How many stages?", ("2", "3", "4", "5"), 0),),
}


def ai2d(folder: Path) -> None:
    """Questions and pictures of AI2D, and the list of its test pictures."""
    for image, questions in AI2D.items():
        put_json(
            folder / "ai2d" / "questions" / f"{image}.png.json",
            {
                "imageName": f"{image}.png",
                "questions": {
                    question: {
                        "abcLabel": False,
                        "answerTexts": list(options),
                        "correctAnswer": right,
                        "questionId": f"{image}.png-{i}",
                    }
                    for i, (question, options, right) in enumerate(questions)
                },
            },
        )
        draw(folder / "ai2d" / "images" / f"{image}.png", SIZES[image % 3], 90 + image)
    (folder / "ai2d_test_ids.csv").write_text("2\n10\n", encoding="utf-8")


COCO = {
    # picture: (what was outlined, by the number of COCO's category; what people wrote)
    42: ((18, 18), ("Two puppies on a couch.", "Dogs asleep")),
    73: ((1,), ("A man.", "Somebody stands on the grass.")),
}


def coco_objects(folder: Path) -> None:
    """Outlines, captions and pictures of COCO val2014."""
    facts = {"info": {}, "licenses": []}
    images = [
        {"id": n, "width": w, "height": h, "file_name": f"COCO_val2014_{n:012d}.jpg"}
        for n, (w, h) in zip(COCO, SIZES, strict=False)
    ]
    outlined = [(n, category) for n, (categories, _) in COCO.items() for category in categories]
    put_json(
        folder / "annotations" / "instances_val2014.json",
        {
            **facts,
            "images": images,
            "annotations": [
                {"id": i + 1, "image_id": n, "category_id": category, "bbox": [1, 1, 9, 9], "iscrowd": 0,
                 "area": 81.0, "segmentation": [[1, 1, 10, 1, 10, 10, 1, 10]]}
                for i, (n, category) in enumerate(outlined)
            ],
            "categories": [
                {"supercategory": "person", "id": 1, "name": "person"},
                {"supercategory": "animal", "id": 18, "name": "dog"},
            ],
        },
    )  # fmt: skip
    written = [(n, text) for n, (_, captions) in COCO.items() for text in captions]
    put_json(
        folder / "annotations" / "captions_val2014.json",
        {
            **facts,
            "images": images,
            "annotations": [
                {"image_id": n, "id": i + 1, "caption": text} for i, (n, text) in enumerate(written)
            ],
        },
    )
    for n, size in zip(COCO, SIZES, strict=False):
        draw(folder / "val2014" / f"COCO_val2014_{n:012d}.jpg", size, 100 + n)


WRITERS: Mapping[str, Callable[[Path], None]] = {
    "vqav2": vqav2,
    "gqa": gqa,
    "vizwiz": vizwiz,
    "textvqa": textvqa,
    "textvqa_ocr": textvqa,
    "refcoco": refcoco,
    "refcoco_plus": refcoco,
    "refcocog": refcoco,
    "ocid_ref": ocid_ref,
    "vsr": vsr,
    "tallyqa": tallyqa,
    "pope": pope,
    "ai2d": ai2d,
    "coco_objects": coco_objects,
}
