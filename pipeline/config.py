"""Load a recipe, apply overrides to it, report every mistake in it, and write it out again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import ValidationError

from pipeline.choices import component_problems, spelt_out
from pipeline.decisions import DECIDED, NONE, Decisions, converted, split
from pipeline.errors import Problem, UserError, joined, nearest, plain, shown
from pipeline.files import path_hint
from pipeline.needs import needs_problems
from pipeline.recipe import Recipe
from pipeline.sections import Section
from pipeline.strict_yaml import read_yaml, write_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.registry import Components

S = TypeVar("S", bound=Section)

MAX_RECIPE_BYTES = 1_000_000
# What other programs call keys of a recipe.
ELSEWHERE = {
    "lr": "learning_rate",
    "epochs": "max_steps",
    "num_epochs": "max_steps",
    "max_epochs": "max_steps",
    "fold": "split_fold",
    "num_workers": "workers",
    "roi_size": "patch_size",
    "ignore": "layout.options.ignore",
    "patient": "layout.options.patient",
}


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
    if str(source) in (names := shipped()):
        return names[str(source)]
    if source.suffix in (".yaml", ".yml"):
        return source
    if source.exists():
        return None
    message = "is neither a recipe's name nor a file or folder"
    remedy = path_hint(source, f"check the path, or {nearest(str(source), names)}")
    raise UserError("There is nothing to train.", [Problem(str(source), "no-such-recipe", message, remedy)])


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a recipe file and apply ``key=value`` overrides, without judging the values yet.

    Args:
        path: A YAML file.
        overrides: Dotted keys and YAML values: ``optimizer.learning_rate=1e-3``, ``objective.2.weight=0.3``.

    Returns:
        The keys and values; relative paths of the file begin at its own folder.

    Raises:
        UserError: The file is missing, too large or no YAML mapping, or an override has no ``=`` or leads nowhere.
    """
    return override(_placed(converted(_mapping_in(path)), path.parent), overrides)


def read_section(model: type[S], path: Path) -> S:
    """Read a YAML file that is not a recipe, and check everything in it.

    Raises:
        UserError: The file is missing, too large or no YAML mapping, or has mistakes: one problem for each.
    """
    try:
        return model_of(model, _mapping_in(path))
    except ValidationError as error:
        raise _mistakes(str(path), _schema_problems(error, model), "file") from None


