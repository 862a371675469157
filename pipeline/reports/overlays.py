"""A figure of some cases for a paper: each at its worst slice, the truth filled and the prediction outlined.

Fills and outlines are drawn as paths, the scan as a picture inside of the drawing. It holds scans, as the page does.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pipeline.reports.axes import COLOURS, LEFT, legend, line, nice_step, shorten, svg, text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.reports.volumes import PackedCase

    Slice = NDArray[np.uint8]

# Pixels of a case's square, and between two of them.
SIDE = 140
GAP = 8
TITLES = {1: "The case", 2: "The worst and the best case", 3: "The worst, the median and the best case"}
# The axes that run across and down a slice, and the axis that it is cut along: axial, coronal, sagittal.
PLANES = ((0, 1, 2), (0, 2, 1), (1, 2, 0))


def chosen(ranked: Mapping[str, float | None]) -> list[str]:
    """Return the worst, the median and the best case; all of fewer than three.

    Args:
        ranked: The mean Dice of each case, the worst first; those without a number are left out.

    >>> chosen({"a": 0.1, "b": 0.5, "c": 0.6, "d": 0.7, "e": 0.9, "f": None})
    ['a', 'c', 'e']
    """
    known = [case for case, value in ranked.items() if value is not None]
    if len(known) < 3:
        return known
    return [known[0], known[(len(known) - 1) // 2], known[-1]]


def overlay(
    cases: Sequence[tuple[PackedCase, str]], ranked: Mapping[str, float | None], names: Sequence[str]
) -> Markup:
    """Draw up to three cases side by side.

    Args:
        cases: What is known of each case, and its block of base64.
        ranked: The mean Dice of each case.
        names: The names of the classes, in the order of their places.

    Returns:
        The drawing, in which right of the patient is on the left.
    """
    there: set[int] = set()
    parts = []
    for n, (about, block) in enumerate(cases):
        grey, *masks = _slices(about, block)
        there |= {int(place) for mask in masks for place in np.unique(mask) if 0 < place <= len(names)}
        left = LEFT + n * (SIDE + GAP)
        parts.append(_panel(about, grey, masks, left, len(names)))
        told = [shorten(about.case, 22), f"mean Dice {ranked[about.case]:.3f}"]
        parts += [text(left, SIDE + 18 + 15 * row, words, "tick") for row, words in enumerate(told)]
    foot = SIDE + 56
    places = sorted(there)
    keys, below = legend([names[place - 1] for place in places], "k", foot, [place - 1 for place in places])
    words = "filled: truth; outlined: prediction; right of the patient is on the left"
    parts += [keys, text(LEFT, foot + below + 2, words, "tick")]
    return svg(foot + below + 10, TITLES[len(cases)], Markup("").join(parts))


def _slices(about: PackedCase, block: str) -> list[Slice]:
    """Return the slice with the most errors of scan, truth and prediction, as it is seen; without a scan it is black.

    It is axial, or where that is a line the first plane that is none.
    """
    packed = np.frombuffer(zlib.decompress(base64.b64decode(block)), np.uint8)
    volumes = packed.reshape(-1, *reversed(about.shape)).transpose(0, 3, 2, 1)
    across, down, along = _plane(about)
    found = []
    for volume in volumes:
        cut = volume.take(about.focus[along], axis=along)
        upright = cut.T if across < down else cut
        found.append(np.ascontiguousarray(upright[::-1, ::-1]))
    if not about.has_image:
        found.insert(0, np.zeros_like(found[0]))
    return found


def _plane(about: PackedCase) -> tuple[int, int, int]:
    return next((plane for plane in PLANES if min(about.shape[plane[0]], about.shape[plane[1]]) > 1), PLANES[0])


def _panel(about: PackedCase, grey: Slice, masks: Sequence[Slice], left: float, classes: int) -> Markup:
    """Draw one case in its square: the scan, the fills, the outlines and a scale bar."""
    across, down, _ = _plane(about)
    rows, columns = grey.shape
    per_mm = SIDE / max(rows * about.spacing_mm[down], columns * about.spacing_mm[across])
    sx = about.spacing_mm[across] * per_mm
    sy = about.spacing_mm[down] * per_mm
    width = columns * sx
    height = rows * sy
    x = left + (SIDE - width) / 2
    y = (SIDE - height) / 2
    picture = Markup(
        '<image x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}" preserveAspectRatio="none" href="{}"/>'
    )
    parts = [
        Markup('<rect class="ground" x="{}" y="0" width="{}" height="{}"/>').format(left, SIDE, SIDE),
        picture.format(x, y, width, height, f"data:image/png;base64,{base64.b64encode(_png(grey)).decode()}"),
    ]
    truth, prediction = masks
    shape = Markup('<path class="{} k{}" d="{}"/>')
    for kind, mask, path_of in (("fill", truth, _runs), ("outline", prediction, _edges)):
        paths = [path_of(mask == place, x, y, sx, sy) for place in range(1, classes + 1)]
        parts += [shape.format(kind, n % COLOURS["k"], path) for n, path in enumerate(paths) if path]
    mm = nice_step(SIDE / per_mm)
    parts += [
        line("bar", left + 8, SIDE - 8, left + 8 + mm * per_mm, SIDE - 8),
        text(left + 8, SIDE - 13, f"{mm:g} mm", "on"),
    ]
    return Markup("").join(parts)


def _runs(mask: NDArray[np.bool_], x: float, y: float, sx: float, sy: float) -> str:
    """Return the voxels of a mask as a path of stripes, from ``x, y`` on in steps of ``sx, sy``; "" for none."""
    changes = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8))
    rows, starts = np.nonzero(changes == 1)
    ends = np.nonzero(changes == -1)[1]
    return "".join(
        f"M{x + a * sx:.2f} {y + row * sy:.2f}H{x + b * sx:.2f}v{sy:.2f}H{x + a * sx:.2f}z"
        for row, a, b in zip(rows, starts, ends, strict=True)
    )


def _edges(mask: NDArray[np.bool_], x: float, y: float, sx: float, sy: float) -> str:
    """Return the edges between the voxels of a mask and all others, as :func:`_runs` does."""
    padded = np.pad(mask, 1).astype(np.int8)
    found = []
    for axis, step in ((0, f"h{sx:.2f}"), (1, f"v{sy:.2f}")):
        changes = np.diff(padded, axis=axis)
        inner = changes[:, 1:-1] if axis == 0 else changes[1:-1]
        found += [f"M{x + column * sx:.2f} {y + row * sy:.2f}{step}" for row, column in np.argwhere(inner)]
    return "".join(found)


def _png(grey: Slice) -> bytes:
    """Return an image of grey levels as PNG."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    rows, columns = grey.shape
    head = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    body: Any = b"".join(b"\0" + row.tobytes() for row in grey)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body, 9)) + chunk(b"IEND", b"")
