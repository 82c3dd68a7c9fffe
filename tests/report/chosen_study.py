"""Studies whose arms were chosen: tuned arms, and the best of a design space, with simulated scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from synthetic_study import Builder, axis, make_study

RANGE = {"kind": "float", "low": 1e-5, "high": 1e-2, "log": True}
PARAMETER = "stages.finetune.learning_rate"
CONFIGURED = 0.001

Outcome = tuple[float, str, float | None]
"""Value, state and score of a trial."""

TRIALS: Mapping[str, Sequence[Outcome]] = {
    # The choice lies at the upper end of the range, and another trial is as good.
    "letterbox": [(CONFIGURED, "finished", 55.0), (3e-5, "censored", None), (0.009, "finished", 57.0)],
    # The configured value is the best.
    "resize_naive": [(CONFIGURED, "finished", 50.0), (2e-4, "finished", 44.0), (0.0099, "failed", None)],
    "resize_crop": [(CONFIGURED, "finished", 54.0), (4e-4, "finished", 56.9), (5e-5, "finished", 56.8)],
}


def tuned_study(home: Path, trials: Mapping[str, Sequence[Outcome]] = TRIALS, **of_study: Any) -> Path:
    """A study of three arms, each with its trials, of which the finished one with the highest score was chosen."""
    folder = make_study(home, **{"seeds": (0, 1), "scenes": 12, "per_scene": 2, "picture": False, **of_study})
    study = json.loads((folder / "study.json").read_text())
    builder = Builder(home)
    cells = []
    for arm, outcomes in trials.items():
        tried = []
        for number, (value, state, score) in enumerate(outcomes):
            config = {"arm": arm, PARAMETER: value, "seed": 2000}
            payload = {"tokens": 2e5, "tokens_per_s": 5000.0, "precision": "float32"}
            steps = {"finetune": builder.step("finetune", f"{arm}-t{number}", config, payload)}
            evaluation = {"split": "validation", "model": steps["finetune"]}
            steps["evaluate"] = builder.step("evaluate", f"{arm}-t{number}", evaluation, {"benchmarks": {}})
            if score is None:
                for step_id in steps.values():
                    (home / builder.steps[step_id]["dir"] / "result.json").unlink()
            tried.append(
                {
                    "number": number,
                    "values": {PARAMETER: value},
                    "state": state,
                    "score": score,
                    "share": {"finished": 1.0, "censored": 0.33, "failed": 0.1}[state],
                    "why": {"censored": "loss above the median of earlier trials", "failed": "diverged"}.get(
                        state, ""
                    ),
                    "run_id": steps["evaluate"],
                    "steps": steps,
                }
            )
        best = max(
            (trial for trial in tried if trial["score"] is not None), key=lambda t: t["score"], default=None
        )
        cells.append(
            {
                "arm": arm,
                "context": "default",
                "configured": {PARAMETER: CONFIGURED},
                "chosen": best["values"] if best else None,
                "score": best["score"] if best else None,
                "trials": tried,
            }
        )
    study |= {
        "tune": {"space": "lr", "trials": 3},
        "steps": study["steps"] | builder.steps,
        "tuning": {
            "space": {
                "name": "lr",
                "method": "tpe",
                "direction": "maximize",
                "startup": 4,
                "parameters": {PARAMETER: RANGE},
            },
            "trials": 3,
            "seed": 2000,
            "split": "validation",
            "final": True,
            "cells": cells,
        },
    }
    study["command"] += " tune=lr trials=3"
    (folder / "study.json").write_text(json.dumps(study))
    return folder


LEVELS = {"image_resize": ("letterbox", "resize_naive", "resize_crop"), "stages": ("two_stage", "single")}
QUESTIONS = {"image_resize": "How is a picture made square?", "stages": "Is a separate alignment needed?"}


def space_study(
    home: Path,
    effects: Mapping[str, float] | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    confirm: Sequence[int] = (1000, 1001, 1002),
    search: str = "",
    left_out: Sequence[str] = (),
    **of_study: Any,
) -> Path:
    """A space of two axes: all combinations (but those `left_out`, for a search), then the best again with fresh seeds.

    effects: arm -> true difference to the baseline as a fraction.
    """
    arms = {
        "+".join(levels): dict(zip(LEVELS, levels, strict=True))
        for levels in product(*LEVELS.values())
        if "+".join(levels) not in left_out
    }
    effects = effects or {
        "resize_naive+two_stage": 0.1,
        "resize_naive+single": 0.14,
        "resize_crop+single": -0.06,
    }
    facts = axis(
        name="image_resize-stages",
        question="What do image_resize and stages do together?",
        baseline=next(iter(arms)),
        arms={arm: {"overrides": [f"stages={arm}"], "label": arm.replace("+", ", ")} for arm in arms},
        paper=None,
    )
    shape = {
        "scenes": 15,
        "per_scene": 2,
        "picture": False,
        "effects": effects,
        "axis_facts": facts,
        **of_study,
    }
    folder = make_study(home, seeds=seeds, **shape)
    study = json.loads((folder / "study.json").read_text())
    explored = [run["run_id"] for run in study["runs"]]
    order = sorted(arms, key=lambda arm: -_mean(home, study, arm))
    best = next(arm for arm in order if arm != facts["baseline"])
    shape["axis_facts"] = {**facts, "arms": {arm: facts["arms"][arm] for arm in (facts["baseline"], best)}}
    again = json.loads((make_study(home, seeds=confirm, **shape) / "study.json").read_text())
    fresh = again["runs"]
    study["runs"] += fresh
    study["steps"] |= again["steps"]
    searched = {"search": search, "trials": len(arms)} if search else {}
    study |= {
        "space": {"axes": list(LEVELS), **searched, "confirm": len(confirm)},
        "command": "python -m vlmablate.sweep 'axis=[image_resize,stages]' seeds=3 confirm=3 scale=tiny",
        "exploration": {
            "axes": [
                {
                    "name": name,
                    "question": QUESTIONS[name],
                    "baseline": levels[0],
                    "levels": [{"name": level, "label": f"as {level}"} for level in levels],
                }
                for name, levels in LEVELS.items()
            ],
            "search": search,
            "trials": len(arms) if search else 0,
            "levels": arms,
            "failed": {},
            "baseline": facts["baseline"],
            "explored": explored,
            "order": order,
            "best": best,
            "baseline_leads": order[0] == facts["baseline"],
            "confirm_seeds": list(confirm),
            "confirmed": [run["run_id"] for run in fresh],
            "final": True,
        },
    }
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def _mean(home: Path, study: Mapping[str, Any], arm: str) -> float:
    """Mean of all benchmarks over an arm's runs, as a fraction."""
    found = []
    for run in study["runs"]:
        if run["arm"] == arm:
            result = json.loads((home / study["steps"][run["run_id"]]["dir"] / "result.json").read_text())
            found += [entry["mean"] for entry in result["payload"]["benchmarks"].values()]
    return sum(found) / len(found)
