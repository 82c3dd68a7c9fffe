"""Floating-point operations, weights and memory of a vision-language model from its sizes alone. Pure, no torch.

A multiplication with an addition counts as two operations. Matrix products and attention are counted, the rest
(norms, activations, embeddings' lookups) is under a percent. Attention is counted whole, without the half that a
causal mask hides, which is how model FLOPs utilisation (MFU) is stated (Chowdhery et al. 2022, appendix B).
A backward pass costs twice its forward pass: once for the gradient of the weights, once for that of the inputs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

FORWARD = 1
THROUGH_FROZEN = 2
"""Forward, and a backward that only hands the gradient on."""
TRAINED = 3

_WHOLE, _HALF = 4, 2
"""Bytes of a float32 and of a bfloat16."""
_STATE = 4 * _WHOLE
"""Bytes for each trained weight: itself, its gradient and the two moments of AdamW, all in float32."""


@dataclass(frozen=True)
class Vit:
    """A vision transformer as it is run: `blocks` blocks (the last one of the pretrained model is left out), `mlp`
    hidden units, `patch` pixels, `image` pixels a side, `prefix` tokens beside the patches."""

    width: int
    blocks: int
    mlp: int
    patch: int
    image: int
    prefix: int

    @property
    def patches(self) -> int:
        """Patches of an image; a rest below the patch size is dropped."""
        return (self.image // self.patch) ** 2

    @property
    def forward(self) -> float:
        """Operations of one image."""
        tokens = self.patches + self.prefix
        weights = 4 * self.width**2 + 2 * self.width * self.mlp
        embedding = 2 * 3 * self.patch**2 * self.width * self.patches
        return embedding + self.blocks * (2 * weights * tokens + 4 * tokens**2 * self.width)


@dataclass(frozen=True)
class Llm:
    """A decoder: `heads` query heads and `kv_heads` key and value heads of `head` channels, `mlp` hidden units in
    `mlp_matrices` matrices (3 with a gate, else 2), and weights in all (`parameters`)."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    mlp_matrices: int
    vocabulary: int
    parameters: int

    @property
    def layer_weights(self) -> int:
        """Weights in the matrices of one layer."""
        attention = 2 * self.width * self.head * (self.heads + self.kv_heads)
        return attention + self.mlp_matrices * self.width * self.mlp

    def forward(self, tokens: float, asked: float | None = None) -> float:
        """Operations of a sequence of `tokens`; words are predicted at `asked` of them (default: all)."""
        layers = self.layers * (2 * self.layer_weights * tokens + 4 * tokens**2 * self.heads * self.head)
        return layers + 2 * self.width * self.vocabulary * (tokens if asked is None else asked)

    def learning(self, tokens: float, asked: float, trained: int, adapters: int, words: bool) -> float:
        """Operations of a sequence forward and backward, with a gradient that goes through every layer to its input.

        Attention has no weights, so its backward pass costs twice its forward pass whatever learns.

        Args:
            tokens, asked: as for `forward`.
            trained: weights in the matrices of all layers that learn. adapters: weights beside them that do (LoRA).
            words: whether the output embeddings learn.
        """
        matrices = THROUGH_FROZEN * self.layers * self.layer_weights + trained + TRAINED * adapters
        products = 2 * tokens * matrices
        attention = TRAINED * self.layers * 4 * tokens**2 * self.heads * self.head
        predicted = (TRAINED if words else THROUGH_FROZEN) * 2 * self.width * self.vocabulary * asked
        return products + attention + predicted


def mlp_forward(sizes: tuple[int, ...], tokens: float) -> float:
    """Operations of a chain of linear layers over `tokens`."""
    return tokens * sum(2 * a * b for a, b in itertools.pairwise(sizes))


def mlp_weights(sizes: tuple[int, ...]) -> int:
    """Weights and biases of a chain of linear layers."""
    return sum(a * b + b for a, b in itertools.pairwise(sizes))


@dataclass(frozen=True)
class Stage:
    """One stage of training: passes over data, and what of the model learns.

    Attributes:
        pictures: samples with a picture, over all epochs. texts: samples without one.
        picture_text, text: mean text tokens of a sample with and without a picture.
        vision, language: whether they are trained; the projector always is.
    """

    pictures: float
    texts: float
    picture_text: float
    text: float
    vision: bool
    language: bool


@dataclass(frozen=True)
class Model:
    """The parts of a vision-language model; `projector` lists the sizes of its linear layers."""

    towers: tuple[Vit, ...]
    tower_weights: int
    projector: tuple[int, ...]
    llm: Llm

    @property
    def image_tokens(self) -> int:
        """Visual tokens of a picture."""
        return self.towers[0].patches

    @property
    def parameters(self) -> int:
        """All weights that are loaded."""
        return self.tower_weights + mlp_weights(self.projector) + self.llm.parameters

    def trained(self, stage: Stage) -> int:
        """Weights that a stage changes."""
        vision, language = stage.vision * self.tower_weights, stage.language * self.llm.parameters
        return vision + mlp_weights(self.projector) + language

    def training(self, stage: Stage) -> float:
        """Operations of a stage, without what activation checkpointing computes a second time."""
        sees = sum(tower.forward for tower in self.towers) * (TRAINED if stage.vision else FORWARD)
        joins = mlp_forward(self.projector, self.image_tokens) * TRAINED
        speaks = TRAINED if stage.language else THROUGH_FROZEN
        with_picture = self.llm.forward(self.image_tokens + stage.picture_text)
        pictures = stage.pictures * (sees + joins + speaks * with_picture)
        # A frozen language model that reads text alone has nothing to hand on.
        texts = stage.texts * TRAINED * self.llm.forward(stage.text) if stage.language else 0.0
        return pictures + texts


def memory(model: Model, stage: Stage, ranks: int, rows: int, checkpointing: bool) -> float:
    """Bytes of a rank at the height of a step: an estimate, for choosing `rows` (samples in one forward).

    Trained weights with their optimiser state are sharded over `ranks`; frozen ones stand whole on every rank, in
    bfloat16 (`execution.frozen`). Added: the layer that is gathered and the one that is prefetched, the
    activations in bfloat16 (with `checkpointing`: the inputs of all layers and everything of one), and the logits
    in float32 with their gradient.
    """
    trained = model.trained(stage)
    state = trained * _STATE / ranks + (model.parameters - trained) * _HALF
    llm = model.llm
    gathered = 2 * _HALF * max(llm.layer_weights, llm.width * llm.vocabulary)
    tokens = rows * (model.image_tokens + stage.picture_text)
    # Inputs of the products, outputs of attention and activation that a layer keeps for its backward pass.
    kept = _HALF * tokens * (4 * llm.width + 2 * llm.head * (llm.heads + llm.kv_heads) + 3 * llm.mlp)
    layers = llm.layers * _HALF * tokens * llm.width + kept if checkpointing else llm.layers * kept
    seen = 0.0
    if stage.vision:
        for tower in model.towers:
            cells = rows * (tower.patches + tower.prefix)
            seen += tower.blocks * _HALF * cells * (8 * tower.width + 2 * tower.mlp)
    logits = 2 * _WHOLE * rows * stage.picture_text * llm.vocabulary
    return state + gathered + layers + seen + logits
