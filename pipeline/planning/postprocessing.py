"""Choose the post-processing of predicted masks, where a recipe leaves it open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.sections import StepChoice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A label is one piece if its largest component has this share in every mask: a few stray voxels are slips of the pen.
ONE_PIECE = 0.95
# Fewer masks do not tell a structure that is one piece from lesions of which each scan happened to have one.
FEWEST_MASKS = 5


def choose_postprocessing(
    labels: Mapping[int, str], pieces: Sequence[Mapping[int, float]]
) -> tuple[tuple[StepChoice, ...], str]:
    """Return the steps of the post-processing, and the reason: of what is one piece, the largest is kept.

    All labels together come first: an island may be larger than what was found of its structure, and yet lies apart
    from the others.

    Args:
        labels: Names of the labels that are trained on, by value.
        pieces: For each training mask, the share of each of its labels that is in the largest component, and under 0
            that of all together.
    """
    # 0 is background in names, and all labels together in pieces, which a single one is by itself.
    several = sum(value != 0 for value in labels) > 1
    named = {0: "all labels together"} if several else {}
    named |= {value: name for value, name in labels.items() if value}
    shares = {value: [found[value] for found in pieces if value in found] for value in named}
    kept = [value for value, found in shares.items() if len(found) >= FEWEST_MASKS and min(found) >= ONE_PIECE]
    if not kept:
        return (), f"no label is one piece in all of {FEWEST_MASKS} masks or more"
    names = " and of ".join(named[value] for value in kept)
    fewest = min(len(shares[value]) for value in kept)
    return tuple(map(_step, kept)), f"at least {ONE_PIECE:.0%} of {names} is one piece in each of {fewest} masks"


def _step(label: int) -> StepChoice:
    if label == 0:
        return StepChoice(step="keep_largest_foreground")
    return StepChoice(step="keep_largest", options={"label": label})
