"""Where a recipe names components, and what is wrong with their names and options."""

from __future__ import annotations

from copy import deepcopy
from functools import reduce
from typing import TYPE_CHECKING, Any

from pipeline.errors import Problem
from pipeline.sections import as_choice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.registry import Components, Registry

# By the dotted path of a list of choices, the key of a component's name.
LISTS = {
    "objective": "loss",
    "sources": "source",
    "augmentation.more": "augmentation",
    "metrics": "metric",
    "postprocessing": "step",
}


def spelt_out(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a raw recipe in which each name that stands alone in a list of components is a mapping with that name.

    >>> spelt_out({"network": "unet", "objective": ["dice"]})
    {'network': 'unet', 'objective': [{'loss': 'dice'}]}
    """
    spelt: dict[str, Any] = deepcopy(dict(raw))
    for path, key in LISTS.items():
        place, last = _place(spelt, path)
        if isinstance(items := place.get(last), list):
            place[last] = [{key: item} if isinstance(item, str) else item for item in items]
    return spelt


def component_problems(raw: Mapping[str, Any], components: Components) -> list[Problem]:
    """Find what is wrong with names and options of components, wherever a raw recipe has the right shape for it."""
    return [
        problem
        for path, key, registry, choice in _choices(raw, components)
        for problem in _choice_problems(path, key, registry, choice)
    ]


def _choices(raw: Mapping[str, Any], components: Components) -> Iterator[tuple[str, str, Registry, dict[str, Any]]]:
    """Yield each choice of a raw recipe: its dotted path, the key of its name, its registry, and itself."""
    registries = {
        "objective": components.losses,
        "sources": components.sources,
        "augmentation.more": components.augmentations,
        "metrics": components.metrics,
        "postprocessing": components.postprocessing,
    }
    for path, registry in registries.items():
        place, last = _place(raw, path)
        items = place.get(last)
        for index, item in enumerate(items if isinstance(items, list) else []):
            yield f"{path}.{index}", LISTS[path], registry, _mapping(item)
    named = {
        "network": (components.networks, "unet"),
        "optimizer": (components.optimizers, "adamw"),
        "optimizer.schedule": (components.schedules, "poly"),
    }
    for path, (registry, default) in named.items():
        place, last = _place(raw, path)
        yield path, "name", registry, {"name": default} | _mapping(as_choice(place.get(last)))


def _place(raw: Mapping[str, Any], path: str) -> tuple[dict[str, Any], str]:
    """Return the mapping that a dotted path leads to, an empty one if it leads nowhere, and the path's last key."""
    *parents, last = path.split(".")
    return reduce(lambda outer, key: _mapping(outer.get(key)), parents, _mapping(raw)), last


def _mapping(written: Any) -> dict[str, Any]:
    return written if isinstance(written, dict) else {}


def _choice_problems(path: str, key: str, registry: Registry, choice: dict[str, Any]) -> list[Problem]:
    name = choice.get(key)
    options = choice.get("options", {})
    if not isinstance(name, str) or not isinstance(options, dict):
        return []
    if registry.name == "network":  # `auto` leaves an option to the plan, or to the network.
        options = {key: value for key, value in options.items() if value != "auto"}
    remedy = f"`fewmask components` lists every {registry.name} and its options; files under `plugins` register others"
    return [
        Problem(f"{path}.options.{option}" if option else f"{path}.{key}", "bad-component", message, remedy)
        for option, message in registry.problems(name, options)
    ]
