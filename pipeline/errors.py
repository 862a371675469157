"""What a user did that we cannot go on from, said so that it can be mended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


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
    case: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.code}]\n    remedy: {self.remedy}"

    def as_row(self) -> dict[str, str]:
        """Return the fields as a flat row, for a table or a JSON file."""
        return asdict(self)


class UserError(Exception):
    """A mistake that the user can mend: the command line prints it and exits with code 2.

    Args:
        summary: What could not be done.
        problems: Every problem behind it, each with its remedy.
    """

    def __init__(self, summary: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(summary)
        self.summary = summary
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return printable("\n".join([self.summary, *(f"  - {problem}" for problem in self.problems)]))


def printable(text: str) -> str:
    r"""Return text that a terminal shows and never obeys; only line breaks stay what they are.

    Names in it come from files, and may hold escape sequences.

    >>> printable("a\x1b[2Jb")
    'a�[2Jb'
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def nearest(name: str, choices: Iterable[str]) -> str:
    """Return a hint naming the choice closest to ``name``, or all of them where none is close.

    >>> nearest("balanced_cee", ["dice", "balanced_ce"])
    "did you mean 'balanced_ce'?"
    >>> nearest("focal", ["dice", "ncut"])
    'choose one of: dice, ncut'
    """
    known = [str(choice) for choice in choices]
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(known)}"


def shown(value: object, most: int = 80) -> str:
    """Return a value as a message shows it: as Python writes it, and not longer than a line.

    >>> shown("unet"), shown("9" * 400, most=8)
    ("'unet'", "'9999999…")
    """
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def plain(message: str) -> str:
    """Return a message of pydantic's in the words of ours.

    >>> plain("Input should be greater than 0"), plain("Value error, expected one letter")
    ('expected greater than 0', 'expected one letter')
    """
    return message.replace("Input should be", "expected").replace("Value error, ", "")
