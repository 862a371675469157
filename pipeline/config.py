"""Load a recipe, apply overrides to it, report every mistake in it, and write it out again."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from pipeline.errors import Problem, UserError, nearest, plain
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
VALUED = ("--time-budget", "--folds", "--output", "--allow-change")


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


def parse(raw: Mapping[str, Any], source: str, losses: Registry, networks: Registry) -> Recipe:
    """Turn raw keys and values into a recipe, or report every mistake of them at once.

    Args:
        raw: What :func:`read` returned.
        source: What to call the recipe in messages.
        losses: Where the objective's losses are looked up.
        networks: Where the network is looked up.

    Raises:
        UserError: With one problem a mistake: dotted path, what was expected, the nearest name.
    """
    problems = _component_problems(raw, losses, networks)
    try:
        # Through JSON, pydantic is strict about types and still reads a list as a tuple and text as a path.
        recipe = Recipe.model_validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        problems = _schema_problems(error) + problems
    if problems:
        raise UserError(f"The recipe {source} has {len(problems)} mistake{'s' * (len(problems) > 1)}.", problems)
    return recipe


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
        path, section, description = _locate(item["loc"])
        if item["type"] == "extra_forbidden":
            message, remedy = "there is no such key", nearest(str(item["loc"][-1]), section.model_fields)
        elif item["type"] == "missing":
            message, remedy = "is not given", f"give {description}"
        else:
            message = f"{plain(item['msg'])}, not {item['input']!r}"
            remedy = f"give {description}" if description else "correct the value"
        if path in found:  # One key that accepts several kinds of value fails once a kind.
            message = f"{found[path].message.rpartition(', not')[0]}, or {message}"
        found[path] = Problem(path, "bad-recipe", message, remedy)
    # A list that could also be `auto` fails as both; its items say more.
    return [problem for path, problem in found.items() if not any(other.startswith(f"{path}.") for other in found)]


def _locate(loc: tuple[int | str, ...]) -> tuple[str, type[Section], str]:
    """Return the dotted path of a pydantic location, the section that it is in, and its description."""
    section: type[Section] = Recipe
    path, description = [], ""
    for part in loc:
        info = section.model_fields.get(str(part))
        if info is not None:
            description = info.description or ""
            section = _section_of(info.annotation) or section
        elif not isinstance(part, int) and part != loc[-1]:
            continue
        if isinstance(part, int) or info is not None or _is_key(part):
            path.append(str(part))
    return ".".join(path), section, description


def _is_key(part: str) -> bool:
    """Tell a user's key from pydantic's tag of a union's branch, such as ``literal['auto']`` or ``tuple[...]``."""
    return re.fullmatch(r"(literal|tuple|constrained|int|float|str)(\W.*|-.*)?", part) is None


def _section_of(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((section for inner in get_args(annotation) if (section := _section_of(inner))), None)


def _component_problems(raw: Mapping[str, Any], losses: Registry, networks: Registry) -> list[Problem]:
    """Check names and options of components wherever the raw recipe has the right shape for it."""
    choices: list[tuple[str, Registry, Any, Any]] = []
    terms = raw.get("objective")
    for index, term in enumerate(terms if isinstance(terms, list) else []):
        if isinstance(term, dict):
            choices.append((f"objective.{index}", losses, term.get("loss"), term.get("options", {})))
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
    ] + (_label_problems(terms, losses) if raw.get("segments") is None else _segment_problems(terms, losses))


def _label_problems(terms: Any, losses: Registry) -> list[Problem]:
    """Find terms that would always be 0: a loss on labels, looking at scans that have none."""
    return [
        Problem(
            f"objective.{index}.on",
            "no-labels",
            f"{term.get('loss')} compares with labels, and unlabelled scans have none",
            "use labelled or all, or a loss that compares with the image",
        )
        for index, term in enumerate(terms if isinstance(terms, list) else [])
        if isinstance(term, dict)
        and term.get("on") == "unlabelled"
        and isinstance(term.get("loss"), str)
        and term["loss"] in losses
        and getattr(losses[term["loss"]], "reference", None) == "label"
    ]


def _segment_problems(terms: Any, losses: Registry) -> list[Problem]:
    """Find terms that would be absent from a training without labels, in which every scan counts as unlabelled."""
    problems = []
    for index, term in enumerate(terms if isinstance(terms, list) else []):
        if not isinstance(term, dict) or not isinstance(term.get("loss"), str) or term["loss"] not in losses:
            continue
        if getattr(losses[term["loss"]], "reference", None) == "label":
            message = f"{term['loss']} compares with labels, and a recipe with segments trains without them"
            remedy = "take a loss that compares with the image, or leave out segments"
            problems.append(Problem(f"objective.{index}.loss", "no-labels", message, remedy))
        elif term.get("on", "labelled") == "labelled":
            message = "no scan counts as labelled in a recipe with segments"
            problems.append(Problem(f"objective.{index}.on", "no-labels", message, "write `on: all`"))
    return problems


def _choice_problems(path: str, registry: Registry, name: str, options: dict[str, Any]) -> list[Problem]:
    remedy = f"`fewmask components` lists every {registry.name} and its options"
    name_key = f"{path}.{'name' if registry.name == 'network' else registry.name}"
    return [
        Problem(f"{path}.options.{option}" if option else name_key, "bad-component", message, remedy)
        for option, message in registry.problems(name, options)
    ]
