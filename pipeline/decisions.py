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


class Decisions(Section):
    """How many steps there are and how many threads compute, as decided after some of the steps."""

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
        return Decisions(corrections=self.corrections)


NONE = Decisions()


def converted(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a recipe's file as this version writes it.

    The first versions had the decisions of a run among the keys of its recipe.

    >>> converted({"max_steps": 9, "corrections": [[3, 7]], "threads": []})
    {'max_steps': 9, 'decided': {'corrections': [[3, 7]]}}
    """
    moved = [key for key in Decisions.model_fields if key in raw]
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
