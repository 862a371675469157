"""Names and colours of labels, as other programs read them."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from pipeline.files import atomic_write, open_text
from pipeline.reports.html import asset
from pipeline.strict_json import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LABELS = "labels.json"
ITK_SNAP = "labels-itksnap.txt"
SLICER = "labels.ctbl"
LABEL_TABLES = (LABELS, ITK_SNAP, SLICER)

ITK_SNAP_HEAD = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# A: opacity, 0 to 1; VIS, MSH: whether the label and its mesh are shown
################################################
"""


@cache
def palette() -> tuple[str, ...]:
    """Return the colours of a report's classes, in their order, as ``#rrggbb``; further classes begin anew."""
    return tuple(re.findall(r"--k\d+: (#[0-9a-f]{6});", asset("report.css")))


def colours_of(labels: Mapping[int, str]) -> dict[int, str | None]:
    """Return the colour of each label; None of the background.

    >>> colours_of({0: "background", 2: "organ"})
    {0: None, 2: '#e69f00'}
    """
    places = {label: n for n, label in enumerate(sorted(set(labels) - {0}))}
    colours = palette()
    return {label: colours[places[label] % len(colours)] if label else None for label in sorted(labels)}


def write_label_tables(folder: Path, labels: Mapping[int, str]) -> None:
    """Write ``labels.json``, a label description of ITK-SNAP and a colour table of 3D Slicer.

    Args:
        folder: Where they go; it must exist.
        labels: Label values and names.
    """
    colours = colours_of(labels)
    rows = [{"value": label, "name": labels[label], "colour": colour} for label, colour in colours.items()]
    write_json(folder / LABELS, {"labels": rows})
    snap = [ITK_SNAP_HEAD]
    slicer = [f"# Color table file {SLICER}\n# {len(colours)} values\n"]
    for label, colour in colours.items():
        red, green, blue = _numbers(colour)
        seen = int(colour is not None)
        snap.append(
            f'{label:5d} {red:5d} {green:4d} {blue:4d} {seen:8d} {seen:2d} {seen:2d}    "{_quoted(labels[label])}"\n'
        )
        slicer.append(f"{label} {_word(labels[label], label)} {red} {green} {blue} {255 * seen}\n")
    for name, lines in ((ITK_SNAP, snap), (SLICER, slicer)):
        with atomic_write(folder / name) as partial, open_text(partial) as file:
            file.writelines(lines)


def _numbers(colour: str | None) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex((colour or "#000000")[1:])
    return red, green, blue


def _quoted(name: str) -> str:
    """Return a name that can stand between quotation marks on one line."""
    return "".join(c if c.isprintable() else " " for c in name).replace('"', "'")


def _word(name: str, label: int) -> str:
    """Return a name without a space, which would end it."""
    return "_".join("".join(c if c.isprintable() else " " for c in name).split()) or f"label_{label}"
