"""A finished study on disk with simulated scores: what the report needs, without training anything."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlmablate.stats.declaration import Design
from vlmablate.stats.settings import Settings

BENCHMARKS: dict[str, tuple[float, float]] = {
    # name -> (majority score, the baseline's success probability)
    "counting": (0.30, 0.55),
    "existence": (0.50, 0.78),
    "localisation": (0.05, 0.40),
    "open_vqa": (0.20, 0.60),
    "text_reading": (0.10, 0.13),
}
LABELS = {
    "letterbox": "pad to a square",
    "resize_naive": "stretch to a square",
    "resize_crop": "cut a square",
}


def axis(**changes: Any) -> dict[str, Any]:
    facts = {
        "name": "image_resize",
        "question": "Does the way a picture is made square matter?",
        "baseline": "letterbox",
        "arms": {
            arm: {"overrides": [f"image.resize={arm}"], "label": label} for arm, label in LABELS.items()
        },
        "contexts": {"default": {"overrides": []}},
        "affects": ["features", "finetune", "evaluate"],
        "paper": {
            "section": "4.2",
            "figure": "6",
            "comparison": "naive resize vs letterbox",
            "p_published": 0.0176,
            "verdict": "not significant",
        },
        "limits": ["Scenes reach aspect ratios of 3:1; photographs on the web are rarely as wide."],
    }
    return {**facts, **changes}


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))


class Builder:
    """Writes steps with spec.json, result.json, payload files; remembers them for study.json."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.steps: dict[str, dict[str, str]] = {}

    def step(
        self, kind: str, slug: str, config: dict[str, Any], payload: dict[str, Any], **record: Any
    ) -> str:
        step_id = hashlib.sha256(f"{kind} {slug} {json.dumps(config)}".encode()).hexdigest()[:16]
        if step_id in self.steps:
            return step_id
        directory = f"steps/{kind}/{slug}-{step_id}"
        self.steps[step_id] = {"kind": kind, "slug": slug, "dir": directory}
        folder = self.home / directory
        _write(
            folder / "spec.json", {"id": step_id, "kind": kind, "version": 1, "config": config, "deps": {}}
        )
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sorted(folder.iterdir())
            if path.name != "spec.json"
        }
        result = {
            "id": step_id,
            "kind": kind,
            "payload": payload,
            "files": files,
            "attempt": 1,
            "started": "2030-01-01T10:00:00Z",
            "finished": "2030-01-01T10:01:00Z",
            "wall_s": 40.0,
            "cpu_s": 36.0,
            "peak_rss_mb": 900.0,
            "host": "laptop",
            "versions": {"python": "3.11", "torch": "2.14"},
            "execution": {"threads": 1, "device": "cpu"},
        }
        _write(folder / "result.json", {**result, **record})
        return step_id

    def folder(self, kind: str, slug: str, config: dict[str, Any]) -> Path:
        step_id = hashlib.sha256(f"{kind} {slug} {json.dumps(config)}".encode()).hexdigest()[:16]
        folder = self.home / f"steps/{kind}/{slug}-{step_id}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def examples(
    rng: np.random.Generator, shift: Mapping[str, float], scenes: int, per_scene: int, soft: bool = False
) -> pd.DataFrame:
    """Scores of one run: scenes differ in difficulty (the same for every run), examples are Bernoulli
    draws, or `soft` scores anywhere between 0 and 1."""
    difficulty = np.random.default_rng(7)
    frames = []
    for name, (_, success) in BENCHMARKS.items():
        scene = np.repeat(np.arange(scenes), per_scene)
        chance = success + shift.get(name, 0.0) + difficulty.normal(0, 0.08, scenes)[scene]
        chance = np.clip(chance, 0.02, 0.98)
        draw = rng.random(scenes * per_scene)
        score = draw ** (1 / chance - 1) if soft else (draw < chance).astype(float)
        ids = [f"{name}-{index:04d}" for index in range(len(scene))]
        target = [f"answer {index % 3}" for index in range(len(scene))]
        frames.append(
            pd.DataFrame(
                {
                    "benchmark": name,
                    "split": [
                        f"kind_{index % 2}" if name == "counting" else "all" for index in range(len(scene))
                    ],
                    "example_id": ids,
                    "cluster_id": [f"scene-{index:03d}" for index in scene],
                    "metric": "box_iou_50" if name == "localisation" else "exact_match",
                    "score": score,
                    "prediction": ["yes" if value else "no" for value in score],
                    "target": target,
                }
            )
        )
    table = pd.concat(frames, ignore_index=True)
    return table.sample(
        frac=1.0, random_state=int(rng.integers(2**31))
    )  # the order of the rows means nothing


