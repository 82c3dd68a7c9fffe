"""Pictures inside texts: the layouts, and parity with LLaVA of transformers on the same weights."""

from __future__ import annotations

import llava_twin as twin
import numpy as np
import pytest
import torch
from torch import Tensor

from vlmablate.errors import UserError
from vlmablate.training.sequences import padded, summed_loss
from vlmablate.vlm.merge import IGNORED, IMAGE_MARK, TEXT, Sample, expand, mark_after_first, place

TEXT_IDS = [twin.BOS, 11, 12, 13, 14, 15]
ASKED = [False, False, False, True, False, True]


def test_after_bos_is_bos_then_patches_then_text_and_only_text_is_asked() -> None:
    sample = expand(*mark_after_first(TEXT_IDS, ASKED), ["cat"], 3)
    assert sample.tokens.tolist() == [1, 0, 0, 0, 11, 12, 13, 14, 15]
    assert sample.slots.tolist() == [TEXT, 0, 1, 2, TEXT, TEXT, TEXT, TEXT, TEXT]
    i = IGNORED
    assert sample.targets.tolist() == [i, i, i, i, i, 13, i, 15, i]
    assert sample.pictures == ("cat",)


def test_the_last_patch_predicts_an_asked_first_word() -> None:
    """Alignment: the caption follows the picture at once, so its first token is predicted from the last patch."""
    sample = expand(*mark_after_first([1, 7, 8], [False, True, True]), ["cat"], 2)
    assert sample.targets.tolist() == [IGNORED, IGNORED, 7, 8, IGNORED]


def test_several_pictures_stand_where_they_are_named() -> None:
    sample = expand([1, IMAGE_MARK, 5, IMAGE_MARK, 6], [False, True, False, True, True], ["a", "b"], 2)
    assert sample.tokens.tolist() == [1, 0, 0, 5, 0, 0, 6]
    assert sample.slots.tolist() == [TEXT, 0, 1, TEXT, 2, 3, TEXT]
    assert sample.targets.tolist() == [IGNORED] * 5 + [6, IGNORED], "a mark is never asked for"


def test_a_text_without_pictures_is_itself() -> None:
    sample = expand([1, 5, 6], [False, True, True], [], 4)
    assert sample.tokens.tolist() == [1, 5, 6]
    assert sample.targets.tolist() == [5, 6, IGNORED]


@pytest.mark.parametrize("pictures", [[], ["a", "b"]])
def test_marks_and_pictures_that_differ_in_number_are_an_error(pictures: list[str]) -> None:
    with pytest.raises(UserError, match=f"names 1 pictures, but {len(pictures)}"):
        expand([1, IMAGE_MARK, 5], [False, False, True], pictures, 4)


def test_place_fills_cells_and_leaves_words_alone() -> None:
    words, patches = torch.zeros(2, 4, 3), torch.arange(12.0).reshape(2, 2, 3) + 1
    slots = torch.tensor([[TEXT, 2, 3, TEXT], [0, 1, TEXT, TEXT]])
    merged = place(words, patches, slots)
    assert torch.equal(merged[0, 1:3], patches[1])
    assert torch.equal(merged[1, :2], patches[0])
    assert merged[0, [0, 3]].abs().sum() == 0
    assert merged[1, 2:].abs().sum() == 0


def batch_of(samples: list[Sample], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same samples as LLaVA takes them: ids with an image token per patch, mask, labels, pixels."""
    length = max(map(len, samples))
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, sample in enumerate(samples):
        size = len(sample)
        ids[row, :size] = torch.from_numpy(np.where(sample.slots == TEXT, sample.tokens, twin.IMAGE_ID))
        mask[row, :size] = 1
        labels[row, 1:size] = torch.from_numpy(sample.targets[:-1])
    pictures = sum(len(sample.pictures) for sample in samples)
    return ids, mask, labels, torch.randn(pictures, 3, twin.SIDE, twin.SIDE, generator=generator)


def random_samples(generator: torch.Generator) -> list[Sample]:
    def words(count: int) -> tuple[list[int], list[bool]]:
        ids = torch.randint(3, 90, (count,), generator=generator).tolist()
        asked = (torch.rand(count, generator=generator) < 0.5).tolist()
        return [twin.BOS, *ids], [False, *asked]

    ids, asked = words(5)
    two = [*ids[:2], IMAGE_MARK, *ids[2:4], IMAGE_MARK, *ids[4:]]
    flags = [*asked[:2], False, *asked[2:4], False, *asked[4:]]
    return [
        expand(*mark_after_first(*words(7)), ["a"], twin.PATCHES),
        expand(two, flags, ["b", "c"], twin.PATCHES),
        expand(*words(30), [], twin.PATCHES),
        expand(*mark_after_first(*words(2)), ["d"], twin.PATCHES),
    ]


def test_logits_loss_and_gradients_are_those_of_llava() -> None:
    """transformers' LlavaForConditionalGeneration, padded: one picture after BOS, two at their marks, none."""
    generator = torch.Generator().manual_seed(3)
    samples = random_samples(generator)
    ids, mask, labels, pixels = batch_of(samples, generator)
    llava = twin.reference()
    model, batch = twin.ours(llava), padded(samples, twin.PATCHES)
    assert batch.pictures == ("a", "b", "c", "d")

    hidden = model(pixels, batch)
    loss = summed_loss(model.logits(hidden[batch.asked]), batch.targets[batch.asked], batch.target_count)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in llava.named_parameters() if p.grad is not None}
    llava.zero_grad()
    theirs = llava(input_ids=ids, attention_mask=mask, pixel_values=pixels, labels=labels)
    theirs.loss.backward()

    real = mask.bool()
    assert (model.logits(hidden)[real] - theirs.logits[real]).abs().max() < 1e-5
    assert abs(loss.item() - theirs.loss.item()) < 1e-6
    assert len([name for name in gradients if "projector" in name]) == 4
    for name, parameter in llava.named_parameters():
        if parameter.grad is not None:
            scale = parameter.grad.abs().max().clamp_min(1e-3)
            assert (gradients[name] - parameter.grad).abs().max() / scale < 1e-4, name


def test_texts_alone_need_no_picture_but_leave_no_parameter_without_a_gradient() -> None:
    """Ranks whose rows hold texts only must still take part in every collective of the tower and the projector."""
    model = twin.ours(twin.reference())
    batch = padded([expand([1, 5, 6], [False, True, True], [], twin.PATCHES)], twin.PATCHES)
    hidden = model(torch.zeros(0, 3, twin.SIDE, twin.SIDE), batch)
    summed_loss(model.logits(hidden[batch.asked]), batch.targets[batch.asked], 2).backward()
    for parameter in model.projector.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() == 0
