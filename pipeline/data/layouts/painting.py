"""Which value of a label map shows a region: regions are painted one over the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def in_order(regions: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return regions in the order given, but for those that lie in others: they come behind these.

    >>> list(in_order({"core": (1, 4), "enhancing": (4,), "tumour": (1, 2, 4), "vessel": (3,)}))
    ['tumour', 'core', 'enhancing', 'vessel']
    """
    left = dict(regions)
    found = {}
    while left:
        name = next(name for name, own in left.items() if not any({*own} < {*other} for other in left.values()))
        found[name] = left.pop(name)
    return found


def painted_labels(regions: Mapping[str, tuple[int, ...]], *, to_paint: bool = True) -> dict[str, int]:
    """Return the label that label maps have for each region: the one value of it that no later region has.

    Args:
        regions: The values of each, in the order of painting: a later one is painted over those before it.
        to_paint: Whether label maps are to be made; of regions that are only scored, one may have several such values.

    Raises:
        UnpaintableError: A region has no such value, or several.

    >>> painted_labels({"tumour": (1, 2, 4), "core": (1, 4), "enhancing": (4,)})
    {'tumour': 2, 'core': 1, 'enhancing': 4}
    >>> painted_labels({"whole": (1, 2)}, to_paint=False)
    {'whole': 1}
    """
    painted = {}
    names = list(regions)
    for place, name in enumerate(names, 1):
        later = {value for other in names[place:] for value in regions[other]}
        own = [value for value in regions[name] if value not in later]
        if not own:
            message = "would be invisible in a mask: every value of it belongs to a region painted later"
            remedy = "leave out one of them, or list a region inside another after it"
            raise UnpaintableError(name, message, remedy)
        if len(own) > 1 and to_paint:
            message = f"has {', '.join(map(str, own))}, which no later region tells apart in a mask"
            remedy = "list a region of one of them after it, or make one label of them under labels"
            raise UnpaintableError(name, message, remedy)
        painted[name] = own[0]
    return painted


class UnpaintableError(Exception):
    """Message and remedy of a region that no label map can show.

    Args:
        name: Of the region.
        message: What is wrong.
        remedy: What to do.
    """

    def __init__(self, name: str, message: str, remedy: str) -> None:
        super().__init__(message, remedy)
        self.name = name


def asked_labels(regions: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return regions in the order of painting as nnU-Net's ``dataset.json`` has them; ``{}`` for none.

    Raises:
        UnpaintableError: As :func:`painted_labels`.
    """
    if not regions:
        return {}
    values = {name: values[0] if len(values) == 1 else list(values) for name, values in regions.items()}
    return {"labels": {"background": 0} | values, "regions_class_order": list(painted_labels(regions).values())}
