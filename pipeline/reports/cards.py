"""The first screen of a page: cards, and what to do next, with links into the page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Link:
    """A link into the page.

    Attributes:
        place: The id of the element that it leads to.
        case: The index of the case that it brings; None for none.
        outcome: The outcome, or the key of the group of outcomes, that the table is narrowed to; "" for none.
    """

    place: str
    case: int | None = None
    outcome: str = ""


# The group of all outcomes that are failures.
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Card:
    """What a reader asks first.

    Attributes:
        question: The heading.
        figure: The answer, a number or a few words.
        text: What it means.
        link: Where the answer leads.
    """

    question: str
    figure: str
    text: str
    link: Link | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do next.

    Attributes:
        text: What, in a sentence.
        link: Where it is done in the page.
        command: The command that does it; "" for none.
    """

    text: str
    link: Link | None = None
    command: str = ""