def _mapping_in(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise _unreadable(path, "missing-file", "there is no such file", path_hint(path))
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise _unreadable(path, "too-large", "over 1 MB", "a recipe is a page of YAML")
    raw = read_yaml(path.read_text(encoding="utf-8", errors="replace"), str(path))
    if not isinstance(raw, dict):
        raise _unreadable(path, "bad-yaml", "no mapping of keys to values", "see configs/ for examples")
    return raw


def _unreadable(path: Path, code: str, message: str, remedy: str) -> UserError:
    return UserError("The file cannot be read.", [Problem(str(path), code, message, remedy)])


def _placed(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Let relative paths of a recipe's file begin at its folder; those of overrides begin where the command runs."""

    def placed(value: Any) -> Any:
        if isinstance(value, str) and value:
            return str(folder / value)
        return value

    result = raw | {key: placed(raw[key]) for key in ("dataset", "root", "start") if key in raw}
    if isinstance(raw.get("plugins"), list):
        result["plugins"] = [placed(plugin) for plugin in raw["plugins"]]
    data = raw.get("data")
    if isinstance(data, dict):
        places = {key: placed(data[key]) for key in ("cache", "split") if key in data}
        if data.get("cache") in ("run", "off"):
            del places["cache"]
        result["data"] = data | places
    return result


def override(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set ``key=value`` pairs in raw keys and values, in place, as :func:`read` does; return ``raw``.

    Raises:
        UserError: A pair has no ``=``, or its key leads nowhere.
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
        if Path(override).exists():
            raise _bad_override(override, "no key=value", f"to train on it, write dataset={override}")
        if override in shipped():
            raise _bad_override(override, "no key=value", f"a recipe comes first: {override} dataset=PATH")
        raise _bad_override(override, "no key=value")
    *parents, last = key.split(".")
    # A shorthand such as `network: unet` or `metrics: [centre_distance_mm]` makes way for the mapping that the override
    # speaks of.
    raw |= spelt_out(raw)
    place: Any = raw
    for part in parents:
        if isinstance(place, dict) and not isinstance(place.get(part), (dict, list)):
            place[part] = {"name": place[part]} if isinstance(place.get(part), str) else {}
        place = place[_key_in(place, part, override)]
    value = read_yaml(text, override)
    # Such as `labels=liver:[1`, which a shell makes of a mapping without quotes. A pattern of a layout may have it too.
    unpaired = any(text.count(left) != text.count(right) for left, right in ("{}", "[]"))
    if isinstance(value, str) and unpaired and parents[:1] != ["layout"]:
        quoted = "quote it, so that the shell leaves it whole: 'labels={liver: [1, 2]}'"
        raise _bad_override(override, "has a bracket without its other half", quoted)
    place[_key_in(place, last, override)] = value


def _key_in(place: Any, part: str, override: str) -> str | int:
    """Return the key of a mapping, or the index of a list, that one part of a dotted key names."""
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise _bad_override(override, "leads into a value")
    if part.isdigit() and int(part) < len(place):
        return int(part)
    remedy = "give the whole list"
    if place:
        remedy = f"use 0 to {len(place) - 1}"
    raise _bad_override(override, f"{part!r} is no place in a list of {len(place)}", remedy)


def _bad_override(
    override: str, message: str, remedy: str = "write key=value with a dotted key, such as optimizer.learning_rate=1e-3"
) -> UserError:
    return UserError("An override cannot be read.", [Problem(override, "bad-override", message, remedy)])


def parse(raw: Mapping[str, Any], source: str, components: Components) -> Recipe:
    """Turn raw keys and values into a recipe, or report every mistake of them at once.

    Args:
        raw: What :func:`read` returned.
        source: What to call the recipe in messages.
        components: Where what it names is looked up.

    Raises:
        UserError: With one problem for each mistake: its dotted path, what was expected, the nearest name. Mistakes in
            the decisions, which :func:`parse_decisions` returns, are among them.
    """
    raw = spelt_out(raw)
    problems = component_problems(raw, components)
    asked, decided = split(raw)
    try:
        model_of(Decisions, decided)
    except ValidationError as error:
        problems += _schema_problems(error, Decisions, f"{DECIDED}.")
    try:
        recipe = model_of(Recipe, asked)
    except ValidationError as error:
        problems = _schema_problems(error, Recipe) + problems
    if problems:
        raise _mistakes(source, problems)
    if problems := needs_problems(recipe, components):
        raise _mistakes(source, problems)
    return recipe


def parse_decisions(raw: Mapping[str, Any], source: str) -> Decisions:
    """Return the decisions of a run from raw keys and values; without any, ``NONE``.

    Raises:
        UserError: With one problem for each mistake.
    """
    try:
        return model_of(Decisions, split(raw)[1])
    except ValidationError as error:
        raise _mistakes(source, _schema_problems(error, Decisions, f"{DECIDED}.")) from None


def model_of(model: type[S], raw: Any) -> S:
    """Validate raw keys and values as a model.

    They go through JSON: so pydantic is strict about types and still reads a list as a tuple and text as a path.

    Raises:
        ValidationError: They do not fit the model.
    """
    return model.model_validate_json(json.dumps(raw, default=str))


def _mistakes(source: str, problems: Sequence[Problem], what: str = "recipe") -> UserError:
    return UserError(f"The {what} {source} has {len(problems)} mistake{'s' * (len(problems) > 1)}.", problems)


def dump(recipe: Recipe, comments: Mapping[str, str] | None = None, *, decided: Decisions = NONE) -> str:
    """Return a recipe as YAML that :func:`read` and :func:`parse` turn into the same recipe.

    Args:
        recipe: The recipe.
        comments: What to write above a key, by its dotted path.
        decided: The decisions of its run.
    """
    return write_yaml(written(recipe, decided), comments)


def written(recipe: Recipe, decided: Decisions = NONE) -> dict[str, Any]:
    """Return a recipe and the decisions of its run, if there are any, as keys and plain values."""
    told = {}
    if decided != NONE:
        told = {DECIDED: decided.model_dump(mode="json", exclude_none=True)}
    return recipe.model_dump(mode="json") | told


def _schema_problems(error: ValidationError, model: type[Section], prefix: str = "") -> list[Problem]:
    """Turn pydantic's errors into problems, one for each key; the prefix goes before each path."""
    found: dict[str, Problem] = {}
    for item in error.errors():
        place, section, description = _locate(item["loc"], model, is_extra=item["type"] == "extra_forbidden")
        path = f"{prefix}{place}"
        if item["type"] == "extra_forbidden":
            message = "there is no such key"
            remedy = _meant(str(item["loc"][-1]), section, place.rpartition(".")[0])
        elif item["type"] == "missing":
            message = "is not given"
            remedy = f"give {description}"
        else:
            message = f"{plain(item['msg'])}, not {shown(item['input'])}"
            remedy = "correct the value"
            if description:
                remedy = f"give {description}"
        if path in found:  # One key that accepts several kinds of value fails once a kind.
            message = joined(found[path].message, message)
        found[path] = Problem(path, "bad-recipe", message, remedy)
    # A list that could also be `auto` fails as both; its items say more.
    return [problem for path, problem in found.items() if not any(other.startswith(f"{path}.") for other in found)]


def _meant(key: str, section: type[Section], parent: str) -> str:
    """Return which key may have been meant by one that is not in a section; the section's own key goes before it."""
    known = ELSEWHERE.get(key, key)
    kinds = {name: info.annotation for name, info in Recipe.model_fields.items()}
    inner = {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, Section)}
    places = [f"{name}.{known}" for name, kind in inner.items() if known in kind.model_fields]
    if section is not Recipe or not (places or key in ELSEWHERE):
        before = f"{parent}." if parent else ""
        return nearest(f"{before}{key}", [f"{before}{name}" for name in section.model_fields])
    return f"did you mean {' or '.join(places or [known])}?"


def _locate(loc: tuple[int | str, ...], model: type[Section], *, is_extra: bool) -> tuple[str, type[Section], str]:
    """Return the dotted path of a pydantic location in a model, the section that it is in, and its description.

    Text that is neither a field's name nor an extra key is pydantic's own for a branch of a union, such as ``bool``.
    """
    section = model
    path = []
    description = ""
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
