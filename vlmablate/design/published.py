"""What the graph of a run says of published data: which records a stage learns from, which benchmarks are asked. Pure.

Folders are where a machine keeps data and enter no id; what lies in them does, by the digest of the annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmablate.design.shares import WHOLE, read_mix
from vlmablate.errors import UserError, unknown_name

NEEDED = ("batch_samples", "longest")
"""Settings of a stage that learns from records: samples of a global batch, and most tokens of text of one."""
PLACES = ("folder",)
"""Fields of ``benchmark`` that say where something lies."""


def is_published(config: Mapping[str, Any]) -> bool:
    """Whether a configuration learns from published data, not from scenes."""
    return "mix" in (config.get("data") or {})


def check_published(config: Mapping[str, Any]) -> None:
    """Whether a configuration on published data can be trained: asked when a study is planned. Nothing for scenes.

    Raises UserError for a language model that is made here, which has no words for them, and for a stage that does not
    say how many samples a batch has, or how long a text may be.
    """
    if not is_published(config):
        return
    llm = config.get("llm") or {}
    if "weights" not in llm:
        raise UserError(
            f"data={config['data'].get('name')} is natural text, and llm={llm.get('name')} is a small language model "
            "that is made here with a closed vocabulary: use one of the registry, such as llm=smollm2_135m"
        )
    for stage in ("align", "finetune"):
        settings = (config.get("stages") or {}).get(stage)
        if settings is None:
            continue
        for name in NEEDED:
            whole_setting(settings, name, stage)


def whole_setting(settings: Mapping[str, Any], name: str, stage: str) -> int:
    """A setting of a stage that learns from records. Raises UserError for what is no whole number of at least 1."""
    value = settings.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(
            f"stages.{stage}.{name} is a whole number of at least 1, not {value!r}: published data need it "
            "(stages=paper_single and stages=paper_two_stage set it)"
        )
    return value


def sources_of(config: Mapping[str, Any]) -> list[str]:
    """The sources of records that the stages of a configuration learn from; none for scenes.

    Raises UserError for a mix that is none.
    """
    if not is_published(config):
        return []
    data = config["data"]
    aligned = [data["align"]] if (config.get("stages") or {}).get("align") is not None else []
    return list(dict.fromkeys([*aligned, *read_mix(data["mix"])]))


def records_of(config: Mapping[str, Any], stage: str, published: Mapping[str, str]) -> dict[str, Any] | None:
    """What a stage learns from: {"sources": [{"source", "digest", and one of "epochs", "count", "weight"}, …],
    "language_only"}. None for scenes, and for a stage that a run has not.

    Raises UserError for a mix that is none, or a source without a digest.
    """
    if not is_published(config) or config["stages"].get(stage) is None:
        return None
    data = config["data"]
    shares = {data["align"]: WHOLE} if stage == "align" else read_mix(data["mix"])
    return {
        "sources": [
            {"source": name, "digest": _digest(name, published), **share} for name, share in shares.items()
        ],
        "language_only": stage == "align" or bool(data.get("language_only", True)),
    }


def benchmark_of(config: Mapping[str, Any], published: Mapping[str, str]) -> dict[str, Any]:
    """The benchmarks of a run as they enter its evaluation: the embedded ones as they are configured, published ones
    with the digests of their annotations in place of their folders.

    Raises UserError where a run on scenes asks published benchmarks, or the other way round.
    """
    benchmark = config["benchmark"]
    outside = "folder" in benchmark
    if outside != is_published(config):
        raise UserError(
            f"data={config['data'].get('name')} and these benchmarks do not go together: models of scenes are asked "
            "about scenes (benchmark=embedded), models of published data about published pictures "
            "(benchmark=published). `vlmablate evaluate` asks any finished model any benchmark."
        )
    if not outside:
        return dict(benchmark)
    kept = {key: value for key, value in benchmark.items() if key not in PLACES}
    return {**kept, "digests": {name: _digest(name, published) for name in benchmark["names"]}}


def _digest(name: str, published: Mapping[str, str]) -> str:
    if name not in published:
        raise unknown_name("published data", name, published)
    return published[name]
