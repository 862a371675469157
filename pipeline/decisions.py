"""Decisions: numbers of steps and threads that a training chose while it ran, so that it can be repeated bit for bit.

They stand under ``decided`` in the ``config.yaml`` of a run, beside the recipe, which holds what was asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from pipeline.bounds import Steps
from pipeline.sections import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

# Their key in a recipe's file.
DECIDED = "decided"


NOBODY_KNOWN = (
    "The network began with the weights of another model. Whether that was trained on these cases is not known; if it "
    "was, the figures flatter."
)
WeightNames = Annotated[tuple[Annotated[str, Field(max_length=1000)], ...], Field(max_length=100_000)]


class Taken(Section):
    """What a network began with of another model's weights."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = Field(description="the SHA-256 of the model's file")
    whole: Annotated[int, Field(ge=0)] = Field(default=0, description="the number of weights that were taken whole")
    partly: WeightNames = Field(default=(), description="a list of weights of which some labels' rows were taken")
    new: WeightNames = Field(default=(), description="a list of weights that were drawn anew")
    left: WeightNames = Field(default=(), description="a list of the model's weights that have no place")
    seen: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="the number of validation cases that the model was trained on, where it is known"
    )


class Decisions(Section):
    """How many steps there are and how many threads compute, and what the network began with."""

    corrections: Annotated[tuple[tuple[Steps, Steps], ...], Field(max_length=10_000)] = Field(
        default=(), description="a list of pairs, written by a run: after which step, how many steps"
    )
    threads: Annotated[
        tuple[tuple[Annotated[int, Field(ge=0, le=10**9)], Annotated[int, Field(ge=1, le=1024)]], ...],
        Field(max_length=10_000),
    ] = Field(
        default=(),
        description="a list of pairs, written by a run with a time budget: after which step, how many threads, "
        "1 to 1024",
    )
    taken: Taken | None = Field(
        default=None, description="a mapping, written by a run that began with another model's weights, or null"
    )

    @field_validator("threads")
    @classmethod
    def _rise(cls, value: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        steps = [step for step, _ in value]
        if steps != sorted(set(steps)):
            raise ValueError("expected steps in rising order")
        return value

    def on(self, device: str) -> Decisions:
        """Return the decisions that apply to a device: on a GPU, the number of CPU threads does not."""
        if device == "cpu":
            return self
        return Decisions(corrections=self.corrections, taken=self.taken)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know of figures of a network that began with another model's weights."""
        if self.taken is None or self.taken.seen == 0:
            return ()
        if self.taken.seen is None:
            return (NOBODY_KNOWN,)
        return (
            f"The network began with the weights of another model, which was trained on {self.taken.seen} of these "
            "cases: the figures flatter.",
        )

    def begun_with(self, taken: Taken | None) -> Decisions:
        """Return the same of a network that began with other weights; None for drawn ones."""
        return self.model_copy(update={"taken": taken})


NONE = Decisions()


def converted(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a recipe's file as this version writes it.

    The first versions had the decisions of a run among the keys of its recipe.

    >>> converted({"max_steps": 9, "corrections": [[3, 7]], "threads": []})
    {'max_steps': 9, 'decided': {'corrections': [[3, 7]]}}
    """
    moved = [key for key in ("corrections", "threads") if key in raw]
    if not moved or DECIDED in raw:
        return raw
    decided = {key: raw[key] for key in moved if raw[key] != []}
    kept = {key: value for key, value in raw.items() if key not in moved}
    if decided:
        kept[DECIDED] = decided
    return kept


def split(raw: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Part the keys and values of a file into those of the recipe and those of the decisions."""
    asked = {key: value for key, value in raw.items() if key != DECIDED}
    return asked, raw.get(DECIDED, {})
