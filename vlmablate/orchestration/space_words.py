"""What a plan, and the end of a sweep, say of a design space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlmablate.design.crossing import CrossedAxis
from vlmablate.orchestration.detectable import Spread, detectable
from vlmablate.orchestration.space_explored import Explored, level_choices, searches

if TYPE_CHECKING:
    from vlmablate.orchestration.study import Request


def course(space: CrossedAxis, request: Request) -> str:
    """How a space is explored, and what follows."""
    levels = " x ".join(f"{len(axis.arms)} {axis.name}" for axis in space.axes)
    each = "1 seed each" if len(request.seeds) == 1 else f"{len(request.seeds)} seeds each"
    if searches(space, request):
        first = min(level_choices(space, request.search).startup, request.trials)
        text = (
            f"design space: {request.trials} of {len(space.arms)} combinations ({levels}), {each}: {first} drawn at "
            f"random, the others proposed ({request.search}) by the scores before them"
        )
    else:
        text = f"design space: all {len(space.arms)} combinations ({levels}), {each}"
        if request.search:
            text += f" (trials={request.trials} leave none out, so nothing is searched for)"
    return (
        f"{text}; then the best one and the baseline again with {request.confirm} fresh seeds, "
        f"{2 * request.confirm} more runs"
    )


def ended(
    space: CrossedAxis, request: Request, explored: Explored, order: Sequence[str], best: str
) -> tuple[str, ...]:
    """What exploring came to.

    Args:
        space, request, explored: what was asked for and what was tried.
        order: the combinations, the best first.
        best: the first of them that is not the baseline.
    """
    scores, lines = explored.scores, []
    if explored.failed:
        lines.append(f"not trained to the end, and left out: {', '.join(explored.failed)}")
    if order[0] == space.baseline:
        found = f"the baseline {order[0]} leads with {scores[order[0]]:.1f} points; next is {best}, {scores[best]:.1f}"
    else:
        found = f"{best} leads with {scores[best]:.1f} points (the baseline: {scores[space.baseline]:.1f})"
    lines.append(
        f"of {len(order)} configurations {found}. That is how they were chosen, not how good they are: {best} and the "
        f"baseline are compared on {request.confirm} fresh seeds"
    )
    return tuple(lines)


def detectable_line(
    space: CrossedAxis, request: Request, settings: Mapping[str, Any], spread: Spread | None
) -> str:
    """The smallest effect of each axis, averaged over the others, that the explored seeds would find.

    Of K combinations with n seeds each, K n / a runs have one level of an axis of a levels. The difference between two
    levels has the standard error sd sqrt(2 a / (K n)) on (K - 1) (n - 1) degrees of freedom, and Holm's first step
    shares alpha among the effects of all axes. That takes runs of one seed to vary independently.

    Args:
        space, request: what is asked for.
        settings: the declared analysis (alpha, power, alternative).
        spread: between trainings with other seeds; None when nobody knows.
    """
    seeds, size = len(request.seeds), len(space.arms)
    if searches(space, request):
        return "a search looks where scores are high: what single axes do to them is described, not tested"
    if seeds < 2:
        return "one seed per combination: what single axes do to the scores is described, not tested"
    if spread is None:
        return (
            "smallest detectable effect: unknown, as no two seeds were run and estimates.seed_sd is not given"
        )
    alpha, power = float(settings.get("alpha", 0.05)), float(settings.get("power", 0.8))
    level = alpha / sum(len(axis.arms) - 1 for axis in space.axes)
    two_sided = settings.get("alternative", "two-sided") == "two-sided"

    def smallest(levels: int) -> float:
        return detectable(spread.sd, seeds, size - 1, size // levels, level, power, two_sided)

    told = ", ".join(f"{axis.name} {smallest(len(axis.arms)):.1f}" for axis in space.axes)
    source = f"from {spread.runs} finished runs at this scale" if spread.runs else "assumed"
    return (
        f"{seeds} seeds find an effect of an axis, averaged over the others, with {100 * power:.0f} % power from so "
        f"many points on: {told} (SD between seeds {spread.sd:.2f} points, {source})"
    )
