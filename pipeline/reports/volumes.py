"""Scans and their masks, packed so small that a page can hold hundreds of them.

A case becomes one block of bytes: the scan in 256 grey levels where there is one, the true classes, the predicted
classes, each ``[X, Y, Z]`` with X running fastest; then zlib; then base64. The axes are the anatomical ones, in the
order right, anterior, superior (RAS+), each pointing where its name says, so that the viewer need not know the file's.

Whatever does not fit its budget is cut to the box around the masks, and then thinned out: the scan by means over
blocks, the masks by the voxel in the middle of each block. The page says so beside the case.
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

# A page of this many bytes of base64 still travels by mail, and a browser reads it in a second.
PAGE_BYTES = 20_000_000
# More than the first of these is no use to the eye in one case; less than the second shows nothing.
MOST_BYTES = 2_000_000
LEAST_BYTES = 24_000
MARGIN_MM = 20.0
# The place of voxels that are not scored; a dataset has at most 250 classes.
IGNORED = 255
EVERYTHING = (slice(None), slice(None), slice(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedCase:
    """What the viewer is told about a case beside its bytes.

    Attributes:
        case: The case's id.
        shape: Voxels along right, anterior and superior.
        spacing_mm: Their size.
        focus: The voxel whose three slices hold the most errors.
        has_image: Whether the block starts with a scan.
        note: What was cut or thinned out, or "".
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
        image: Grey values ``[X, Y, Z]`` on the file's grid, or None where there is no scan.
        truth: Classes as integers in [0, 255].
        prediction: The same for the prediction.
        affine: Voxel indices of the file to mm, 4x4.
        budget: Bytes; a case of a few slices is never thinned out below one voxel.
    """
    order, _ = _axes(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[order]
    true = canonical(truth, affine)
    predicted = canonical(prediction, affine)
    scan = None if image is None else canonical(image, affine)
    near = _box(true, predicted, spacing)
    window = (0.0, 1.0) if scan is None else _window(scan[near])
    # Grey levels seldom shrink to less than a third: what is larger is not even packed to see it.
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
    """Return a volume with its axes in the order and direction of right, anterior, superior.

    An oblique grid is not resampled: each of its axes goes to the anatomical one that it is nearest to.
    """
    order, signs = _axes(affine)
    turned = volume.transpose(order)
    return turned[tuple(slice(None, None, int(sign)) for sign in signs)]


def _axes(affine: NDArray[np.float64]) -> tuple[list[int], NDArray[np.float64]]:
    """Return which of the file's axes is right, anterior and superior, and the sign of each."""
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
    """Return the box around both masks with its margin; everything where both are empty."""
    marked = np.logical_or(truth, prediction)
    sides = []
    for axis in range(3):
        places = np.flatnonzero(marked.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = round(MARGIN_MM / spacing[axis])
        sides.append(slice(max(0, places[0] - margin), places[-1] + margin + 1) if len(places) else slice(None))
    return sides[0], sides[1], sides[2]


def _window(image: Volume) -> tuple[float, float]:
    """Return the grey values that are black and white: those around the masks set the contrast."""
    every = max(1, round((image.size / 1e6) ** (1 / 3)))
    sample = image[::every, ::every, ::every]
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    low, high = np.percentile(sample, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def _thin(volume: Volume, step: NDArray[np.float64], *, is_mask: bool) -> Volume:
    """Make blocks of ``step`` voxels into one."""
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
    """Return larger blocks that leave about the share ``left`` of the voxels, the finest axes first."""
    size = step * spacing
    wanted_mm3 = np.prod(size) / min(0.9 * left, 0.9)
    # Blocks become cubes, as far as the coarsest axis lets them: the least edge that makes them large enough.
    low = size.min()
    high = size.max() + wanted_mm3 ** (1 / 3)
    for _ in range(40):
        edge = (low + high) / 2
        low, high = (edge, high) if np.prod(np.maximum(size, edge)) < wanted_mm3 else (low, edge)
    coarser: NDArray[np.float64] = np.maximum(size, high) / spacing
    return coarser


def _levels(scan: Volume, window: tuple[float, float]) -> NDArray[np.uint8]:
    """Turn the values of a window into 256 grey levels; NaN is black."""
    low, high = window
    values = np.clip(np.nan_to_num(scan.astype(np.float64), nan=low), low, high)
    levels: NDArray[np.uint8] = np.rint((values - low) * (255 / (high - low))).astype(np.uint8)
    return levels


def _focus(truth: Volume, prediction: Volume) -> tuple[int, int, int]:
    """Return, along each axis, the slice with the most wrong voxels; without errors, with the largest structure."""
    marked = np.not_equal(truth, prediction) & (truth != IGNORED)
    if not marked.any():
        marked = np.not_equal(truth, 0)
    x, y, z = (int(marked.sum(axis=others).argmax()) for others in ((1, 2), (0, 2), (0, 1)))
    if marked.any():
        return (x, y, z)
    return (truth.shape[0] // 2, truth.shape[1] // 2, truth.shape[2] // 2)


@dataclass(kw_only=True)
class Gallery:
    """Packed cases on the disk: memory does not grow with their number.

    Args:
        n_cases: How many are to come; they share the bytes of the page.
        labels: Label values and names; the masks are stored as places among the sorted values.
        ignore: Voxels with this value in the truth are stored as ``IGNORED``.
    """

    n_cases: int
    labels: Mapping[int, str]
    ignore: int | None = None
    packed: dict[str, tuple[PackedCase, int, int]] = field(default_factory=dict)
    spool: IO[bytes] = field(default_factory=TemporaryFile)
    # Threads may add cases: they pack side by side and write in turn.
    lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        share = PAGE_BYTES // max(1, self.n_cases)
        self.budget = min(MOST_BYTES, max(LEAST_BYTES, share))
        # The file goes with the gallery, whoever holds that last.
        weakref.finalize(self, self.spool.close)

    @property
    def room(self) -> int:
        """How many cases fit into a page."""
        return PAGE_BYTES // self.budget

    def add(
        self, case: str, image: Volume | None, truth: Volume, prediction: Volume, affine: NDArray[np.float64]
    ) -> None:
        """Pack a case; arguments as for :func:`pack`, with label values in the masks."""
        about, block = pack(case, image, self._places(truth), self._places(prediction), affine, self.budget)
        with self.lock:
            self.packed[case] = about, self.spool.seek(0, 2), len(block)
            self.spool.write(block)

    def _places(self, mask: Volume) -> Volume:
        """Return the place of each value among the sorted labels; 0 for a value that is none of them."""
        values = np.array(sorted({0, *self.labels} - {self.ignore}))
        places = np.empty(mask.shape, np.uint8)
        for slab, out in zip(mask, places, strict=True):  # slab by slab: places are eight bytes each at first
            found = np.searchsorted(values, slab).clip(max=len(values) - 1)
            out[...] = np.where(values[found] == slab, found, 0)
            if self.ignore is not None:
                out[slab == self.ignore] = IGNORED
        return places

    def blocks(self, cases: Sequence[str]) -> Iterator[str]:
        """Yield the bytes of cases as base64, one case at a time."""
        for case in cases:
            _, start, size = self.packed[case]
            self.spool.seek(start)
            yield self.spool.read(size).decode("ascii")
