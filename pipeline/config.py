"""The recipe: everything a user may choose, as one frozen model that refuses what it does not know."""

from __future__ import annotations

import json
import re
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation when it builds the model
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pipeline.errors import Problem, UserError, nearest, plain
from pipeline.strict_yaml import read_yaml, write_yaml
from pipeline.types import Scans  # noqa: TC001 - pydantic reads the annotation when it builds the model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.registry import Registry

MAX_RECIPE_BYTES = 1_000_000

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of every part of a recipe: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Term(Section):
    """One term of the objective: a loss, the scans that it looks at, and its share in the total."""

    loss: str = Field(description="a registered loss; `fewmask components` lists them")
    on: Scans = Field(default="labelled", description="labelled, unlabelled or all")
    weight: float = Field(default=1.0, ge=0, description="the factor of the term, 0 or more")
    ramp: Share = Field(default=0.0, description="the share of max_steps over which the weight grows, 0 to 1")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the loss's own options")


class Network(Section):
    """The network: a registered name and its options."""

    name: str = Field(default="unet", description="a registered network; `fewmask components` lists them")
    options: dict[str, Any] = Field(default_factory=dict, description="a mapping of the network's own options")


class Data(Section):
    """How scans become batches."""

    dimensions: Literal[2, 3] = Field(default=3, description="3 for volumes, or 2 for slices of volumes and 2-D scans")
    orientation: Auto | Annotated[str, Field(pattern="^[LRAPSI]{3}$")] = Field(
        default="auto", description="three letters such as RAS; the third is the axis that 2-D slices follow"
    )
    spacing_mm: Auto | Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3)] = Field(
        default="auto", description="the voxel size to resample to, one number an axis, or auto"
    )
    patch_size: Auto | Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)] = Field(
        default="auto", description="the voxels of one training sample, one number an axis, or auto"
    )
    batch_size: Auto | Count = Field(default="auto", description="the number of labelled samples a step, or auto")
    unlabelled_batch_size: Auto | Count = Field(
        default="auto", description="the number of unlabelled samples a step, or auto"
    )
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.2,
        description="the share of labelled patients to hold out where there is no validation list, between 0 and 1",
    )
    workers: Auto | Annotated[int, Field(ge=0)] = Field(
        default="auto", description="the number of processes that prepare batches, 0 or more, or auto"
    )

    @field_validator("orientation")
    @classmethod
    def _names_each_axis(cls, value: str) -> str:
        if value != "auto" and len({"RLAPSI".index(code) // 2 for code in value}) < 3:
            raise ValueError("expected one letter each of R or L, A or P, S or I")
        return value

    @field_validator("spacing_mm", "patch_size")
    @classmethod
    def _fits_dimensions(cls, value: Any, info: ValidationInfo) -> Any:
        dimensions = info.data.get("dimensions", len(value))
        if value != "auto" and len(value) != dimensions:
            raise ValueError(f"expected {dimensions} numbers, as data.dimensions says")
        return value


class Augmentation(Section):
    """Random changes of a training sample; every number is the strength of one, and 0 switches it off."""

    flip_axes: Auto | tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field(
        default="auto",
        description="a list of axes that may be mirrored, or auto: left-right, unless a label names a side",
    )
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = Field(
        default=15.0, description="the largest rotation in degrees, 0 to 180"
    )
    scaling: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.15, description="the largest relative change of size, 0 to 1"
    )
    noise: Annotated[float, Field(ge=0)] = Field(
        default=0.1, description="the largest noise in standard deviations of the image, 0 or more"
    )
    contrast: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.25, description="the largest relative change of gain, 0 to 1"
    )
    gamma: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.3, description="the largest change of the gamma exponent, 0 to 1"
    )


