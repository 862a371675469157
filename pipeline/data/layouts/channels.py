"""Channels in files of their own, numbered as nnU-Net numbers them: ``NAME_0000``, ``NAME_0001``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import Names, Problem, is_other_number
from pipeline.nifti.container import is_nifti, stem

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

CHANNEL = re.compile(r"(.+)_(\d{4})")

Grouped = dict[str, dict[int, "Path"]]


def group(paths: Sequence[Path]) -> tuple[Grouped, list[Path]]:
    """Return the files of each scan by their channels' numbers, and the files that have no number."""
    grouped: Grouped = {}
    others = []
    for path in paths:
        if match := CHANNEL.fullmatch(stem(path)):
            grouped.setdefault(match[1], {})[int(match[2])] = path
        else:
            others.append(path)
    return grouped, others


def numbers_channels(paths: Sequence[Path], labels: Collection[str] = ()) -> bool:
    """Tell whether the numbers at the ends of names are those of channels, and not those of cases.

    Args:
        paths: The images of one folder.
        labels: Names of the masks, which end in the number of a case if they end in one.
    """
    grouped, others = group(paths)
    if not grouped or any(stem(path) in labels for files in grouped.values() for path in files.values()):
        return False
    if any(name in labels for name in grouped):
        return True
    several = any({0, 1} <= files.keys() for files in grouped.values())
    return not others and (several or all(files.keys() == {0} for files in grouped.values()))


def gaps(grouped: Grouped, channels: int | None) -> list[Problem]:
    """Find scans that lack a channel or have one too many.

    Args:
        grouped: The files of each scan by channel, from :func:`group`.
        channels: The number of channels; None takes each scan's largest number for the last.
    """
    due = {name: set(range(channels or max(files) + 1)) for name, files in grouped.items()}
    broken = [name for name, files in grouped.items() if files.keys() != due[name]]
    names = Names(broken)
    problems = []
    for name in broken:
        files = grouped[name]
        gone = sorted(due[name] - files.keys())
        spare = sorted(files.keys() - due[name])
        where = next(iter(files.values()))
        message = f"has no {', '.join(f'_{n:04d}' for n in gone)}"
        remedy = _remedy(name, names)
        if not gone:
            where = files[spare[0]]
            message = f"is a channel too many: {channels} declared"
            remedy = "take it away, or declare it"
        problems.append(Problem(str(where), "missing-channel", message, remedy, case=name))
    return problems


def without_number(paths: Sequence[Path], cases: Collection[str] = ()) -> list[Problem]:
    """Return a problem for each file without the number of a channel, where other files have one.

    Args:
        paths: The files.
        cases: The names of masks, as far as they are known.
    """
    problems = []
    for path in paths:
        case, number = case_and_number(stem(path), cases)
        remedy = f"rename it to {case}_{number:04}"
        problems.append(Problem(str(path), "missing-channel", "has no channel in its name", remedy, case=case))
    return problems


def case_and_number(name: str, cases: Collection[str]) -> tuple[str, int]:
    """Return the case and the number of a channel that a name without one may have meant.

    >>> case_and_number("a_01_001", ["a_01"]), case_and_number("a_01", ["a_01"])
    (('a_01', 1), ('a_01', 0))
    """
    case, _, number = name.rpartition("_")
    if case in cases and number.isdecimal() and len(number) < 5:
        return case, int(number)
    return name, 0


def _remedy(name: str, broken: Names) -> str:
    near = broken.nearest(name, besides=name)
    if near is None or is_other_number(name, near):
        return "add the file, or correct its name"
    return f"add the file, or correct its name; did you mean {near!r}?"


@dataclass
class NumberedFiles:
    """Finds the channels of scans that a list names without channel numbers; each folder is listed once."""

    listed: dict[Path, Grouped] = field(default_factory=dict)

    def of(self, path: Path) -> tuple[Path, ...]:
        """Return the files ``NAME_0000``, ``NAME_0001``, … of a scan ``NAME``; the path itself if it is there."""
        if path.exists() or not path.parent.is_dir():
            return (path,)
        if path.parent not in self.listed:
            self.listed[path.parent] = group([other for other in path.parent.iterdir() if is_nifti(other)])[0]
        files = self.listed[path.parent].get(stem(path), {})
        return tuple(files[number] for number in sorted(files)) or (path,)
