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
    shares = {value: [found[value] for found in pieces if value in found] for value in (0, *labels)}
    kept = [value for value, found in shares.items() if len(found) >= FEWEST_MASKS and min(found) >= ONE_PIECE]
    if not kept:
        return (), f"no label is one piece in all of {FEWEST_MASKS} masks or more"
    together = kept[0] == 0 and sum(map(bool, labels)) > 1
    single = [value for value in kept if value]
    steps = [StepChoice(step="keep_largest", options={"label": value}) for value in single]
    names = [labels[value] for value in single]
    if together:
        steps.insert(0, StepChoice(step="keep_largest_foreground"))
        names.insert(0, "all labels together")
    fewest = min(len(shares[value]) for value in kept)
    return tuple(steps), f"at least {ONE_PIECE:.0%} of {' and of '.join(names)} is one piece in each of {fewest} masks"
