"""One small LLaVA twice, ours and that of transformers, on the same weights: what `bench_training.py` times.

The sizes `1b` are for a GPU: a language model of 1.1 billion weights behind a tower as large as SigLIP SO400M at 384
pixels, frozen (at 7b it is 2 % of a step, here some 10 %), in bfloat16, layers recomputed in the backward.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from vlmablate.design.transformer_costs import Llm, Vit
from vlmablate.training.parallelize import Layout, parallelize
from vlmablate.training.precision import computing
from vlmablate.training.ranks import ALONE
from vlmablate.training.sequences import Sequences, pack, padded, summed_loss
from vlmablate.vlm.llms.model import CausalLM
from vlmablate.vlm.merge import IGNORED, TEXT, Sample, expand, mark_after_first
from vlmablate.vlm.multimodal import MultimodalModel

BOS = 1
PICTURES = 16  # different ones; what they show costs nothing


@dataclass(frozen=True)
class Size:
    """A model, and by how much the lengths of texts are divided to fit its `grid` x `grid` patches of 576 or 729."""

    shrink: float
    grid: int
    patch: int
    tower: tuple[int, int, int, int]  # width, blocks that are run, heads, mlp
    llm: tuple[int, int, int, int, int]  # width, layers, heads, heads of keys, mlp
    words: int
    precision: str
    recompute: str

    @property
    def patches(self) -> int:
        return self.grid**2

    @property
    def vit(self) -> Vit:
        width, blocks, _, mlp = self.tower
        return Vit(width, blocks, mlp, self.patch, self.grid * self.patch, 0)

    @property
    def decoder(self) -> Llm:
        width, layers, heads, kv_heads, mlp = self.llm
        return Llm(width, layers, heads, kv_heads, width // heads, mlp, 3, self.words, 0)

    def operations(self, sample: Sample) -> float:
        """Of one sample, forward and backward; nothing goes back through the tower."""
        asked = int((sample.targets != IGNORED).sum())
        seen = len(sample.pictures) * self.vit.forward
        width = self.llm[0]
        joined = len(sample.pictures) * self.patches * 2 * (self.tower[0] * width + width**2)
        return seen + 3 * (joined + self.decoder.forward(len(sample), asked))


SIZES = {
    "small": Size(9.0, 8, 8, (64, 2, 2, 256), (192, 3, 6, 3, 512), 1024, "fp32", "none"),
    "1b": Size(1.0, 27, 14, (1152, 26, 16, 4304), (2048, 22, 32, 4, 5632), 32064, "bf16", "full"),
}


def drawn_samples(text: np.ndarray, pictured: np.ndarray, size: Size, seed: int) -> list[Sample]:
    """Of texts of those lengths: [BOS][patches][question, answer], half of a text is asked for."""
    rng = np.random.default_rng(seed)
    samples = []
    for number, (length, shown) in enumerate(zip(text.tolist(), pictured.tolist(), strict=True)):
        ids = [BOS, *rng.integers(3, size.words - 1, length - 1).tolist()]
        asked = [place >= (length + 1) // 2 for place in range(length)]
        if shown:
            ids, asked = mark_after_first(ids, asked)
        samples.append(expand(ids, asked, [number] * shown, size.patches))
    return samples


def llava(size: Size) -> LlavaForConditionalGeneration:
    """The peer, its tower frozen; the last of its blocks is not read, and the first thing to be left out of ours."""
    width, blocks, heads, mlp = size.tower
    vision = SiglipVisionConfig(
        hidden_size=width, intermediate_size=mlp, num_hidden_layers=blocks + 1, num_attention_heads=heads,
        image_size=size.grid * size.patch, patch_size=size.patch, vision_use_head=False,
    )  # fmt: skip
    width, layers, heads, kv_heads, mlp = size.llm
    text = LlamaConfig(
        vocab_size=size.words, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, bos_token_id=BOS, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=size.words - 1, projector_hidden_act="gelu",
        vision_feature_layer=-2, vision_feature_select_strategy="full",
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.requires_grad_(False)
    return model


class Tower(nn.Module):
    """The blocks of the peer's tower that are read."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower
        del tower.encoder.layers[-1]
        tower.config.num_hidden_layers -= 1
        tower.post_layernorm = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            features: Tensor = self.tower(pixels).last_hidden_state
        return features


def ours(size: Size) -> MultimodalModel:
    """The same model and weights, as the project trains it."""
    theirs = llava(size)
    language = LlamaForCausalLM(theirs.config.text_config)
    language.model.load_state_dict(theirs.model.language_model.state_dict())
    language.lm_head.load_state_dict(theirs.lm_head.state_dict())
    parts = theirs.model.multi_modal_projector
    projector = nn.Sequential(parts.linear_1, nn.GELU(), parts.linear_2)
    model = MultimodalModel(Tower(theirs.model.vision_tower), projector, CausalLM(language))
    layout = Layout(recompute=size.recompute)
    parallelize(module=model.language, layout=layout, precision=size.precision, ranks=ALONE)
    return model


