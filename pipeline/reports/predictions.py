"""The page of predictions without a truth: the least sure first, volumes, and those that are unlike the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from pipeline.reports.cards import Card, Link, Step
from pipeline.reports.columns import Metric
from pipeline.reports.html import as_json, write_page
from pipeline.reports.intervals import plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline.reports.page import Origin
    from pipeline.reports.volumes import Gallery

# Of fewer masks no volume is called unlike the others.
FEWEST = 8
# The median absolute deviation of a normal distribution, in standard deviations; and the robust z from which Iglewicz
# and Hoaglin (1993, "How to Detect and Handle Outliers") call a value an outlier.
MAD = 0.6745
FAR = 3.5

WORDS = {
    "truth": False,
    "measure": "expected Dice",
    "order": "least sure first",
    "strip": "Least sure masks",
    "before": "less sure",
    "after": "surer",
}
OUTCOMES = {"present": "present", "absent": "absent", "unlike": "unlike the others"}
METRICS = (
    Metric(key="dice", name="Expected Dice", note="what the network expects its Dice to be; 0 where it finds nothing"),
    Metric(key="volume_ml", name="Volume", unit="ml", better="", decimals=2, note="volume of the structure"),
    Metric(
        key="z",
        name="Robust z",
        better="",
        decimals=1,
        note="how far the volume is from the median of the masks that have the structure, by their median absolute "
        f"deviation times {1 / MAD:.4f}; from {FEWEST} such masks on, and {FAR} or more is unlike the others",
    ),
    Metric(key="voxels", name="Voxels", better="", decimals=0, note="of the mask"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """One label in one mask.

    Attributes:
        case: The mask's name without its suffix.
        label: Its value.
        name: Its name.
        voxels: 0 where it is not there.
        volume_ml: Their volume.
        dice_expected: The Dice that the network expects.
    """

    case: str
    label: int
    name: str
    voxels: int
    volume_ml: float
    dice_expected: float


def robust_z(values: Sequence[float]) -> list[float | None]:
    """Return how far each value is from the median of all, by their median absolute deviation.

    ``0.6745 (x - median) / MAD``; None of all where there are fewer than eight, or where half of them are equal.

    >>> robust_z([1, 2, 3, 4, 5, 6, 7, 40])[-1] > 3.5, robust_z([1, 2])
    (True, [None, None])
    """
    middle = median(values) if values else 0.0
    spread = median(abs(value - middle) for value in values) if values else 0.0
    if len(values) < FEWEST or spread == 0:
        return [None] * len(values)
    return [MAD * (value - middle) / spread for value in values]


def rank(structures: Sequence[Structure]) -> dict[str, float]:
    """Return the mean expected Dice of each mask over its labels, the least sure first."""
    found: dict[str, list[float]] = {}
    for each in structures:
        found.setdefault(each.case, []).append(each.dice_expected)
    means = {case: fmean(numbers) for case, numbers in found.items()}
    return dict(sorted(means.items(), key=lambda pair: (pair[1], pair[0])))


def scores_of(structures: Sequence[Structure]) -> dict[tuple[str, int], float | None]:
    """Return the robust z of the volume of each structure that is there, among all masks that have it."""
    found: dict[tuple[str, int], float | None] = {}
    for label in {each.label for each in structures}:
        there = [each for each in structures if each.label == label and each.voxels]
        numbers = robust_z([each.volume_ml for each in there])
        found |= {(each.case, label): z for each, z in zip(there, numbers, strict=True)}
    return found


def write_predictions(path: Path, structures: Sequence[Structure], origin: Origin, gallery: Gallery) -> None:
    """Write the page of predictions.

    Args:
        path: The file; its folder must exist.
        structures: Every label in every mask.
        origin: Where they come from.
        gallery: The masks to look at, with their scans and an empty truth; those that it lacks have numbers alone.
    """
    ranked = rank(structures)
    scores = scores_of(structures)
    room = [case for case in ranked if case in gallery.packed]
    volumes = [asdict(gallery.packed[case][0]) for case in room]
    write_page(
        path,
        "predictions.html",
        ["viewer.js", "review.js", "report.js"],
        {
            "origin": origin,
            "verdict": _verdict(structures, ranked, scores),
            "steps": list(_steps(structures, ranked, scores)),
            "rows": _classes(structures, scores),
            "n_masks": len(ranked),
            "few": len(ranked) < FEWEST,
            "fewest": FEWEST,
            "left_out": len(ranked) - len(room),
            "has_cases": bool(room),
            "words": WORDS,
            "figures": (),
            "training": (),
            "metrics": METRICS,
            "data": as_json(_page_data(structures, ranked, scores, volumes)),
            "blocks": gallery.blocks(room),
        },
    )


def _is_far(z: float | None) -> bool:
    return z is not None and abs(z) >= FAR


def _verdict(
    structures: Sequence[Structure], ranked: Mapping[str, float], scores: Mapping[tuple[str, int], float | None]
) -> list[Card]:
    """Return what a reader wants to know first."""
    worst, lowest = next(iter(ranked.items()))
    far = [case for (case, _), z in scores.items() if _is_far(z)]
    empty = len(ranked) - len({each.case for each in structures if each.voxels})
    known = len(ranked) >= FEWEST
    return [
        Card("How many?", plural(len(ranked), "mask"), f"{empty} of them empty" if empty else "none of them is empty"),
        Card("What to look at?", worst, f"the least sure mask, expected Dice {lowest:.3f}", Link("cases", case=0)),
        Card(
            "How sure on the whole?", f"{fmean(ranked.values()):.3f}", "mean expected Dice; no truth was compared with"
        ),
        Card(
            "Which are unlike the others?",
            plural(len(far), "volume") if known else "too few to say",
            ", ".join(dict.fromkeys(far)) or "none" if known else f"volumes are compared from {FEWEST} masks on",
            Link("table", outcome="unlike") if far else None,
        ),
    ]


def _steps(
    structures: Sequence[Structure], ranked: Mapping[str, float], scores: Mapping[tuple[str, int], float | None]
) -> Iterator[Step]:
    """Yield what to do next."""
    yield Step(f"Look at {next(iter(ranked))} and those after it; tick off what you have seen.", Link("cases", case=0))
    if any(_is_far(z) for z in scores.values()):
        yield Step("See the volumes that are unlike the others.", Link("table", outcome="unlike"))
    if any(not each.voxels for each in structures):
        yield Step("See where a structure was found nowhere.", Link("table", outcome="absent"))
    yield Step("Draw the masks of the least sure scans, and train again:", command="fewmask train DATASET")


def _classes(structures: Sequence[Structure], scores: Mapping[tuple[str, int], float | None]) -> list[dict[str, Any]]:
    """Return what the table of classes shows, a label a row."""
    rows = []
    for label in sorted({each.label for each in structures}):
        own = [each for each in structures if each.label == label]
        there = [each.volume_ml for each in own if each.voxels]
        rows.append(
            {
                "name": own[0].name,
                "present": len(there),
                "absent": len(own) - len(there),
                "median": median(there) if there else None,
                "low": min(there, default=None),
                "high": max(there, default=None),
                "dice": fmean(each.dice_expected for each in own),
                "far": sum(_is_far(scores.get((each.case, label))) for each in own),
            }
        )
    return rows


def _page_data(
    structures: Sequence[Structure],
    ranked: Mapping[str, float],
    scores: Mapping[tuple[str, int], float | None],
    volumes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the page's script reads; ``docs/report.md`` describes it."""
    places = {case: n for n, case in enumerate(ranked)}
    labels = sorted({(each.label, each.name) for each in structures})
    order = {label: n for n, (label, _) in enumerate(labels)}
    rows = []
    for each in structures:
        z = scores.get((each.case, each.label))
        outcome = "absent"
        if each.voxels:
            outcome = "unlike" if _is_far(z) else "present"
        shown = None if z is None else round(z, 1) + 0.0  # No -0.
        numbers = [each.dice_expected, each.volume_ml, shown, each.voxels]
        rows.append([places[each.case], order[each.label], outcome, numbers])
    return {
        "cases": [{"id": case, "dice": dice} for case, dice in ranked.items()],
        "classes": [{"value": value, "name": name} for value, name in labels],
        "metrics": [
            {name: getattr(metric, name) for name in ("key", "title", "better", "decimals", "note")}
            for metric in METRICS
        ],
        "outcomes": [{"key": key, "title": title, "bad": key == "unlike"} for key, title in OUTCOMES.items()],
        "outcome_groups": [],
        "sorted_by": "dice",
        "words": WORDS,
        "rows": rows,
        "volumes": [dict(volume) | {"case": places[volume["case"]]} for volume in volumes],
    }
