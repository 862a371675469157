"""Choose how much training samples are changed at random, where a recipe leaves it open."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# The settings that a recipe may leave open.
CHOSEN = ("flip_axes", "rotation_degrees", "scaling", "elastic_mm")
# By dimensions: degrees, a share, and an elastic deformation in voxels.
DEFORMATIONS = {
    2: {"rotation_degrees": 45.0, "scaling": 0.3, "elastic_mm": 3.5},
    3: {"rotation_degrees": 15.0, "scaling": 0.15, "elastic_mm": 0.0},
}
MOST_ELASTIC_MM = 1000.0
TRIED = {2: "what served best on slices of hearts with few masks", 3: "what served best on volumes of hippocampi"}


def choose_augmentation(
    labels: Mapping[int, str], orientation: str, spacing_mm: Sequence[float], key: str
) -> tuple[Any, str]:
    """Return one setting of the augmentation, and the reason.

    Args:
        labels: Names of the labels, by value.
        orientation: Of the grid.
        spacing_mm: Its voxel size, a number for each axis of a sample.
        key: Of ``CHOSEN``.
    """
    if key == "flip_axes":
        flips = choose_flips(labels.values(), orientation)
        return flips, "left and right look alike" if flips else _why_not(labels.values(), orientation)
    strength = DEFORMATIONS[len(spacing_mm)][key]
    if key == "elastic_mm":
        strength = round(min(MOST_ELASTIC_MM, strength * min(spacing_mm)), 4)
    return strength, TRIED[len(spacing_mm)]


def choose_flips(labels: Iterable[str], orientation: str) -> tuple[int, ...]:
    """Return the left-right axis, or none where a label's name tells left from right, or might if it had a name.

    >>> choose_flips(["background", "liver"], "RAS"), choose_flips(["left kidney"], "RAS")
    ((0,), ())
    >>> choose_flips(["vertebrae_L1"], "RAS")  # A lumbar vertebra
    (0,)
    """
    names = list(labels)
    if _sided(names) or _are_nameless(names):
        return ()
    return tuple(axis for axis, code in enumerate(orientation) if code in "RL")


def _sided(names: Iterable[str]) -> list[str]:
    """Return the names with a word for left or right."""
    found = {name: {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+(?![0-9])", name)} for name in names}
    return [name for name, words in found.items() if words & {"left", "right", "l", "r", "lt", "rt", "lh", "rh"}]


def _are_nameless(names: Sequence[str]) -> bool:
    return sum(re.fullmatch(r"label \d+", name) is not None for name in names) > 1


def _why_not(labels: Iterable[str], orientation: str) -> str:
    """Return why nothing is mirrored, and how to have it nevertheless."""
    if sided := _sided(labels):
        return f"{sided[0]!r} tells left from right"
    axis = next(axis for axis, code in enumerate(orientation) if code in "RL")
    return (
        "the labels have no names, and might tell left from right; if none does, "
        f"name them (layout.options.labels) or give augmentation.flip_axes=[{axis}]"
    )
