"""The grid of a study: methods, numbers of labelled patients, draws of these patients, and seeds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from pipeline import config
from pipeline.errors import Problem, UserError
from pipeline.files import path_hint
from pipeline.sections import Section

if TYPE_CHECKING:
    from collections.abc import Iterator

# {labelled}, {draw}, or with leading zeros {labelled:03}.
PLACE = re.compile(r"\{(labelled|draw)(?::0([1-9]))?\}")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,59}$")]
Count = Annotated[int, Field(ge=1, le=100_000)]
Number = Annotated[int, Field(ge=0, lt=2**32)]


class Method(Section):
    """One of the ways to train that are compared."""

    name: Name = Field(description="letters, digits and _.+-, up to 60: a folder is called so")
    recipe: str = Field(description="a recipe by path or by name, such as supervised")
    settings: dict[str, Any] = Field(default_factory=dict, description="a mapping of dotted keys of the recipe")


class Study(Section):
    """A grid of trainings; the first method is the control that all others are compared with."""

    dataset: str = Field(
        description="a dataset, of which patients are drawn, or a path with {labelled} and {draw} in it, one list each"
    )
    labelled: Annotated[tuple[Count, ...], Field(min_length=1, max_length=100)] = Field(
        description="a list of how many patients have masks, each 1 or more"
    )
    draws: Annotated[tuple[Number, ...], Field(min_length=1, max_length=1000)] = Field(
        default=(0, 1, 2), description="a list of numbers, each of which draws other patients"
    )
    seeds: Annotated[tuple[Number, ...], Field(min_length=1, max_length=1000)] = Field(
        default=(0,), description="a list of seeds; a draw's figure is the mean over them"
    )
    methods: Annotated[tuple[Method, ...], Field(min_length=1, max_length=100)] = Field(
        description="a list of methods, the control first"
    )
    goal: Count | None = Field(
        default=None,
        description="how many patients with masks the control is also trained on, in the first draw, to say how much "
        "there is to gain; or null",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="a mapping of dotted keys of the recipe, for every method"
    )

    @field_validator("dataset")
    @classmethod
    def _says_all_or_nothing(cls, value: str) -> str:
        if {name for name, _ in PLACE.findall(value)} not in (set(), {"labelled", "draw"}):
            raise ValueError("expected both {labelled} and {draw}, or neither")
        return value

    @field_validator("methods")
    @classmethod
    def _has_names_of_its_own(cls, value: tuple[Method, ...]) -> tuple[Method, ...]:
        if len({method.name.lower() for method in value}) < len(value):
            raise ValueError("expected another name for each")
        return value

    @field_validator("labelled", "draws", "seeds")
    @classmethod
    def _repeats_nothing(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError("expected each once")
        return value

    @field_validator("goal")
    @classmethod
    def _is_more_than_all(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value <= max(info.data.get("labelled", (0,))):
            raise ValueError("expected more than the most of labelled")
        return value

    @property
    def control(self) -> Method:
        """The method that all others are compared with."""
        return self.methods[0]

    @property
    def has_lists(self) -> bool:
        """Whether each draw of patients is a list that the user has made."""
        return bool(PLACE.search(self.dataset))

    def cells(self) -> Iterator[Cell]:
        """Yield every training, ordered by draw and seed, so that methods can be compared early."""
        for draw, seed in product(self.draws, self.seeds):
            for labelled, method in product(self.labelled, self.methods):
                yield Cell(method.name, labelled, draw, seed)
            if self.goal and draw == self.draws[0]:
                yield Cell(self.control.name, self.goal, draw, seed)

    def list_of(self, labelled: int, draw: int) -> Path:
        """Return the list of a draw, for a study whose dataset is a path with {labelled} and {draw}."""
        told = {"labelled": labelled, "draw": draw}
        return Path(PLACE.sub(lambda found: f"{told[found[1]]:0{found[2] or 1}d}", self.dataset))


@dataclass(frozen=True, slots=True)
class Cell:
    """One training of a study."""

    method: str
    labelled: int
    draw: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder, below ``runs``."""
        return f"{self.method}/{self.labelled:03d}-draw{self.draw}-seed{self.seed}"


def read_study(path: Path) -> Study:
    """Read a study's file; its dataset and the paths of recipes begin at its own folder.

    Raises:
        UserError: The file has mistakes, with all of them; or a recipe is missing.
    """
    study = config.read_section(Study, path)
    folder = path.resolve().parent
    shipped = config.shipped()
    methods = [
        method if method.recipe in shipped else method.model_copy(update={"recipe": str(folder / method.recipe)})
        for method in study.methods
    ]
    named = [path.parent / method.recipe for method in study.methods if method.recipe not in shipped]
    problems = [
        Problem(str(recipe), "no-such-recipe", "is neither a recipe's name nor a file", path_hint(recipe))
        for recipe in named
        if not recipe.is_file()
    ]
    if problems:
        raise UserError(f"The study {path} cannot begin.", problems)
    return study.model_copy(update={"dataset": str((folder / study.dataset).resolve()), "methods": tuple(methods)})
