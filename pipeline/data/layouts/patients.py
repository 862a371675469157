"""Warn of ids that look like several scans of one patient, if a dataset does not name the patients."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.data.layouts.dataset import Dataset
    from pipeline.types import Case

# Words in an id behind which the scan of a patient is named. Those of the first group are followed by a number.
NUMBERED = (
    *("slice", "slc", "sl", "frame", "fr", "run", "ses", "session", "visit", "timepoint", "tp", "time", "scan", "day"),
    *("week", "month", "year", "phase", "echo", "acq", "rep", "view", "stack", "crop", "patch", "tile", "z", "t", "v"),
    *("mr", "mri", "ct", "exam", "study", "series"),
)
ALONE = (
    *("baseline", "bl", "followup", "follow-up", "fu", "pre", "post", "preop", "postop", "test", "retest", "left"),
    *("right", "lh", "rh", "ed", "es", "l", "r"),
    *("links", "rechts", "gauche", "droite", "izquierda", "derecha", "sinistra", "destra"),
)
MARKER = re.compile(
    rf"[-_. ](?P<word>(?:{'|'.join(NUMBERED)})(?=[-_ ]?\d)|(?:{'|'.join(ALONE)})(?=\d*(?:[-_. ]|$)))", re.I
)
# A number behind a number: 012_03, 012 (3). Numbers of sites stand before those of patients, too.
COUNTED = re.compile(r"^(?P<stem>.*\d)(?:[-_ ]\d+| \(\d+\))$")
SITE = re.compile(r"(?:sites?|cent(?:er|re)|hospital|scanner|fold|batch|part|cohort|dataset|task)[-_ ]?\d+$", re.I)
# A day, year first or last: 2024-02-01, 20240201, 01.02.2024, 01.02.24.
DATE = r"(?:(?:19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d|[0-3]\d[-_.][01]\d[-_.](?:19|20)\d\d|[0-3]\d\.[01]\d\.\d\d)(?!\d)"
# Patients with scans of several days: behind the patient, or before.
DATED = (rf"^(.+?)(?:[-_. ]{DATE}.*)?$", rf"^{DATE}[-_. ]+(.+)$")
# Numbers behind numbers are taken for scans only if the ids have at least so many different stems.
STEMS = 3
WHOSE = "if they are several patients', correct what says so (`patient` of the layout); else data.validation=none"


def shared_stems(dataset: Dataset) -> list[Problem]:
    """Warn of ids that share a stem and may be, or are, on both sides of a split; the remedy keeps them together."""
    cases = {case.id: case for case in dataset.cases}
    pattern = None
    if not dataset.names_patients:
        pattern = pattern_of(cases)
    if pattern is None:
        return []
    groups: dict[str, list[Case]] = {}
    for name, case in cases.items():
        match = re.search(pattern, name)
        groups.setdefault(match[1] if match else name, []).append(case)
    drawn = all(case.role != "validation" for case in dataset.cases)
    parted = {stem: found for stem, found in groups.items() if _can_part(found, drawn)}
    # A stem that all ids have says nothing: heart_frame_1, heart_frame_2.
    if not parted or len(groups) < 2:
        return []
    first = next(iter(parted.values()))
    message = (
        f"has {sum(map(len, parted.values()))} scans whose ids share {len(parted)} stem(s), such as "
        f"{', '.join(case.id for case in first[:3])}, so that one patient could be trained on and tested on"
    )
    remedy = (
        f"--layout-option patient='{pattern}' (for train layout.options.patient='{pattern}') keeps each stem together; "
        "--layout-option patient='(.+)' each scan by itself"
    )
    return [Problem(str(dataset.source), "shared-stems", message, remedy)]


def one_patient(dataset: Dataset) -> list[Problem]:
    """Warn of several scans with masks that all count as one patient's, so that nobody can be held out."""
    labelled = [case for case in dataset.cases if case.label]
    drawn = all(case.role in (None, "training") for case in labelled)
    if not drawn or len(labelled) < 2 or len({case.patient for case in labelled}) > 1:
        return []
    message = f"has {len(labelled)} scans with masks, all of patient {labelled[0].patient!r}: nobody can be held out"
    return [Problem(str(dataset.source), "one-patient", message, WHOSE)]


def _can_part(cases: Sequence[Case], drawn: bool) -> bool:
    """Tell whether cases that count as different patients have, or may be drawn to have, different roles."""
    if len({case.patient for case in cases}) < 2 or all(case.patient != case.id for case in cases):
        return False
    trainable = [case for case in cases if case.role in (None, "training")]
    if len(trainable) < len(cases):
        return bool(trainable)
    return drawn and len(cases) > 1 and any(case.label for case in cases)


def pattern_of(ids: Iterable[str]) -> str | None:
    """Return a pattern whose first group is the stem of an id; None where no stem has several ids."""
    ids = list(ids)
    for pattern in DATED:
        if _tells_patients(pattern, ids):
            return pattern
    found = [match for name in ids if (match := MARKER.search(name))]
    if found:
        marks = "|".join(dict.fromkeys(re.escape(match["word"].lower()) for match in found))
        pattern = rf"(?i)^(.+?)(?:[-_. ](?:{marks})(?:[-_. ]?\d|[-_. ]|$).*)?$"
        if _is_shared(pattern, ids):
            return _shorter(found[0], pattern, ids)
    ending = _shared_ending(ids)
    bare = [name.removesuffix(ending) for name in ids]
    numbers = [match["stem"] for name in bare if (match := COUNTED.match(name)) and not SITE.search(match["stem"])]
    pattern = rf"^(.*\d)(?:[-_ ]\d+| \(\d+\)){re.escape(ending)}$".replace(r"\ ", " ")
    if not ending and not any(name.endswith(")") for name in ids):
        pattern = r"^(.*\d)[-_ ]\d+$"
    whole = len(numbers) == len(ids) and len(set(numbers)) >= STEMS
    if whole and _is_shared(pattern, ids):
        return pattern
    return None


def _tells_patients(pattern: str, ids: Sequence[str]) -> bool:
    """Tell whether the stems that a date parts off are patients': they have numbers, or are many, and are no sites."""
    stems = _stems(pattern, ids)
    known = {stem for stem in stems if stem is not None}
    if None in stems or len(known) < 2 or any(map(SITE.search, known)) or not _is_shared(pattern, ids):
        return False
    return len(known) >= STEMS or all(any(map(str.isdigit, stem)) for stem in known)


def _shared_ending(ids: Sequence[str]) -> str:
    """Return the word that all ids end in, with what parts it from the rest, such as `` T1w``; "" for none."""
    ends = {match[0] if (match := re.search(r"[-_. ][A-Za-z][A-Za-z0-9]*$", name)) else "" for name in ids}
    return ends.pop() if len(ends) == 1 else ""


def _shorter(marker: re.Match[str], pattern: str, ids: Sequence[str]) -> str:
    """Return a shorter pattern with the mark of one id alone, if that gives the same stems of all ids."""
    number = r"\d" if len(marker["word"]) == 1 else ""
    mark = re.escape(marker[0]).replace(r"\-", "-").replace(r"\ ", " ")
    short = f"(.+?){mark}{number}"
    if _stems(short, ids) == _stems(pattern, ids):
        return short
    return pattern


def _stems(pattern: str, ids: Iterable[str]) -> list[str | None]:
    return [match and match[1] for match in (re.search(pattern, name) for name in ids)]


def _is_shared(pattern: str, ids: Iterable[str]) -> bool:
    stems = [stem for stem in _stems(pattern, ids) if stem is not None]
    return len(set(stems)) < len(stems)