class Clock:
    """Seconds since `start`: of the wall, and of this process, which other programs on the machine disturb less."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start()

    def _now(self) -> np.ndarray:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])

    def start(self) -> None:
        self._began = self._now()

    def read(self) -> np.ndarray:
        return self._now() - self._began


class World:
    """A device, samples, pictures, and the two ways to compute rows of samples with our model."""

    def __init__(self, size: Size, samples: list[Sample], device: torch.device) -> None:
        self.size, self.samples, self.device = size, samples, device
        self.lengths = np.array([len(sample) for sample in samples])
        side = size.grid * size.patch
        self.pictures = torch.randn(PICTURES, 3, side, side, generator=torch.Generator().manual_seed(0))
        self.model = ours(size).to(device).train()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-4)
        self.clock = Clock(device)

    def packed(self, rows: list[list[int]]) -> Sequences:
        """Some rows of samples, as we train them."""
        return pack(self.samples, rows, self.size.patches)

    def padded(self, rows: list[list[int]]) -> Sequences:
        """One sample a row, and padding as if it were text: what is computed of a padded batch without its mask.

        Places behind a text change nothing before them, so a mask would only add to the cost.
        """
        batch = padded([self.samples[i] for row in rows for i in row], self.size.patches)
        return replace(batch, segments=torch.zeros_like(batch.segments))

    def timed(
        self, layout: Callable[[list[list[int]]], Sequences], rows: list[list[int]], total: int
    ) -> np.ndarray:
        """Seconds of `Clock` for laying rows out, and for their forward and backward."""
        self.clock.start()
        batch = layout(rows).to(self.device)
        shown = [int(name) % PICTURES for name in batch.pictures]  # type: ignore[call-overload]
        pixels = self.pictures[shown].to(self.device)
        with computing(self.size.precision, self.device) if self.device.type == "cuda" else nullcontext():
            logits = self.model.logits(self.model(pixels, batch)[batch.asked])
        self.loss = summed_loss(logits, batch.targets[batch.asked], total)
        self.loss.backward()
        return self.clock.read()

    def timed_update(self) -> np.ndarray:
        """Seconds of clipping, AdamW and fresh gradients."""
        self.clock.start()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return self.clock.read()


@dataclass
class Collator:
    """Rows as transformers' LLaVA takes them, padded to the longest; counts what they hold."""

    pictures: Tensor
    real: int = 0
    processed: int = 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        shape = (len(rows), max(len(row["input_ids"]) for row in rows))
        ids, mask, labels = (
            torch.zeros(shape, dtype=torch.long),
            torch.zeros(shape, dtype=torch.long),
            torch.full(shape, IGNORED),
        )
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[number, :length], labels[number, :length] = row["input_ids"], row["labels"]
            mask[number, :length] = 1
        self.real += int(mask.sum())
        self.processed += mask.numel()
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        shown = [name % PICTURES for row in rows for name in row["pictures"]]
        return {**batch, "pixel_values": self.pictures[shown]} if shown else batch


def peer_rows(samples: list[Sample], size: Size) -> list[dict[str, Any]]:
    rows = []
    for sample in samples:
        ids = torch.from_numpy(np.where(sample.slots == TEXT, sample.tokens, size.words - 1))
        labels = torch.full_like(ids, IGNORED)
        labels[1:] = torch.from_numpy(sample.targets[:-1])
        rows.append({"input_ids": ids, "labels": labels, "pictures": sample.pictures})
    return rows


class Turns(TrainerCallback):
    """Times the peer's steps, data included, and lets the others have their turn after each."""

    def __init__(self, clock: Clock, collator: Collator, others: Callable[[int], None]) -> None:
        self.clock, self.collator, self.others = clock, collator, others
        self.steps: list[tuple[np.ndarray, int]] = []
        self._real = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._real = self.collator.real
        self.clock.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **__: Any) -> None:
        self.steps.append((self.clock.read(), self.collator.real - self._real))
        self.others(state.global_step - 1)
        self.on_train_begin()


def peer_trainer(
    size: Size,
    samples: list[Sample],
    pictures: Tensor,
    micro: int,
    batch: int,
    folder: str,
    device: torch.device,
) -> tuple[Trainer, Collator]:
    """HF Trainer as its users set it up for this: grouped by length, padded, one process."""
    on_gpu = device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=micro, gradient_accumulation_steps=batch // micro,
        num_train_epochs=1, train_sampling_strategy="group_by_length", learning_rate=1e-4, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False, use_cpu=not on_gpu,
        bf16=size.precision == "bf16", dataloader_pin_memory=on_gpu,
    )  # fmt: skip
    collator, model = Collator(pictures), llava(size)
    if size.recompute == "full":
        model.gradient_checkpointing_enable()
    trainer = Trainer(
        model=model, args=arguments, data_collator=collator, train_dataset=peer_rows(samples, size)
    )  # type: ignore[arg-type]
    return trainer, collator
