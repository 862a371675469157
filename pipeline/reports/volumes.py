"""Pack scans and their masks so small that a page can hold hundreds of them.

A case becomes one block of bytes: the scan in 256 grey levels if there is one, the true classes, and the predicted
classes, each ``[X, Y, Z]`` with X running fastest; compressed by zlib, then in base64. The axes run to right, anterior
and superior (RAS+), so that the viewer need not know those of the file.

A case that does not fit its budget is cut to a box around the masks. If it still does not fit, it is reduced in
resolution: the scan by means over blocks, the masks by the voxel in the middle of each block. The page says so beside
the case.
"""

from __future__ import annotations

import base64
import weakref
import zlib
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from threading import Lock
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Volume = NDArray[Any]
    Box = tuple[slice, slice, slice]

# Bytes of base64 in a page, which can still be mailed, and which a browser reads in a second.
PAGE_BYTES = 20_000_000
# The largest and the smallest budget of a case: more shows no more detail, and less shows nothing.
MOST_BYTES = 2_000_000
LEAST_BYTES = 24_000
MARGIN_MM = 20.0
# The place of voxels that are not scored; a dataset has at most 250 classes.
IGNORED = 255
EVERYTHING = (slice(None), slice(None), slice(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedCase:
    """What the viewer needs to know about a case beside its bytes.

    Attributes:
        case: The case's id.
        shape: Voxels along right, anterior and superior.
        spacing_mm: Size of a voxel along the same axes.
        focus: The voxel to begin with, whose three slices have the most errors.
        has_image: Whether the block begins with a scan.
        note: How the case was cut or reduced, or "".
    """

    case: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    focus: tuple[int, int, int]
    has_image: bool
    note: str


def pack(
    case: str,
    image: Volume | None,
    truth: Volume,
    prediction: Volume,
    affine: NDArray[np.float64],
    budget: int = MOST_BYTES,
) -> tuple[PackedCase, bytes]:
    """Pack a case into at most ``budget`` bytes of base64.

    Args:
        case: The case's id.
        image: Intensities ``[X, Y, Z]`` on the file's grid, or None without a scan.
        truth: The true classes, integers in [0, 255].
        prediction: The predicted classes, integers in [0, 255].
        affine: Voxel indices of the file to mm, 4x4.
        budget: Bytes of base64, which may be exceeded if even a single voxel takes more.

    Returns:
        What the viewer needs to know, and the block of base64.
    """
    order, _ = _axes(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[order]
    true = canonical(truth, affine)
    predicted = canonical(prediction, affine)
    scan = None if image is None else canonical(image, affine)
    near = _box(true, predicted, spacing)
    window = (0.0, 1.0) if scan is None else _window(scan[near])
    # Zlib seldom reduces grey levels to less than a third, so larger volumes are not compressed to find out.
    most = 3 * budget
    step = np.ones(3)
    box = EVERYTHING if true.size <= most else near
    if true[box].size > most:
        step = _coarser(step, spacing, most / true[box].size)
    while True:
        masks = [_thin(mask[box], step, is_mask=True) for mask in (true, predicted)]
        levels = [] if scan is None else [_levels(_thin(scan[box], step, is_mask=False), window)]
        block = base64.b64encode(zlib.compress(b"".join(part.tobytes("F") for part in levels + masks), 9))
        if len(block) <= budget or masks[0].size == 1:
            break
        if box is EVERYTHING and near != EVERYTHING:
            box = near
        else:
            step = _coarser(step, spacing, budget / len(block))
    shape = masks[0].shape
    sizes = spacing * true[box].shape / shape
    notes = [f"cut to {MARGIN_MM:.0f} mm around the masks"] if true[box].shape != true.shape else []
    notes += [f"thinned out from voxels of {' × '.join(f'{size:.2f}' for size in spacing)} mm"] if any(step > 1) else []
    x_mm, y_mm, z_mm = sizes.tolist()
    about = PackedCase(
        case=case,
        shape=shape,
        spacing_mm=(x_mm, y_mm, z_mm),
        focus=_focus(*masks),
        has_image=scan is not None,
        note="; ".join(notes),
    )
    return about, block


def canonical(volume: Volume, affine: NDArray[np.float64]) -> Volume:
    """Return a volume ``[X, Y, Z]`` with its axes running to right, anterior and superior.

    An oblique grid is not resampled: each of its axes becomes the nearest anatomical one.
    """
    order, signs = _axes(affine)
    turned = volume.transpose(order)
    return turned[tuple(slice(None, None, int(sign)) for sign in signs)]


def _axes(affine: NDArray[np.float64]) -> tuple[list[int], NDArray[np.float64]]:
    """Return the axes of the file nearest to right, anterior and superior, and the sign of each."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    free = directions.copy()
    order = [0, 0, 0]
    for _ in range(3):
        world, axis = np.unravel_index(np.abs(free).argmax(), free.shape)
        order[world] = int(axis)
        free[world] = 0
        free[:, axis] = 0
    return order, np.array([1 if directions[world, axis] >= 0 else -1 for world, axis in enumerate(order)])


def _box(truth: Volume, prediction: Volume, spacing: NDArray[np.float64]) -> Box:
    """Return the box around both masks with its margin; the whole volume if both are empty."""
    marked = np.logical_or(truth, prediction)
    sides = []
    for axis in range(3):
        places = np.flatnonzero(marked.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = round(MARGIN_MM / spacing[axis])
        sides.append(slice(max(0, places[0] - margin), places[-1] + margin + 1) if len(places) else slice(None))
    return sides[0], sides[1], sides[2]


def _window(image: Volume) -> tuple[float, float]:
    """Return the intensities to show as black and white, percentiles of a region."""
    every = max(1, round((image.size / 1e6) ** (1 / 3)))
    sample = image[::every, ::every, ::every]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    low, high = np.percentile(sample, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _thin(volume: Volume, step: NDArray[np.float64], *, is_mask: bool) -> Volume:
    """Reduce the resolution: each block of ``step`` voxels along each axis becomes one voxel."""
    for axis, size in enumerate(step):
        n = volume.shape[axis]
        m = max(1, round(n / size))
        if m == n:
            continue
        edges = np.arange(m + 1) * n // m
        if is_mask:
            volume = volume.take((edges[:-1] + edges[1:]) // 2, axis=axis)
        else:
            shape = [-1 if other == axis else 1 for other in range(3)]
            sums = np.add.reduceat(volume, edges[:-1], axis=axis, dtype=np.float32)
            volume = sums / np.diff(edges).astype(np.float32).reshape(shape)
    return volume


def _coarser(step: NDArray[np.float64], spacing: NDArray[np.float64], left: float) -> NDArray[np.float64]:
    """Return larger blocks, as near to cubes as possible, that leave about the share ``left`` of the voxels."""
    size = step * spacing
    wanted_mm3 = np.prod(size) / min(0.9 * left, 0.9)
    # The shortest edge in mm that makes blocks large enough, found by bisection; axes that are coarser stay.
    low = size.min()
    high = size.max() + wanted_mm3 ** (1 / 3)
    for _ in range(40):
        edge = (low + high) / 2
        if np.prod(np.maximum(size, edge)) < wanted_mm3:
            low = edge
        else:
            high = edge
    coarser: NDArray[np.float64] = np.maximum(size, high) / spacing
    return coarser


def _levels(scan: Volume, window: tuple[float, float]) -> NDArray[np.uint8]:
    """Map the intensities of a window to 256 grey levels; NaN is black."""
    low, high = window
    values = np.clip(np.nan_to_num(scan.astype(np.float64), nan=low), low, high)
    levels: NDArray[np.uint8] = np.rint((values - low) * (255 / (high - low))).astype(np.uint8)
    return levels


def _focus(truth: Volume, prediction: Volume) -> tuple[int, int, int]:
    """Return, along each axis, the slice with the most wrong voxels, or without errors the most foreground voxels."""
    marked = np.not_equal(truth, prediction) & (truth != IGNORED)
    if not marked.any():
        marked = np.not_equal(truth, 0)
    x, y, z = (int(marked.sum(axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1)))
    if marked.any():
        return (x, y, z)
    return (truth.shape[0] // 2, truth.shape[1] // 2, truth.shape[2] // 2)


@dataclass(kw_only=True)
class Gallery:
    """Packed cases in a temporary file, so that memory does not grow with their number.

    Attributes:
        n_cases: The number of cases that will be added; they share the bytes of the page.
        labels: Label values and names; masks are stored as indices into the sorted values.
        ignore: Voxels with this value are stored as ``IGNORED``.
        packed: For each case, what the viewer needs to know, and the position and length of its block in the file.
        spool: The temporary file.
        lock: Guards the file: threads may add cases at the same time.
    """

    n_cases: int
    labels: Mapping[int, str]
    ignore: int | None = None
    packed: dict[str, tuple[PackedCase, int, int]] = field(default_factory=dict)
    spool: IO[bytes] = field(default_factory=TemporaryFile)
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        share = PAGE_BYTES // max(1, self.n_cases)
        self.budget = min(MOST_BYTES, max(LEAST_BYTES, share))
        # The file is closed with the last reference to the gallery.
        weakref.finalize(self, self.spool.close)

    @property
    def room(self) -> int:
        """How many cases fit into a page."""
        return PAGE_BYTES // self.budget

    def add(
        self, case: str, image: Volume | None, truth: Volume, prediction: Volume, affine: NDArray[np.float64]
    ) -> None:
        """Pack a case; arguments as for :func:`pack`, with label values in the masks."""
        self._keep(case, *pack(case, image, self._places(truth), self._places(prediction), affine, self.budget))

    def _keep(self, case: str, about: PackedCase, block: bytes) -> None:
        with self.lock:
            self.packed[case] = about, self.spool.seek(0, 2), len(block)
            self.spool.write(block)

    def content(self) -> dict[str, tuple[PackedCase, bytes]]:
        """Return every case as it is packed, to hand it to another process's gallery."""
        blocks = self.blocks(list(self.packed))
        return {
            case: (about, block.encode("ascii"))
            for (case, (about, *_)), block in zip(self.packed.items(), blocks, strict=True)
        }

    def refill(self, content: Mapping[str, tuple[PackedCase, bytes]]) -> None:
        """Hold these cases in their order, and no others."""
        self.packed.clear()
        self.spool.seek(0)
        self.spool.truncate()
        for case, (about, block) in content.items():
            self._keep(case, about, block)

    def _places(self, mask: Volume) -> Volume:
        """Return the index of each value in the sorted labels; 0 for a value that is not a label."""
        values = np.array(sorted({0, *self.labels} - {self.ignore}))
        places = np.empty(mask.shape, np.uint8)
        for slab, out in zip(mask, places, strict=True):  # slab by slab: places are eight bytes each at first
            found = np.searchsorted(values, slab).clip(max=len(values) - 1)
            out[...] = np.where(values[found] == slab, found, 0)
            if self.ignore is not None:
                out[slab == self.ignore] = IGNORED
        return places

    def blocks(self, cases: Sequence[str]) -> Iterator[str]:
        """Yield the base64 of cases, one case at a time."""
        for case in cases:
            _, start, size = self.packed[case]
            self.spool.seek(start)
            yield self.spool.read(size).decode("ascii")
