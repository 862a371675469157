"""Load a recipe, apply overrides to it, report every mistake in it, and write it out again."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from pipeline.errors import Problem, UserError, joined, nearest, plain, shown
from pipeline.recipe import Recipe, Section
from pipeline.strict_yaml import read_yaml, write_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.registry import Registry

MAX_RECIPE_BYTES = 1_000_000


def shipped() -> dict[str, Path]:
    """Return the recipes that come with the program, by name: in a wheel beside this file, else in ``configs/``."""
    here = Path(__file__).resolve().parent
    folder = here / "recipes" if (here / "recipes").is_dir() else here.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(source: Path) -> Path | None:
    """Return the recipe that a person means by a path or a shipped recipe's name; None for a dataset.

    A recipe is a name or ends in ``.yaml``; anything else that is there is a dataset.

    Raises:
        UserError: There is neither a recipe nor a file or folder of that name.
    """
    names = shipped()
    if str(source) in names:
        return names[str(source)]
    if source.suffix in (".yaml", ".yml"):
        return source
    if source.exists():
        return None
    message = "is neither a recipe's name nor a file or folder"
    problem = Problem(str(source), "no-such-recipe", message, f"check the path, or {nearest(str(source), names)}")
    raise UserError("There is nothing to train.", [problem])


# Options of `train` and `plan` that are followed by a value.
VALUED = ("--time-budget", "--folds", "--output", "-o", "--allow-change")


def overrides_first(arguments: list[str]) -> list[str]:
    """Let key=value stand anywhere on a line of ``train`` or ``plan``: the source first, then these, then options.

    >>> overrides_first(["train", "--output", "a=b", "seed=1", "r.yaml"])
    ['train', 'r.yaml', 'seed=1', '--output', 'a=b']
    """
    if arguments[:1] not in (["train"], ["plan"]):
        return arguments
    pairs = list(pairwise(arguments))
    options = [word for before, word in pairs if word.startswith("-") or before in VALUED]
    words = [word for before, word in pairs if not (word.startswith("-") or before in VALUED)]
    return [arguments[0], *sorted(words, key=lambda word: "=" in word), *options]


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe file and apply ``key=value`` overrides, without judging the values yet.

    Args:
        path: A YAML file.
        overrides: Dotted keys and YAML values: ``optimizer.learning_rate=1e-3``, ``objective.2.weight=0.3``.

    Raises:
        UserError: The file is missing, too large or no YAML mapping, or an override has no ``=`` or no place.
    """
    if not path.is_file():
        raise UserError(
            "The recipe cannot be read.",
            [Problem(str(path), "missing-file", "there is no such file", "check the path")],
        )
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise UserError(
            "The recipe cannot be read.",
            [Problem(str(path), "too-large", "over 1 MB", "a recipe is a page of YAML")],
        )
    raw = read_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if not isinstance(raw, dict):
        raise UserError(
            "The recipe cannot be read.",
            [Problem(str(path), "bad-yaml", "no mapping of keys to values", "see configs/ for examples")],
        )
    return override(raw, overrides)


