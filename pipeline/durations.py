"""Lengths of time as people write them."""

from __future__ import annotations

import re

NAMES = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "d": ("d", "day", "days"),
}
UNITS = {name: unit for unit, names in NAMES.items() for name in names}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# As a recipe has it.
DURATION = r"^[0-9]{1,8}(\.[0-9]{1,8})?[smhd]$"
PART = re.compile(r"([0-9]{1,8}(?:\.[0-9]{1,8})?) *([a-z]+) *")


def is_duration(text: str) -> bool:
    """Tell whether text is a length of time as people write it.

    >>> is_duration("1h30m"), is_duration("20"), is_duration("1 year")
    (True, False, False)
    """
    return re.search(DURATION, in_one_unit(text)) is not None


def in_one_unit(text: str) -> str:
    """Return a length of time as a recipe has it, one number with the smallest of its units.

    Text that is no length of time is returned as it is: the recipe refuses it in its own words.

    >>> in_one_unit("90s"), in_one_unit("20min"), in_one_unit("1h30m"), in_one_unit("1.5 days")
    ('90s', '20m', '90m', '1.5d')
    >>> in_one_unit("30m1h"), in_one_unit("soon")
    ('30m1h', 'soon')
    """
    parts = PART.findall(text.strip().lower())
    if not parts or "".join(number + name for number, name in parts) != re.sub(" +", "", text.lower()):
        return text
    units = [UNITS.get(name, "") for _, name in parts]
    # Each unit once, and the largest first, as everyone writes them.
    if not all(units) or units != sorted(set(units), key=lambda unit: -SECONDS[unit]):
        return text
    total = sum(float(number) * SECONDS[unit] for (number, _), unit in zip(parts, units, strict=True))
    return f"{total / SECONDS[units[-1]]:.8f}".rstrip("0").rstrip(".") + units[-1]


def in_words(seconds: float) -> str:
    """Return a length of time as people say it.

    >>> in_words(40.2), in_words(90), in_words(5400), in_words(100_000)
    ('40 s', '1 min 30 s', '1 h 30 min', '27 h 47 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min"
