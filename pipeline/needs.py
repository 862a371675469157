"""Check that every value that a recipe's terms and sources need is provided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import Problem, nearest
from pipeline.types import VIEWS

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipeline.recipe import Recipe
    from pipeline.registry import Components, Registry


def needs_problems(recipe: Recipe, components: Components) -> list[Problem]:
    """Find terms and sources that need scans which the recipe does not train on, or values that nothing provides."""
    decoder = {"reconstruction"} if hasattr(components.networks[recipe.network.name], "reconstruct") else set()
    made = {name for choice in recipe.sources for name in components.sources[choice.source].provides}
    provided = {"image", "mask", "logits", *VIEWS} | decoder | made
    streams = {"unlabelled": provided}
    if recipe.segments is None:  # With segments no mask is trained on.
        streams["labelled"] = provided | {"label"}
    problems = _unmet_by_sources(recipe, components.sources, provided, streams.keys())
    for n, term in enumerate(recipe.objective):
        known = {name for kind in streams if term.on in (kind, "all") for name in streams[kind]}
        if not known:
            message = "no scan counts as labelled in a recipe with segments"
            problems.append(Problem(f"objective.{n}.on", "no-labels", message, "write `on: all`"))
            continue
        loss = components.losses[term.loss]
        needs = (term.judges or loss.judges, *(term.against or loss.against))
        problems += [_unprovided(n, term.loss, name, known, recipe) for name in needs if name not in known]
    if recipe.regions not in (None, "auto") and recipe.segments is not None:
        message = "are unions of labels, and a recipe with segments trains without them"
        problems.append(Problem("regions", "no-labels", message, "leave out one of them"))
    if recipe.postprocessing not in ((), "auto") and recipe.segments is not None:
        message = "changes the masks of labels, and the segments of a recipe without labels have no names yet"
        problems.append(Problem("postprocessing", "no-labels", message, "leave it out"))
    return problems


def _unprovided(n: int, loss: str, name: str, known: set[str], recipe: Recipe) -> Problem:
    """Return the problem of term ``n``, whose scans have no value called ``name``."""
    if name == "label" and recipe.segments is not None:
        message = f"{loss} compares with labels, and a recipe with segments trains without them"
        remedy = "take a loss that compares with the image, or leave out segments"
        return Problem(f"objective.{n}.loss", "no-labels", message, remedy)
    if name == "label":
        message = f"{loss} compares with labels, and unlabelled scans have none"
        remedy = "use labelled or all, or compare with what a source provides: against=[NAME]"
        return Problem(f"objective.{n}.on", "no-labels", message, remedy)
    if name == "reconstruction":
        message = f"{loss} judges a reconstruction, and the network {recipe.network.name} makes none"
        return Problem(f"objective.{n}.loss", "no-decoder", message, "use network=wnet, or leave it out")
    return _not_provided(f"objective.{n}", loss, name, known)


def _not_provided(where: str, component: str, name: str, known: set[str]) -> Problem:
    remedy = f"name a source that does, under `sources`; {nearest(name, sorted(known))}"
    return Problem(where, "not-provided", f"{component} needs {name!r}, and nothing provides it", remedy)


def _unmet_by_sources(recipe: Recipe, sources: Registry, provided: set[str], streams: Collection[str]) -> list[Problem]:
    problems = []
    for n, choice in enumerate(recipe.sources):
        source = sources[choice.source]
        problems += [
            _not_provided(f"sources.{n}", choice.source, name, provided)
            for name in source.needs
            if name not in provided
        ]
        if set(source.other_streams) - set(streams):
            message = f"{choice.source} looks at labelled scans, and a recipe with segments has none"
            problems.append(Problem(f"sources.{n}", "no-labels", message, "leave it out"))
    return problems
