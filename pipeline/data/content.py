"""Hash the voxels of a scan so that it is known again in another file.

There are two hashes for two questions. For *Is this the file that was checked, saved anew?* all values are hashed in
the order in which they are stored. For *Was this scan trained on?* the sums along the three axes of the body are
hashed. These stay the same when a scan is stored with its axes in another order or direction and its affine says so,
and no voxel has to be moved to compute them. Different scans have the same sums only if somebody has made them so.

Both are hashes of values, not of bytes: scaled as the header says, and converted to one type. Neither contains the
numbers of the affine, since programs round them differently and a hash has no tolerance; grids are compared instead.
"""

from __future__ import annotations

import hashlib
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Slices are hashed in blocks of about so many voxels; another size gives other hashes.
BLOCK = 1 << 20
# A float32 holds every integer up to here; networks are given no more.
EXACT = 2**24
INTEGERS = (np.uint8, np.int16, np.int32)
# At 45 degrees two axes of the body are equally near, and rounding would decide between them. These weights on how the
# axes lean move such ties to angles that nobody chooses.
LEANING = np.array([[0.0371], [0.0473], [0.0293]])
ORDERS = tuple(permutations(range(3)))


def hash_values(voxels: NDArray[Any]) -> str:
    """Return the SHA-256 of a volume's values in their order.

    Args:
        voxels: Scaled values ``[X, Y, Z]`` of any type; -0 is 0.

    >>> scan = np.array([[[1, 2], [3, 4]]], np.uint8)
    >>> hash_values(scan) == hash_values(scan.astype(np.float64)), hash_values(scan) == hash_values(scan[..., ::-1])
    (True, False)
    """
    return _hash(voxels)


def hash_scan(voxels: NDArray[Any], affine: NDArray[np.float64]) -> tuple[str, str]:
    """Return :func:`hash_values` of a volume and the SHA-256 of its sums along the axes of the body.

    Args:
        voxels: Scaled values ``[X, Y, Z]`` of any type.
        affine: Voxel indices to mm, 4x4, of which the directions alone count.

    >>> scan, mirrored = np.arange(24).reshape(2, 3, 4), np.diag([-1.0, 1, 1, 1])
    >>> hash_scan(scan, np.eye(4))[1] == hash_scan(scan[::-1], mirrored)[1]
    True
    """
    sums = _Sums(voxels.shape)
    return _hash(voxels, sums), sums.hash(affine)


def _hash(voxels: NDArray[Any], sums: _Sums | None = None) -> str:
    kind = _common_type(voxels)
    digest = hashlib.sha256(f"{kind} {voxels.shape} ".encode())
    for start, block in _blocks(voxels, kind):
        marked = block.any()
        digest.update(b"\1" if marked else b"\0")
        if marked:  # Background need not be hashed.
            digest.update(block.data)
        if sums:
            sums.add(start, block)
    return digest.hexdigest()


class _Sums:
    """The sums of a volume along each of its axes, modulo 2^32."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        x, y, z = shape
        # By the two axes that are left, as slices follow one another in a file.
        self.planes = {(0, 1): np.zeros((y, x), np.int32), (0, 2): np.zeros((z, x), np.int32)}
        self.planes[1, 2] = np.zeros((z, y), np.int32)

    def add(self, start: int, block: NDArray[Any]) -> None:
        """Take in slices ``[Z, Y, X]`` from number ``start`` on."""
        # A sum of floats depends on their order. That of their bits, as integers, does not.
        numbers = block.view(np.int32) if block.dtype.kind == "f" else block.astype(np.int32, copy=False)
        here = slice(start, start + len(block))
        self.planes[0, 1] += np.einsum("zyx->yx", numbers)
        self.planes[0, 2][here] = np.einsum("zyx->zx", numbers)
        self.planes[1, 2][here] = np.einsum("zyx->zy", numbers)

    def hash(self, affine: NDArray[np.float64]) -> str:
        """Return the SHA-256 of the sums as they are along the axes of the body."""
        order, backwards = _body_axes(affine)
        digest = hashlib.sha256()
        for first, second in self.planes:
            one = order[first]
            other = order[second]
            plane = self.planes[one, other].T if one < other else self.planes[other, one]
            turn = tuple(slice(None, None, -1 if backwards[axis] else 1) for axis in (first, second))
            digest.update(f" {plane.shape} ".encode())
            digest.update(np.ascontiguousarray(plane[turn]).data)
        return digest.hexdigest()


def _body_axes(affine: NDArray[np.float64]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Return, for right, anterior and superior, the nearest axis of the file, and whether that runs backwards."""
    unit = affine[:3, :3] / np.sqrt(np.square(affine[:3, :3]).sum(axis=0))
    right, anterior, superior = abs(unit).tolist()
    # A product of two coordinates of an axis is the same whichever way the axis runs.
    leaning = unit[[0, 0, 1]] * unit[[1, 2, 2]] * LEANING
    first = (leaning[0] + leaning[1]).tolist()
    second = leaning[2].tolist()
    order = max(ORDERS, key=lambda o: right[o[0]] + anterior[o[1]] + superior[o[2]] + first[o[0]] + second[o[1]])
    return order, tuple(bool(unit[world, axis] < 0) for world, axis in enumerate(order))


def _common_type(voxels: NDArray[Any]) -> np.dtype[Any]:
    """Return the first of uint8, int16, int32 that holds all values exactly, else float32."""
    if voxels.dtype == np.uint8 or not voxels.size:
        return np.dtype(np.uint8)
    low = voxels.min()
    if low < 0 and voxels.dtype == np.int16:
        return voxels.dtype
    high = voxels.max()
    if not (low >= -EXACT and high <= EXACT) or (voxels.dtype.kind == "f" and not _are_integers(voxels)):
        return np.dtype(np.float32)
    return next(np.dtype(kind) for kind in INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


def _are_integers(voxels: NDArray[Any]) -> bool:
    planes = voxels.T
    return all(bool((plane == np.rint(plane)).all()) for plane in planes)


def _blocks(voxels: NDArray[Any], kind: np.dtype[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield some slices ``[Z, Y, X]`` at a time, as they follow one another in a file, and the number of the first."""
    planes = voxels.T
    step = max(1, BLOCK // max(1, planes[:1].size))
    for start in range(0, len(planes), step):
        block = np.ascontiguousarray(planes[start : start + step], kind)
        yield start, block + np.float32(0) if kind == np.float32 else block
