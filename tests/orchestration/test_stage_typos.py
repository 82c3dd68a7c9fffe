"""A mistake in the settings of a training stage ends the planning of a study, not its finetuning hours later."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlmablate.errors import UserError
from vlmablate.orchestration import controller, study
from vlmablate.orchestration.controller import EXIT_WORK, Controller


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stages.finetune.vision=forzen", "unknown way to train a module 'forzen' in stages.finetune.vision"),
        ("stages.finetune.language={last: 9}", "stages.finetune.language.last: 9 layers"),
        (
            "stages.finetune.schedule={name: wsd, decya: 0.1}",
            "unknown option 'decya' in stages.finetune.schedule",
        ),
        ("+stages.finetune.mixture.detaild=2", "unknown source of training data 'detaild'"),
        ("+stages.finetune.learning_rate_factors.projectr=2", "unknown part of the model 'projectr'"),
        ("+stages.finetune.epoch=2", "unknown setting 'epoch' in stages.finetune"),
    ],
    ids=lambda text: text.partition("=")[0],
)
def test_a_typo_is_refused_when_a_study_is_planned(
    sweeps, results: Path, monkeypatch: pytest.MonkeyPatch, override: str, said: str
) -> None:
    monkeypatch.setattr(controller, "compose_cells", study.compose_cells)
    with pytest.raises(UserError) as refused:
        Controller(sweeps.request(overrides=(override,)), sweeps.parts()).plan()
    assert said in str(refused.value)
    assert not results.exists()


def test_settings_that_exist_are_planned(sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "compose_cells", study.compose_cells)
    overrides = (
        "stages.finetune.schedule={name: wsd, decay: 0.1}",
        "+stages.finetune.learning_rate_factors.projector=2.0",
    )
    assert Controller(sweeps.request(overrides=overrides), sweeps.parts()).plan() == EXIT_WORK
