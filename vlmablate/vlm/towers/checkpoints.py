"""Where the weights of a vision transformer come from: the hub, a folder, a file; and whether they fit."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmablate.errors import UserError
from vlmablate.vlm.towers.architectures import Architecture
from vlmablate.vlm.towers.layouts import canonical, resize_positions

# What a folder may hold, best first: shards are read through their index.
FILES = (
    "model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin",
)  # fmt: skip
# transformers' names of the activations.
ACTIVATION_NAMES = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}


def tower_state(
    architecture: Architecture, weights: str, expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of a tower, float32, its positions resized to its grid.

    Args:
        weights: `pretrained` (the hub's, or its local cache), a folder or a file: transformers, timm, open_clip,
            OpenAI's and DINOv2's own names, or the `state_dict` of a tower of this package.
        expected: the tensors of the tower, for their names and shapes.

    Raises:
        UserError: for weights that cannot be read, or are of another architecture.
    """
    path = from_hub(architecture) if weights == "pretrained" else existing(weights, architecture)
    check_config(path if path.is_dir() else path.parent, architecture)
    state = read(path)
    if "patches.weight" in state:  # a tower of this package
        out, wrong = dict(state), []
    else:
        out, blocks = canonical(state, str(path))
        wrong = [] if blocks == architecture.depth else [f"{blocks} blocks, not {architecture.depth}"]
        out = {name: tensor for name, tensor in out.items() if _block(name) < architecture.layers}
    if "positions" in out:
        out["positions"] = resize_positions(out["positions"], architecture.side)
    for name in sorted(set(out) | set(expected)):
        if name not in out or name not in expected:
            wrong.append(f"{'no' if name in expected else 'an unexpected'} {name}")
        elif out[name].shape != expected[name].shape:
            wrong.append(f"{name} is {list(out[name].shape)}, not {list(expected[name].shape)}")
    if wrong:
        rest = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise UserError(
            f"the weights in {path} are not those of {architecture.name}: {'; '.join(wrong[:4])}{rest}"
        )
    return {name: tensor.float() for name, tensor in out.items()}


def _block(name: str) -> int:
    """The index of the block that a tensor belongs to; -1 for those before the blocks."""
    return int(name.split(".")[1]) if name.startswith("layers.") else -1


def from_hub(architecture: Architecture) -> Path:
    """The file with the published weights, downloaded unless the hub's cache has it.

    Raises:
        UserError: when the tower has none, or the hub cannot be reached.
    """
    if architecture.hub is None:
        raise UserError(f"{architecture.name} has no pretrained weights; use weights=random or another tower")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(architecture.hub, "model.safetensors"))
    except Exception as error:  # the client's, its HTTP library's and the system's errors have no common base
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"the weights of {architecture.name} ({architecture.hub} on the Hugging Face hub) cannot be had: {first}\n"
            "connect this machine, or download them elsewhere and give the folder or the file as weights"
        ) from error


def existing(weights: str, architecture: Architecture) -> Path:
    """The file or folder of that name. Raises UserError where there is none."""
    path = Path(weights).expanduser()
    if not path.exists():
        raise UserError(
            f"no weights of {architecture.name} at {weights}: give random, pretrained, an existing folder or a file"
        )
    return path


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of the best file of a folder.

    Raises:
        UserError: for a folder without weights, or a file that is damaged or holds more than tensors.
    """
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return read(path / name)
        raise UserError(f"{path} holds no weights: none of {', '.join(FILES)}")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".json":
            shards = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
            return {k: v for shard in sorted(set(shards)) for k, v in read(path.parent / shard).items()}
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError, OSError, EOFError, RuntimeError, pickle.UnpicklingError, ValueError, LookupError,
    ) as error:  # a damaged pickle fails in any of these ways  # fmt: skip
        raise UserError(f"{path} cannot be read as weights ({error})") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not tensors by name")
    return {name: tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}


def check_config(folder: Path, architecture: Architecture) -> None:
    """Compare a folder's `config.json` of transformers with the architecture, for what no shape shows.

    The number of heads, the epsilon and the activation change every feature and no tensor. Other tools' config files
    say nothing that is compared here.

    Raises:
        UserError: that names what differs.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    if not isinstance(config, dict) or "model_type" not in config:
        return
    config = config.get("vision_config") or config
    said: dict[str, tuple[Any, Any]] = {
        "num_attention_heads": (config.get("num_attention_heads"), architecture.heads),
        "layer_norm_eps": (config.get("layer_norm_eps"), architecture.family.epsilon),
        "patch_size": (config.get("patch_size"), architecture.patch),
    }
    wrong = [f"{key} {has}, not {wants}" for key, (has, wants) in said.items() if has not in (None, wants)]
    activation = ACTIVATION_NAMES.get(str(config.get("hidden_act")), config.get("hidden_act"))
    if activation not in (None, architecture.family.activation):
        wrong.append(
            f"activation {activation}, not {architecture.family.activation} (`activation: {activation}` in the tower's "
            "mapping follows the weights)"
        )
    if wrong:
        raise UserError(f"{path} is not of {architecture.name}: {'; '.join(wrong)}")
