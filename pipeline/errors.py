"""Errors that a user can mend: what is wrong, where, and what to do about it."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import groupby
from os.path import commonprefix
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one place.

    Attributes:
        where: The file, or the dotted path of a recipe's key.
        code: A stable, hyphenated name of the kind of problem.
        message: What was found and what was expected.
        remedy: What to do about it.
        case: The case it belongs to, or "" where it belongs to none.
    """

    where: str
    code: str
    message: str
    remedy: str
    case: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.code}]\n    remedy: {self.remedy}"

    def as_row(self) -> dict[str, str]:
        """Return the fields as a flat row, for a table or a JSON file."""
        # Not by `asdict`, which copies every text: a dataset may have a problem in each of its files.
        return {name: getattr(self, name) for name in Problem.__slots__}


class UserError(Exception):
    """A mistake that the user can mend: the command line prints it and exits with code 2.

    Args:
        summary: What could not be done.
        problems: Every problem behind it, each with its remedy.
    """

    exit_code = 2

    def __init__(self, summary: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(summary)
        self.summary = summary
        self.problems = tuple(problems)

    def as_dict(self) -> dict[str, object]:
        """Return summary and problems, JSON-ready."""
        return {"error": self.summary, "problems": [problem.as_row() for problem in self.problems]}

    def __str__(self) -> str:
        lines = [self.summary]
        for remedy, alike in groupby(self.problems, key=lambda problem: problem.remedy):
            lines += [f"  - {problem.where}: {problem.message} [{problem.code}]" for problem in alike]
            lines.append(f"    remedy: {remedy}")
        return printable("\n".join(lines))


class ElsewhereError(UserError):
    """Another process of the same training has failed and says why; the command line adds nothing, and exits alike.

    Args:
        exit_code: That of the other process.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__("Another process of this training has failed.")
        self.exit_code = exit_code


class IncompleteError(UserError):
    """Some of what was asked for could not be done, and all the rest was: the command line exits with code 3.

    Args:
        summary: How much was done.
        problems: As for :class:`UserError`.
        done: The files that hold what was done.
    """

    exit_code = 3

    def __init__(self, summary: str, problems: Sequence[Problem], done: Sequence[Path]) -> None:
        super().__init__(summary, problems)
        self.done = tuple(done)

    def as_dict(self) -> dict[str, object]:
        """Return summary, problems, and the files that hold what was done."""
        return super().as_dict() | {"done": list(map(str, self.done))}


def printable(text: str) -> str:
    r"""Return text that a terminal shows and never obeys; only line breaks stay what they are.

    Names in it come from files, and may hold escape sequences.

    >>> printable("a\x1b[2Jb")
    'a�[2Jb'
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


# What pydantic says of sequences and of texts.
COUNT = re.compile(r"\w+ should have (at (?:least|most) \d+ items?)(?: after validation)?, not \d+")
PATTERN = re.compile(r"String should match pattern '.*'")
# Up to this many names are all compared with a misspelt one; of more, so many neighbours of it in the alphabet.
FEW = 50
NEXT = 4
# A hint lists so many choices at most.
LISTED = 20


class Names:
    """A set of names in which the one closest to a misspelt name is found without comparing all of them.

    Among many names, only the neighbours of the misspelt one in alphabetical order are compared, sorted once by their
    beginnings and once by their ends. So a dataset in which every file is missing is checked as fast as any other.

    Args:
        names: In any order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.sorted = sorted(set(map(str, names)))
        self._backwards = sorted(name[::-1] for name in self.sorted) if len(self.sorted) > FEW else []

    def nearest(self, name: str, besides: str | None = None) -> str | None:
        """Return the name that is closest to another one, or None where none is close; ``besides`` is left out.

        >>> Names(f"case_{n:05d}_0000" for n in range(60_000)).nearest("case_00123")
        'case_00123_0000'
        """
        near = self.sorted
        if self._backwards:
            forwards = _next_to(self.sorted, name)
            backwards = _next_to(self._backwards, name[::-1])
            around = {*forwards, *(other[::-1] for other in backwards)} - {besides}
            near = sorted(around, key=lambda other: -_in_common(name, other))[:2]
        close = [other for other in get_close_matches(name, near, n=len(near) or 1) if other != besides]
        # Names that differ in a number alone are all similar; the longest common beginning and end decide.
        return max(close, key=lambda other: _in_common(name, other), default=None)


def _next_to(names: list[str], name: str) -> list[str]:
    place = bisect_left(names, name)
    return names[max(0, place - NEXT) : place + NEXT]


def _in_common(one: str, other: str) -> int:
    """Return how many letters two names begin and end with alike."""
    start = commonprefix([one, other])  # noqa: RUF071 - letter by letter, as is meant
    end = commonprefix([one[::-1], other[::-1]])  # noqa: RUF071
    return len(start) + len(end)


def nearest(name: str, choices: Iterable[str] | Names) -> str:
    """Return a hint naming the choice closest to ``name``, or some of them where none is close.

    Args:
        name: What was given.
        choices: In the order in which they are listed; :class:`Names` where many names are looked up among them.

    >>> nearest("balanced_cee", ["dice", "balanced_ce"])
    "did you mean 'balanced_ce'?"
    >>> nearest("focal", ["dice", "ncut"])
    'choose one of: dice, ncut'
    """
    known = choices.sorted if isinstance(choices, Names) else list(map(str, choices))
    close = (choices if isinstance(choices, Names) else Names(known)).nearest(name)
    if close is not None:
        return f"did you mean {close!r}?"
    return f"choose one of: {listed(known, LISTED)}"


def is_other_number(name: str, other: str) -> bool:
    """Tell whether two names have different numbers: another number makes another case, and no slip of the pen.

    >>> is_other_number("case_07", "case_08"), is_other_number("case_7 (copy)", "case_8")
    (True, True)
    >>> is_other_number("case_7", "cace_7"), is_other_number("case_7", "case_07")
    (False, False)
    """
    pairs = zip(DIGITS.findall(name), DIGITS.findall(other), strict=False)
    return any(int(one) != int(another) for one, another in pairs)


def listed(names: Sequence[str], most: int) -> str:
    """Return names as a message lists them: the first of them, and how many more there are.

    >>> listed(["a", "b", "c"], 2), listed(["a"], 2)
    ('a, b and 1 more', 'a')
    """
    more = ""
    if len(names) > most:
        more = f" and {len(names) - most} more"
    return ", ".join(names[:most]) + more


def shown(value: object, most: int = 80) -> str:
    """Return a value as a message shows it: as Python writes it, and not longer than a line.

    >>> shown("unet"), shown("9" * 400, most=8)
    ("'unet'", "'9999999…")
    """
    text = repr(value)
    if len(text) <= most:
        return text
    return f"{text[:most]}…"


def plain(message: str) -> str:
    """Return a message of pydantic's in the words that ours have.

    >>> plain("Input should be greater than 0"), plain("Value error, expected one letter")
    ('expected greater than 0', 'expected one letter')
    >>> plain("Tuple should have at least 2 items after validation, not 0"), plain("String should match pattern '^a$'")
    ('expected at least 2 items', 'expected another form')
    >>> plain("Input should be a valid array"), plain("Input should be a valid string")
    ('expected a list, as in [a, b]', 'expected text')
    """
    message = message.replace("Input should be", "expected").replace("Value error, ", "")
    message = message.replace("a valid array", "a list, as in [a, b]").replace("a valid string", "text")
    message = COUNT.sub(r"expected \1", message)
    return PATTERN.sub("expected another form", message)


def joined(before: str, message: str) -> str:
    """Join two messages about a value that may be of several kinds, and is of none of them.

    >>> joined("expected 'auto', not 5", "expected a valid integer, not 5")
    "expected 'auto' or a valid integer, not 5"
    """
    told = before.rpartition(", not")[0]
    expected = message.removeprefix("expected ")
    if expected.rpartition(", not")[0] in told:
        return before
    return f"{told} or {expected}"


def first_line(error: Exception) -> str:
    r"""Return the first line of an error's message, or the name of its class.

    >>> first_line(ValueError("no such server\nat line 3")), first_line(TimeoutError())
    ('no such server', 'TimeoutError')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__
