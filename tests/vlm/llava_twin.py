"""A tiny LLaVA of transformers and the parts of the same weights as our model takes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from vlmablate.training.sequences import dense_mask
from vlmablate.vlm.multimodal import MultimodalModel

WORDS, WIDTH, CHANNELS, SIDE, PATCHES, IMAGE_ID, BOS = 97, 32, 24, 32, 16, 96, 1


class Tower(nn.Module):
    """Patches of the last layer but one, without the class token."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: Tensor) -> Tensor:
        states: Tensor = self.tower(pixels, output_hidden_states=True).hidden_states[-2]
        return states[:, 1:]


class Language(nn.Module):
    """A causal language model of transformers that takes embeddings, positions and segments."""

    def __init__(self, model: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def embed(self, tokens: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(tokens)

    def forward(self, embeddings: Tensor, positions: Tensor, segments: Tensor) -> Tensor:
        return self.model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=dense_mask(segments),
            use_cache=False,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)


def reference(seed: int = 0) -> LlavaForConditionalGeneration:
    """Two layers each, random weights that are loud enough to show an error."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=CHANNELS, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
        patch_size=8,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=BOS, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_ID, projector_hidden_act="gelu",
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
    return model.eval()


def ours(llava: LlavaForConditionalGeneration) -> MultimodalModel:
    """Our model on the very parameters of a LLaVA, so that gradients can be compared in place."""
    parts = llava.model.multi_modal_projector
    projector = nn.Sequential(parts.linear_1, nn.GELU(), parts.linear_2)
    return MultimodalModel(
        Tower(llava.model.vision_tower), projector, Language(llava.model.language_model, llava.lm_head)
    )