def curve(rng: np.random.Generator, steps: int = 200) -> list[dict[str, float]]:
    step = np.arange(1, steps + 1, 5)
    loss = 0.6 + 3.0 * np.exp(-step / 40) + rng.normal(0, 0.05, len(step))
    return [
        {"step": int(s), "loss": float(x), "lr": 1e-3, "tokens_per_s": 5200.0}
        for s, x in zip(step, loss, strict=True)
    ]


def make_study(
    home: Path,
    *,
    effects: Mapping[str, float] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    contexts: Sequence[str] = ("default",),
    seed_sd: float = 0.01,
    scenes: int = 40,
    per_scene: int = 3,
    unfinished: Sequence[tuple[str, int]] = (),
    picture: bool = True,
    axis_facts: dict[str, Any] | None = None,
    analysis: dict[str, Any] | None = None,
    soft: bool = False,
    same_runs: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write a study and its steps below `home`; returns the study folder.

    effects: arm -> true difference to the baseline as a fraction. unfinished: (arm, seed) pairs whose
    evaluation has not been done. seed_sd: spread of a run's success probability, common to its benchmarks.
    soft: scores between 0 and 1. same_runs: (arm, context) cells that consist of the baseline's runs.
    """
    effects = effects or {"resize_naive": -0.12, "resize_crop": 0.01}
    facts = axis_facts or axis()
    builder = Builder(home)
    runs: list[dict[str, Any]] = []
    if picture:
        from PIL import Image

        folder = builder.folder("scenes", "embedded", {"data": {"seed": 0}})
        noise = np.random.default_rng(0).integers(0, 255, (30, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((900, 450)).save(folder / "contact_sheet.png")
    scenes_id = builder.step(
        "scenes", "embedded", {"data": {"seed": 0}}, {"train": 100, "evaluation": scenes}
    )
    language_id = builder.step(
        "pretrain", "gpt", {"llm": {"layers": 4}}, {"tokens": 1e6, "tokens_per_s": 9000.0}
    )
    for context in contexts:
        for arm in facts["arms"]:
            if (arm, context) in same_runs:
                own = [run for run in runs if (run["arm"], run["context"]) == (facts["baseline"], context)]
                runs += [{**run, "arm": arm} for run in own]
                continue
            config: dict[str, Any] = {"image": {"resize": arm}, "tower": context}
            features_id = builder.step("features", f"{context}-{arm}", config, {"pictures": 140})
            for seed in seeds:
                code = (list(facts["arms"]).index(arm), list(contexts).index(context), seed)
                rng = np.random.default_rng(code)
                slug, seeded = f"{context}-{arm}-s{seed}", {**config, "seed": {"init": seed, "order": seed}}
                payload = {
                    "tokens": 2e5,
                    "tokens_per_s": 5000.0,
                    "final_loss": 0.6,
                    "precision": "float32",
                    "steps": 200,
                }
                lines = [json.dumps(point) for point in curve(rng)]
                (builder.folder("finetune", slug, seeded) / "metrics.jsonl").write_text(
                    "\n".join(lines) + "\n"
                )
                finetune_id = builder.step("finetune", slug, seeded, payload, peak_rss_mb=1500.0)
                common = effects.get(arm, 0.0) + rng.normal(0, seed_sd)
                shift = {name: common for name in BENCHMARKS if name != "text_reading"}
                table = examples(rng, shift, scenes, per_scene, soft)
                evaluation = {"benchmark": {"names": list(BENCHMARKS)}, "model": finetune_id}
                table.to_parquet(
                    builder.folder("evaluate", slug, evaluation) / "examples.parquet", index=False
                )
                scores = {
                    name: {
                        "metric": str(part["metric"].iloc[0]),
                        "n": len(part),
                        "mean": float(part["score"].mean()),
                        "majority": BENCHMARKS[str(name)][0],
                        "chance": None,
                    }
                    for name, part in table.groupby("benchmark")
                }
                evaluate_id = builder.step(
                    "evaluate", slug, evaluation, {"benchmarks": scores}, wall_s=8.0, cpu_s=8.0
                )
                if (arm, seed) in unfinished:
                    (home / builder.steps[evaluate_id]["dir"] / "result.json").unlink()
                steps = {"scenes": scenes_id, "pretrain": language_id, "features0": features_id}
                steps |= {"finetune": finetune_id, "evaluate": evaluate_id}
                runs.append(
                    {"arm": arm, "context": context, "seed": seed, "run_id": evaluate_id, "steps": steps}
                )
    study = {
        "name": "resize",
        "axis": facts,
        "scale": "tiny",
        "seeds": list(seeds),
        "baseline": facts["baseline"],
        "contexts": list(contexts),
        "overrides": [],
        "command": f"python -m vlmablate.sweep axis=image_resize scale=tiny seeds={len(seeds)}",
        "runs": runs,
        "steps": builder.steps,
        "provenance": {
            "git": {"sha": "0" * 40, "dirty": False},
            "versions": {"python": "3.11.9", "numpy": "2.4.6"},
            "host": {"hostname": "laptop", "cpu": "2 cores"},
            "assets": {"pictures": {"sha256": "ab" * 32, "tier": 1}},
        },
    }
    if analysis:
        study["analysis"] = analysis
    folder = home / "studies" / "resize"
    _write(folder / "study.json", study)
    return folder


def long_table(
    arms: Sequence[str] = ("letterbox", "resize_naive"),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    contexts: Sequence[str] = ("default",),
    effects: Mapping[str, float] | None = None,
    seed_sd: float = 0.02,
    scenes: int = 12,
    per_scene: int = 2,
    soft: bool = False,
) -> pd.DataFrame:
    """The table of scores that a study of these arms would give, without the study. Scores of an arm depend on its
    name, context and seed alone, so that an arm more changes nothing about the others."""
    parts = []
    for arm in arms:
        for context in contexts:
            for seed in seeds:
                digest = hashlib.sha256(f"{arm} {context} {seed}".encode()).digest()
                rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
                common = (effects or {}).get(arm, 0.0) + rng.normal(0, seed_sd)
                shift = {name: common for name in BENCHMARKS if name != "text_reading"}
                run: dict[str, Any] = {
                    "arm": arm,
                    "context": context,
                    "seed": seed,
                    "run_id": digest.hex()[:16],
                }
                parts.append(examples(rng, shift, scenes, per_scene, soft).assign(**run))
    return pd.concat(parts, ignore_index=True)


def design(table: pd.DataFrame, families: Mapping[str, str] | None = None, **settings: Any) -> Design:
    """The declaration that goes with `long_table`; the first arm is the baseline."""
    metrics = dict(zip(table["benchmark"], table["metric"], strict=True))
    return Design(
        axis="image_resize",
        baseline=str(table["arm"].iloc[0]),
        arms=tuple(dict.fromkeys(table["arm"])),
        contexts=tuple(dict.fromkeys(table["context"])),
        metrics=metrics,
        majority={name: majority for name, (majority, _) in BENCHMARKS.items()},
        families=families or {},
        settings=Settings(**settings),
    )
