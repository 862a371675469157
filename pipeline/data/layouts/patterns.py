"""Match names with a user's regular expression, in a process of its own that is ended if it takes too long.

``(a+)+$`` takes time exponential in the length of a name. Python cannot interrupt such a match, but can end a process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# A sound pattern matches a million names in so long.
LONGEST_S = 10.0
# The program of that process, which needs the standard library alone; JSON in and out is ASCII.
MATCH = """
import json, re, sys
text, names = json.load(sys.stdin)
pattern = re.compile(text)
found = map(pattern.search, names)
json.dump([match and [match[1] if pattern.groups else match[0]] for match in found], sys.stdout)
"""
REMEDY = r"give a regular expression, such as '(.+)_\d+$' for the part before the last number"


class BadPatternError(Exception):
    """Message and remedy of a pattern that cannot be used."""


def first_groups(pattern: str, names: Sequence[str]) -> list[str | None]:
    """Return the first group of a pattern in each name, or else the whole match.

    Args:
        pattern: A regular expression.
        names: Any number of names; for none the pattern is only compiled.

    Returns:
        A text for each name: "" where the group takes no part in the match, and None where there is no match.

    Raises:
        BadPatternError: It is no pattern, or it takes longer than any sound one.
    """
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise BadPatternError(f"is no pattern: {error}", REMEDY) from None
    if not names:
        return []
    words = [sys.executable, "-I", "-S", "-c", MATCH]
    asked = json.dumps([pattern, names])
    try:
        done = subprocess.run(words, input=asked, capture_output=True, text=True, timeout=LONGEST_S, check=True)
    except subprocess.TimeoutExpired:
        message = f"takes more than {LONGEST_S:g} s to be looked for in {len(names)} name(s)"
        remedy = "give one without a repetition inside a repetition, such as (a+)+"
        raise BadPatternError(message, remedy) from None
    return [match and (match[0] or "") for match in json.loads(done.stdout)]
