"""Bounds of the numbers that a person may give; no sensible value comes near them.

Beyond them something would overflow, fill the memory or never end, in a place that cannot say which number was to
blame. So recipes, options of components and the command line are checked against these before anything is read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated
from unicodedata import category

from pydantic import Field

from pipeline.errors import Problem, UserError, printable, shown

if TYPE_CHECKING:
    from collections.abc import Iterable

Share = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=1, le=10**9)]
Samples = Annotated[int, Field(ge=1, le=4096)]
# Voxels along an axis of a patch, and their size.
Side = Annotated[int, Field(ge=1, le=4096)]
LEAST_MM = 1e-4
MOST_MM = 1e4
# What a device may be called.
DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"
Millimetres = Annotated[float, Field(ge=LEAST_MM, le=MOST_MM)]
Intensity = Annotated[float, Field(ge=-1e9, le=1e9)]
# Numbers that float32 divides by, and squares, without becoming 0 or infinite.
Scale = Annotated[float, Field(ge=1e-6, le=1e9)]

# Strengths of augmentations; 0 switches one off.
FlipAxes = Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], Field(max_length=3)]
Degrees = Annotated[float, Field(ge=0, le=180)]
RelativeChange = Annotated[float, Field(ge=0, lt=1)]
Displacement = Annotated[float, Field(ge=0, le=1000)]
NoiseSigma = Annotated[float, Field(ge=0, le=100)]
BlurSigma = Annotated[float, Field(ge=0, le=5)]
Coarseness = Annotated[float, Field(ge=0, le=4)]

# Of a U-Net's levels: features of each, factors of the steps between them along each axis, sizes of kernels.
Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=2, max_length=12)]
Depths = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=12)]
Factors = Annotated[tuple[tuple[Annotated[int, Field(ge=1, le=16)], ...], ...], Field(max_length=12)]
Kernels = Annotated[tuple[tuple[Annotated[int, Field(ge=1, le=15)], ...], ...], Field(max_length=12)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
# Values of masks travel in float32, which holds every integer up to here.
MAX_LABEL = 2**24
LabelValue = Annotated[int, Field(ge=-MAX_LABEL, le=MAX_LABEL)]
ForegroundValue = Annotated[int, Field(ge=1, le=MAX_LABEL)]
Millilitres = Annotated[float, Field(ge=0, le=1e9)]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float:
    """Return a duration in seconds.

    >>> seconds_of("90s"), seconds_of("1.5h")
    (90.0, 5400.0)
    """
    return float(text[:-1]) * SECONDS[text[-1]]


def refuse_outside(name: str, value: float | None, low: float, high: float) -> None:
    """Refuse a number of the command line outside ``[low, high]``; None, for an option that is not given, passes.

    Raises:
        UserError: It is outside, or NaN.
    """
    if value is None or (low <= value <= high and math.isfinite(value)):
        return
    problem = Problem(name, "out-of-range", f"is {shown(value, 20)}", f"give {low:g} to {high:g}")
    raise UserError("Nothing was started.", [problem])


def refuse_no_text(words: Iterable[str]) -> None:
    """Refuse words of the command line that hold bytes other than UTF-8, or control characters.

    Such bytes could be named in no recipe and no list, and a terminal would obey the control characters wherever the
    word is shown. Line breaks and tabs pass, since a recipe may hold them.

    Raises:
        UserError: A word holds such bytes or characters.
    """
    for word in words:
        message = ""
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            message = "holds bytes that are no UTF-8"
        elif any(category(letter) == "Cc" and letter not in "\n\t" for letter in word):
            message = "holds control characters"
        if message:
            problem = Problem(printable(word), "no-text", message, "rename the file or folder")
            raise UserError("Nothing was started.", [problem])