class Optimizer(Section):
    """AdamW with a linear warm-up and a polynomial decay to zero."""

    learning_rate: Positive = Field(default=2e-3, description="the peak learning rate, above 0")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=1e-2, description="AdamW's weight decay, 0 or more")
    warmup: Share = Field(default=0.05, description="the share of max_steps with a growing learning rate, 0 to 1")
    clip_norm: Positive = Field(default=12.0, description="the largest norm of the gradient, above 0")


class Recipe(Section):
    """A whole training run."""

    dataset: Path = Field(description="a dataset folder or a JSON list; give it as dataset=PATH")
    root: Path | None = Field(default=None, description="the folder that a list's paths are relative to")
    plugins: tuple[Path, ...] = Field(default=(), description="a list of Python files that register components")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        default=0, description="a whole number, the one source of randomness"
    )
    max_steps: Count = Field(default=1200, description="the number of training steps, 1 or more")
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        default="auto", description="auto, cpu, cuda or cuda:N"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto (bfloat16 where the hardware has it), float32, bfloat16 or float16"
    )
    tensorboard: bool = Field(
        default=False, description="true to write TensorBoard events to RUN/tensorboard, or false"
    )
    validate_every: Count = Field(default=250, description="the number of steps between two validations, 1 or more")
    checkpoint_every: Count = Field(default=50, description="the number of steps between two checkpoints, 1 or more")
    data: Data = Data()
    augmentation: Augmentation = Augmentation()
    network: Annotated[Network, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)] = (
        Network()
    )
    optimizer: Optimizer = Optimizer()
    objective: Annotated[tuple[Term, ...], Field(min_length=1)] = Field(
        description="a list of terms, each with its loss"
    )

    @field_validator("objective")
    @classmethod
    def _weighs_something(cls, value: tuple[Term, ...]) -> tuple[Term, ...]:
        if not any(term.weight > 0 for term in value):
            raise ValueError("expected a term with a weight above 0")
        return value


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
    for override in overrides:
        _apply(raw, override)
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    remedy = "write key=value with a dotted key, such as optimizer.learning_rate=1e-3"
    if not equals or not key:
        raise UserError("An override cannot be read.", [Problem(override, "bad-override", "no key=value", remedy)])
    *parents, last = key.split(".")
    place: Any = raw
    for part in parents:
        if isinstance(place, dict) and not isinstance(place.get(part), (dict, list)):
            # A shorthand such as `network: unet` makes way for the mapping that the override speaks of.
            place[part] = {"name": place[part]} if isinstance(place.get(part), str) else {}
        place = _step_into(place, part, override)
    value = read_yaml(text, override)
    if isinstance(place, list):
        _step_into(place, last, override)
        place[int(last)] = value
    else:
        place[last] = value


def _step_into(place: Any, part: str, override: str) -> Any:
    if isinstance(place, dict):
        return place[part]
    if part.isdigit() and int(part) < len(place):
        return place[int(part)]
    message = f"{part!r} is no place in a list of {len(place)}"
    raise UserError(
        "An override cannot be read.",
        [Problem(override, "bad-override", message, f"use 0 to {len(place) - 1}")],
    )


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


def dump(recipe: Recipe) -> str:
    """Return a recipe as YAML that :func:`read` and :func:`parse` turn into the same recipe."""
    return write_yaml(recipe.model_dump(mode="json"))


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
        choices.append(("network", networks, network.get("name", "unet"), network.get("options", {})))
    else:
        choices.append(("network", networks, network, {}))
    return [
        problem
        for path, registry, name, options in choices
        if isinstance(name, str) and isinstance(options, dict)
        for problem in _choice_problems(path, registry, name, options)
    ] + _label_problems(terms, losses)


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


def _choice_problems(path: str, registry: Registry, name: str, options: dict[str, Any]) -> list[Problem]:
    remedy = f"`fewmask components` lists every {registry.name} and its options"
    name_key = f"{path}.{'name' if registry.name == 'network' else registry.name}"
    return [
        Problem(f"{path}.options.{option}" if option else name_key, "bad-component", message, remedy)
        for option, message in registry.problems(name, options)
    ]
