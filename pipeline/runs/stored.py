"""Schemas of the files that a run writes about itself. They are read here alone, and validated like any other input."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path  # noqa: TC003 - pydantic reads the annotation when it builds the models
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from pipeline import __version__, config, strict_json
from pipeline.bounds import MAX_LABEL
from pipeline.data.inspection import CaseFacts
from pipeline.data.layouts.dataset import MAX_CLASSES
from pipeline.decisions import Decisions, converted, split
from pipeline.errors import Problem, UserError, plain
from pipeline.files import regular
from pipeline.outputs import Output
from pipeline.prediction.postprocessing import POSTPROCESSING as STEPS
from pipeline.recipe import Recipe
from pipeline.strict_yaml import read_yaml
from pipeline.types import Region, Task

if TYPE_CHECKING:
    from pipeline.checkpoints import Checkpoint

CONFIG = "config.yaml"
SPLIT = "split.json"
INDEX = "index.json"
BUDGET = "budget.json"
SUMMARY = "summary.json"
PLUGINS = "plugins.json"
# Of a cross-validation.
FOLDS = "folds.json"
POSTPROCESSING = "postprocessing.json"
# Keys that runs of earlier versions lack, with what those versions did.
EARLIER = {"regions": None}
EARLIER_DATA = {"units": 1, "unlike": "keep", "crop_to_body": False}
OUT_OF_FOLD = "out-of-fold"
ATLASES = "atlases.pt"
# Files that are written once: if one is changed, the run's figures no longer hold.
FIXED = (SPLIT, INDEX, PLUGINS, POSTPROCESSING, ATLASES)
# Without declared labels each mask may have other values, at most 250 of them.
MAX_LABELS = 4 * MAX_CLASSES
# An index of 60,000 cases has about 150 MB.
MAX_INDEX_BYTES = 500_000_000

REMEDY = "bring the file back as it was written, or train anew"
STRICT = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

Seconds = Annotated[float, Field(ge=0, le=1e9)]
AboveZero = Annotated[float, Field(gt=0, le=1e9)]
Ids = list[str]


class Stored(BaseModel):
    """Base of what a JSON file of a run holds."""

    model_config = STRICT


class StoredSplit(Stored):
    """Which cases are trained on, and which are held out."""

    labelled: Ids
    unlabelled: Ids
    validation: Ids
    unlike: Ids = []

    @model_validator(mode="after")
    def _names_each_case_once(self) -> StoredSplit:
        everyone = self.labelled + self.unlabelled + self.validation + self.unlike
        if len(set(everyone)) < len(everyone):
            raise ValueError("expected each case once")
        return self


class StoredFolds(Stored):
    """The number of folds of a cross-validation."""

    folds: Annotated[int, Field(ge=2, le=1_000_000)]


class StoredStep(Stored):
    """One step of post-processing."""

    step: Literal["fill_holes", "keep_largest", "drop_small"]
    options: dict[str, Any]

    @model_validator(mode="after")
    def _can_be_built(self) -> StoredStep:
        if problems := STEPS.problems(self.step, self.options):
            raise ValueError(problems[0][1])
        return self


class StoredSteps(Stored):
    """The post-processing that a cross-validation has chosen."""

    steps: list[StoredStep]


class StoredPace(Stored):
    """The pace of a training, as :class:`pipeline.pacing.budget.Pace`."""

    step_s: AboveZero
    validation_s: Seconds
    tail_s: Seconds


class StoredBudget(Stored):
    """The time budget of a run, as :mod:`pipeline.pacing.budget` describes it."""

    seconds: AboveZero
    spent_s: Seconds
    pace: StoredPace
    validate_every: Annotated[int, Field(ge=1)]
    given_up: bool


class StoredSummary(Stored):
    """The part of a summary that is read here; the rest is for other programs."""

    model_config = {**STRICT, "extra": "ignore"}

    tolerance_mm: float | None = None
    dataset: str | None = None
    checkpoint: str | None = None


class StoredPlugin(Stored):
    """One plugin: its path and the hash of its content."""

    path: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class StoredPlugins(Stored):
    """The plugins that a run was trained with."""

    plugins: Annotated[list[StoredPlugin], Field(max_length=100)]


class StoredRegion(Stored):
    """A region, as :class:`pipeline.types.Region`."""

    label: Annotated[int, Field(ge=1, le=MAX_LABEL)]
    values: Annotated[list[Annotated[int, Field(ge=1, le=MAX_LABEL)]], Field(min_length=1, max_length=MAX_LABELS)]


class StoredTask(Stored):
    """The labels and channels of a network, as :class:`pipeline.types.Task`."""

    labels: Annotated[dict[Annotated[int, Field(ge=0, le=MAX_LABEL)], str], Field(min_length=2, max_length=MAX_LABELS)]
    channels: Annotated[list[str], Field(min_length=1, max_length=1000)]
    regions: list[StoredRegion] = []

    @model_validator(mode="after")
    def _has_regions_of_labels(self) -> StoredTask:
        if self.regions and [0, *sorted(region.label for region in self.regions)] != sorted(self.labels):
            raise ValueError("expected a region for each label")
        return self

    def as_task(self) -> Task:
        """Return it as what a network was trained to do, without a value to ignore."""
        regions = tuple(Region(region.label, tuple(region.values)) for region in self.regions)
        return Task(self.labels, tuple(self.channels), regions=regions)


class StoredAbout(Stored):
    """What a checkpoint holds beside its tensors."""

    model_config = {**STRICT, "extra": "ignore"}

    step: Annotated[int, Field(ge=1, le=10**15)]
    best: float | None
    recipe: str
    task: StoredTask
    version: str


SCHEMAS: dict[str, type[Stored]] = {
    SPLIT: StoredSplit,
    FOLDS: StoredFolds,
    POSTPROCESSING: StoredSteps,
    BUDGET: StoredBudget,
    SUMMARY: StoredSummary,
    PLUGINS: StoredPlugins,
}
FACTS = TypeAdapter(tuple[CaseFacts, ...], config=STRICT)


def read_own(run: Path, name: str) -> Any:
    """Read a JSON file that a run has written about itself.

    Args:
        run: The run's folder.
        name: Of the file.

    Returns:
        Its content: dictionaries, lists, text and numbers.

    Raises:
        UserError: The file is missing, was changed after it was written, or is not one that this version writes.
    """
    path = run / name
    try:
        content = SCHEMAS[name].model_validate(strict_json.read_json(path)).model_dump()
    except ValidationError as error:
        raise _damaged(path, _first_of(error)) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    refuse_altered(path)
    return content


def read_index(run: Path) -> dict[str, CaseFacts]:
    """Read the facts that the check found of every case when a run was started, by the case's id.

    Raises:
        UserError: As :func:`read_own`.
    """
    path = run / INDEX
    try:
        with regular(path).open("rb") as stream:
            content = stream.read(MAX_INDEX_BYTES + 1)
        if len(content) > MAX_INDEX_BYTES:
            raise ValueError(f"it has over {MAX_INDEX_BYTES // 1_000_000} MB")
        rows = FACTS.validate_json(content)
        facts = {found.case: found for found in rows}
        if len(facts) < len(rows):
            raise ValueError("a case stands twice in it")
        for found in rows:
            if not found.content or len(found.stamps) != len(found.sha256):
                raise ValueError(f"it does not tell every file of the case {found.case}")
    except ValidationError as error:
        raise _damaged(path, _first_of(error)) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    refuse_altered(path)
    return facts


def read_config(run: Path) -> Recipe:
    """Read the recipe that a run was started with; components that it names need not be registered.

    Raises:
        UserError: As :func:`read_own`.
    """
    return _read_written(run)[0]


def read_decisions(run: Path) -> Decisions:
    """Read the decisions of a run.

    Raises:
        UserError: As :func:`read_own`.
    """
    return _read_written(run)[1]


def _read_written(run: Path) -> tuple[Recipe, Decisions]:
    path = run / CONFIG
    try:
        return _validated(config.read(regular(path)))
    except ValidationError as error:
        raise _damaged(path, _first_of(error)) from None
    except UserError as error:
        raise _damaged(path, error.problems[0].message) from None
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None


def _validated(raw: dict[str, Any]) -> tuple[Recipe, Decisions]:
    raw = EARLIER | raw
    if isinstance(raw.get("data"), dict):
        raw = raw | {"data": EARLIER_DATA | raw["data"]}
    asked, decided = split(raw)
    return config.model_of(Recipe, asked), config.model_of(Decisions, decided)


def read_about(checkpoint: Checkpoint) -> StoredAbout:
    """Return what a checkpoint holds beside its tensors.

    Raises:
        UserError: Something of it is missing or invalid.
    """
    try:
        return StoredAbout.model_validate(checkpoint.state)
    except ValidationError as error:
        message = f"holds no run of ours: {_first_of(error)}"
        remedy = "use a checkpoint that Fewmask wrote"
        problem = Problem(str(checkpoint.path), "foreign-checkpoint", message, remedy)
        raise UserError("The checkpoint cannot be used.", [problem]) from None


def read_written_of(checkpoint: Checkpoint) -> tuple[Recipe, Decisions]:
    """Return the recipe of a checkpoint, which holds no paths, and the decisions of its run.

    Raises:
        UserError: It holds none that this version can read.
    """
    about = read_about(checkpoint)
    try:
        raw = read_yaml(about.recipe, str(checkpoint.path))
        if not isinstance(raw, dict):
            raise TypeError("it is no mapping")
        return _validated(converted(raw))
    except (ValidationError, TypeError) as error:
        told = _first_of(error) if isinstance(error, ValidationError) else error
        message = f"holds a recipe that version {__version__} cannot read: {told}"
        remedy = f"use Fewmask {about.version}, which wrote it"
        problem = Problem(str(checkpoint.path), "foreign-checkpoint", message, remedy)
        raise UserError("The checkpoint cannot be used.", [problem]) from None


def refuse_altered(path: Path) -> None:
    """Refuse a file that was changed after the run wrote it, if the run's list has its hash."""
    output = Output(path.parent, "run")
    altered = False
    with suppress(UserError):  # Without a valid list nothing is known.
        altered = path.name in FIXED and output.knows(path.name) and not output.is_own(path.name)
    if altered:
        problem = Problem(str(path), "damaged-run", "was changed after it was written", REMEDY)
        raise UserError("The run's folder is not whole.", [problem])


def _first_of(error: ValidationError) -> str:
    first, *more = error.errors()
    where = ".".join(map(str, first["loc"]))
    others = ""
    if more:
        others = f", and {len(more)} more mistake(s)"
    return f"{where + ': ' if where else ''}{plain(first['msg'])}{others}"


def _damaged(path: Path, error: object) -> UserError:
    told = error.strerror if isinstance(error, OSError) and error.strerror else error
    problem = Problem(str(path), "damaged-run", f"cannot be read: {told}", REMEDY)
    return UserError("The run's folder is not whole.", [problem])
