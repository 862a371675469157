"""Choose how the intensities of each channel are normalised."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.data.statistics import PROBABILITIES, pool
from pipeline.data_section import HounsfieldWindow, ZScore
from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.data.inspection import CaseFacts
    from pipeline.data.statistics import Intensities

# What CT's air is near to and other modalities stay far above.
LIKE_AIR = -500


def choose_normalization(
    given: Any, channels: Sequence[str], facts: Sequence[CaseFacts]
) -> tuple[ZScore | HounsfieldWindow, ...]:
    """Return a scheme for every channel: ``ct`` for those called CT, ``zscore`` for all others.

    CT numbers mean the same in every scan, so they are clipped and scaled alike: to the 0.5 and 99.5 percentiles of the
    labelled foreground, less its mean, divided by its standard deviation. Other intensities have a scale of their own
    in every scan, and are standardised over its voxels inside the body.

    Args:
        given: ``auto``, or one scheme a channel, whose own numbers stay.
        channels: Names of the channels.
        facts: Of the scans that are trained on.

    Raises:
        UserError: The number of schemes is not that of the channels.
    """
    if given == "auto":
        given = [HounsfieldWindow(scheme="ct") if is_ct(name) else ZScore(scheme="zscore") for name in channels]
    if len(given) != len(channels):
        message = f"has {len(given)} entries, and the scans have {len(channels)} channel(s): {', '.join(channels)}"
        raise UserError(
            "The recipe does not fit the dataset.",
            [Problem("data.normalization", "normalization-count", message, "give one for each channel, or auto")],
        )
    return tuple(
        _filled(way, pooled_intensities(facts, n)) if isinstance(way, HounsfieldWindow) else way
        for n, way in enumerate(given)
    )


def normalization_reason(
    ways: Sequence[ZScore | HounsfieldWindow], channels: Sequence[str], facts: Sequence[CaseFacts]
) -> str:
    """Say why, and where a dataset may have forgotten to say that it is CT."""
    schemes = {way.scheme for way in ways}
    reasons = {
        "ct": "CT numbers mean the same in every scan: clipped and scaled by the labelled foreground of all",
        "zscore": "every scan has its own scale: standardised over its voxels inside the body",
    }
    suspects = [
        name
        for n, (way, name) in enumerate(zip(ways, channels, strict=True))
        if way.scheme == "zscore" and is_like_ct(facts, n)
    ]
    hint = f"; {', '.join(suspects)} looks like CT: if it is, name it CT or set data.normalization=[ct]"
    return "; ".join(reasons[scheme] for scheme in sorted(schemes)) + (hint if suspects else "")


def is_ct(channel: str) -> bool:
    """Tell by its name whether a channel is computed tomography.

    >>> is_ct("CT"), is_ct("low-dose ct"), is_ct("T1"), is_ct("contrast")
    (True, True, False, False)
    """
    return "ct" in re.split("[^a-z]+", channel.lower())


def is_like_ct(facts: Sequence[CaseFacts], channel: int) -> bool:
    """Tell whether most scans reach down to where only CT does, for datasets that do not say what they are."""
    regions = [case.intensities[channel].nonzero for case in facts if case.intensities]
    lows = [region.quantiles[1] for region in regions if region is not None]
    return sum(low < LIKE_AIR for low in lows) > len(lows) / 2


def pooled_intensities(facts: Sequence[CaseFacts], channel: int) -> Intensities | None:
    """Return a channel's intensities in the foreground of all scans, or in all they hold where none has a mask."""
    known = [case.intensities[channel] for case in facts if case.intensities]
    regions = [part.foreground for part in known if part.foreground] or [part.nonzero for part in known if part.nonzero]
    return pool(regions) if regions else None


def _filled(way: HounsfieldWindow, found: Intensities | None) -> HounsfieldWindow:
    """Put numbers where the recipe leaves them open; a window of one value is made as wide as what becomes 1.

    Raises:
        UserError: The scans hold numbers that no recipe can.
    """
    if found is None:  # Scans of zeros alone: any numbers do.
        chosen = {"low": -1000.0, "high": 1000.0, "mean": 0.0, "std": 500.0}
    else:
        low, high = (found.quantiles[PROBABILITIES.index(p)] for p in (0.005, 0.995))
        chosen = {"low": low, "high": high, "mean": found.mean, "std": max(found.std, 1.0)}
    chosen = {key: round(value, 2) for key, value in chosen.items()} | way.model_dump(exclude=_open(way))
    if chosen["high"] <= chosen["low"]:
        if way.high == "auto":
            chosen["high"] = chosen["low"] + chosen["std"]
        else:
            chosen["low"] = chosen["high"] - chosen["std"]
    try:
        return HounsfieldWindow.model_validate(chosen)
    except ValidationError:
        message = f"is ct, and the scans hold values from {chosen['low']:g} to {chosen['high']:g}"
        remedy = "use zscore, if these are no CT numbers, or correct the scans"
        problem = Problem("data.normalization", "not-ct", message, remedy)
        raise UserError("The recipe does not fit the dataset.", [problem]) from None


def _open(way: HounsfieldWindow) -> set[str]:
    return {key for key in ("low", "high", "mean", "std") if getattr(way, key) == "auto"}
