"""What a study's declaration means with today's configuration tree and code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmablate.design.spec import RunSpec
from vlmablate.orchestration.parts import Parts

NOT_FETCHED = "not fetched"


def runs_today(declared: Mapping[str, Any], parts: Parts) -> list[RunSpec]:
    """Compose the runs of a study again; nothing is fetched, the recorded digests of its assets are used.

    Args:
        declared: the content of its ``study.json``.
        parts: configuration tree, axes and assets.

    Raises:
        UserError: when it cannot be composed any more, for example because its axis was renamed.
    """
    # Hydra is only loaded where something is composed that was not composed before.
    from vlmablate.design.compose import composer
    from vlmablate.orchestration.compositions import Compositions
    from vlmablate.orchestration.study import Request, build_runs, compose_cells, required_assets
    from vlmablate.orchestration.tuned import with_choices

    request = Request(
        axis=declared["axis"]["name"],
        seeds=tuple(declared["seeds"]),
        scale=declared["scale"],
        study=declared["name"],
        overrides=tuple(declared["overrides"]),
        axes=tuple((declared.get("space") or {}).get("axes", ())),
    )
    with composer(parts.conf, Compositions(parts.conf, parts.home)) as compose:
        _, composed = compose_cells(request, compose, parts.axes)
    cells = with_choices(composed, declared.get("tuning"))
    source = parts.asset_source()
    recorded = (declared.get("provenance") or {}).get("assets") or {}
    digests = {name: str(recorded.get(name, NOT_FETCHED)) for name in required_assets(cells, source)}
    return build_runs(cells, request.seeds, digests, source, request.scale)


def run_today(declared: Mapping[str, Any], arm: str, context: str, seed: int, parts: Parts) -> RunSpec | None:
    """One run of :func:`runs_today`; None when arm or context are gone."""
    for run in runs_today({**declared, "seeds": [seed]}, parts):
        if (run.arm, run.context, run.seed) == (arm, context, seed):
            return run
    return None