def override(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set ``key=value`` pairs in raw keys and values, as :func:`read` does, and return them.

    Raises:
        UserError: A pair has no ``=`` or no place.
    """
    for pair in overrides:
        _apply(raw, pair)
    return raw


def read_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs with dotted keys and YAML values, as :func:`read` does.

    Raises:
        UserError: A pair has no ``=``, or no YAML behind it.
    """
    return override({}, pairs)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise _bad_override(override, "no key=value")
    *parents, last = key.split(".")
    place: Any = raw
    for part in parents:
        if isinstance(place, dict) and not isinstance(place.get(part), (dict, list)):
            # A shorthand such as `network: unet` makes way for the mapping that the override speaks of.
            place[part] = {"name": place[part]} if isinstance(place.get(part), str) else {}
        place = place[_key_in(place, part, override)]
    place[_key_in(place, last, override)] = read_yaml(text, override)


def _key_in(place: Any, part: str, override: str) -> str | int:
    """Return what part of a dotted key leads on from a mapping or a list."""
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise _bad_override(override, "leads into a value")
    if part.isdigit() and int(part) < len(place):
        return int(part)
    remedy = f"use 0 to {len(place) - 1}" if place else "give the whole list"
    raise _bad_override(override, f"{part!r} is no place in a list of {len(place)}", remedy)


def _bad_override(
    override: str, message: str, remedy: str = "write key=value with a dotted key, such as optimizer.learning_rate=1e-3"
) -> UserError:
    return UserError("An override cannot be read.", [Problem(override, "bad-override", message, remedy)])


def parse(raw: Mapping[str, Any], source: str, losses: Registry, networks: Registry, sources: Registry) -> Recipe:
    """Turn raw keys and values into a recipe, or report every mistake of them at once.

    Args:
        raw: What :func:`read` returned.
        source: What to call the recipe in messages.
        losses: Where the objective's losses are looked up.
        networks: Where the network is looked up.
        sources: Where sources are looked up.

    Raises:
        UserError: With one problem a mistake: dotted path, what was expected, the nearest name.
    """
    problems = _component_problems(raw, losses, networks, sources)
    try:
        # Through JSON, pydantic is strict about types and still reads a list as a tuple and text as a path.
        recipe = Recipe.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        problems = _schema_problems(error) + problems
    if problems:
        raise _mistakes(source, problems)
    if problems := _needs_problems(recipe, losses, networks, sources):
        raise _mistakes(source, problems)
    return recipe


def _mistakes(source: str, problems: Sequence[Problem]) -> UserError:
    return UserError(f"The recipe {source} has {len(problems)} mistake{'s' * (len(problems) > 1)}.", problems)


def _needs_problems(recipe: Recipe, losses: Registry, networks: Registry, sources: Registry) -> list[Problem]:
    """Find terms that look at scans that there are not, or at values that nothing provides for them."""
    decoder = {"reconstruction"} if hasattr(networks[recipe.network.name], "reconstruct") else set()
    made = {name for choice in recipe.sources for name in sources[choice.source].provides}
    provided = {"image", "mask", "logits"} | decoder | made
    streams = {"unlabelled": provided}
    if recipe.segments is None:  # Else no mask is trained on.
        streams["labelled"] = provided | {"label"}
    problems = []
    for n, term in enumerate(recipe.objective):
        known = {name for kind in streams if term.on in (kind, "all") for name in streams[kind]}
        if not known:
            message = "no scan counts as labelled in a recipe with segments"
            problems.append(Problem(f"objective.{n}.on", "no-labels", message, "write `on: all`"))
            continue
        loss = losses[term.loss]
        needs = (term.judges or loss.judges, *(term.against or loss.against))
        problems += [_unprovided(n, term.loss, name, known, recipe) for name in needs if name not in known]
    return problems


def _unprovided(n: int, loss: str, name: str, known: set[str], recipe: Recipe) -> Problem:
    """Say that the n-th term needs a value that nothing provides for the scans that it looks at."""
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
    message, remedy = f"{loss} needs {name!r}, and nothing provides it", nearest(name, sorted(known))
    return Problem(f"objective.{n}", "not-provided", message, f"name a source that does, under `sources`; {remedy}")


def dump(recipe: Recipe, comments: Mapping[str, str] | None = None) -> str:
    """Return a recipe as YAML that :func:`read` and :func:`parse` turn into the same recipe.

    Args:
        recipe: The recipe.
        comments: What to write above a key, by its dotted path.
    """
    return write_yaml(recipe.model_dump(mode="json"), comments)


def _schema_problems(error: ValidationError) -> list[Problem]:
    found: dict[str, Problem] = {}
    for item in error.errors():
        path, section, description = _locate(item["loc"], is_extra=item["type"] == "extra_forbidden")
        if item["type"] == "extra_forbidden":
            message, remedy = "there is no such key", nearest(str(item["loc"][-1]), section.model_fields)
        elif item["type"] == "missing":
            message, remedy = "is not given", f"give {description}"
        else:
            message = f"{plain(item['msg'])}, not {shown(item['input'])}"
            remedy = f"give {description}" if description else "correct the value"
        if path in found:  # One key that accepts several kinds of value fails once a kind.
            message = joined(found[path].message, message)
        found[path] = Problem(path, "bad-recipe", message, remedy)
    # A list that could also be `auto` fails as both; its items say more.
    return [problem for path, problem in found.items() if not any(other.startswith(f"{path}.") for other in found)]


def _locate(loc: tuple[int | str, ...], *, is_extra: bool) -> tuple[str, type[Section], str]:
    """Return the dotted path of a pydantic location, the section that it is in, and its description.

    Text that is neither a field's name nor an extra key is pydantic's own for a branch of a union, such as ``bool``.
    """
    section: type[Section] = Recipe
    path, description = [], ""
    for part in loc:
        info = section.model_fields.get(str(part))
        if info is not None:
            description = info.description or ""
            section = _section_of(info.annotation) or section
        if isinstance(part, int) or info is not None or (is_extra and part is loc[-1]):
            path.append(str(part))
    return ".".join(path), section, description


def _section_of(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((section for inner in get_args(annotation) if (section := _section_of(inner))), None)


def _component_problems(
    raw: Mapping[str, Any], losses: Registry, networks: Registry, sources: Registry
) -> list[Problem]:
    """Check names and options of components wherever the raw recipe has the right shape for it."""
    choices: list[tuple[str, Registry, Any, Any]] = []
    for key, registry in (("objective", losses), ("sources", sources)):
        items = raw.get(key)
        for index, item in enumerate(items if isinstance(items, list) else []):
            if isinstance(item, dict):
                choices.append((f"{key}.{index}", registry, item.get(registry.name), item.get("options", {})))
    network = raw.get("network", {})
    if isinstance(network, dict):
        options = network.get("options", {})
        if isinstance(options, dict):  # `auto` leaves an option to the plan, or to the network.
            options = {key: value for key, value in options.items() if value != "auto"}
        choices.append(("network", networks, network.get("name", "unet"), options))
    else:
        choices.append(("network", networks, network, {}))
    return [
        problem
        for path, registry, name, options in choices
        if isinstance(name, str) and isinstance(options, dict)
        for problem in _choice_problems(path, registry, name, options)
    ]


def _choice_problems(path: str, registry: Registry, name: str, options: dict[str, Any]) -> list[Problem]:
    remedy = f"`fewmask components` lists every {registry.name} and its options"
    name_key = f"{path}.{'name' if registry.name == 'network' else registry.name}"
    return [
        Problem(f"{path}.options.{option}" if option else name_key, "bad-component", message, remedy)
        for option, message in registry.problems(name, options)
    ]
