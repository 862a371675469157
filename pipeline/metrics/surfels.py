"""The area of the surface that passes between the eight voxels around a corner of the grid.

Marching cubes, with vertices half way between voxels, draws a few triangles between the voxels that are inside and
those that are not. Voxels that touch by a face are one shape, and each other voxel is a shape of its own. So the 256
neighbourhoods are made of six shapes, rotated and mirrored; a neighbourhood and its complement have the same surface.

Source: Lorensen & Cline 1987, "Marching cubes", https://doi.org/10.1145/37402.37422.
"""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Voxel: TypeAlias = tuple[int, int, int]
    Shape: TypeAlias = frozenset[Voxel]
    Vectors: TypeAlias = tuple[tuple[int, int, int], ...]

# Voxels of each shape, and the area vectors of its triangles without signs. The x of a vector is the area projected
# along x, in eighths of the face of a voxel across x.
SHAPES: tuple[tuple[tuple[Voxel, ...], Vectors], ...] = (
    (((0, 0, 0),), ((1, 1, 1),)),
    (((0, 0, 0), (1, 0, 0)), ((0, 2, 2), (0, 2, 2))),
    (((0, 0, 0), (1, 0, 0), (0, 1, 0)), ((1, 1, 1), (2, 2, 2), (0, 0, 4))),
    (((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)), ((0, 0, 4), (0, 0, 4))),
    (((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)), ((1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 2, 2))),
    (((1, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 1)), ((0, 2, 2), (1, 1, 1), (2, 2, 0), (3, 3, 3))),
)
CORNERS: tuple[Voxel, ...] = tuple((x, y, z) for z, y, x in product((0, 1), repeat=3))


def surfel_areas(spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area of the surface, in square mm, in each of the 256 neighbourhoods.

    Args:
        spacing_mm: Size of a voxel along each axis. With a size of 1 along a flat axis, areas are lengths in mm.

    Returns:
        ``[256]``, by code: bit ``x + 2 y + 4 z`` of a code says whether voxel ``(x, y, z)`` is inside.

    >>> surfel_areas((1.0, 1.0, 1.0))[[0, 0b1, 0b1111, 0b11111111]].round(4)
    array([0.    , 0.2165, 1.    , 0.    ])
    """
    x, y, z = spacing_mm
    areas: NDArray[np.float64] = np.linalg.norm(_area_vectors() * [y * z, x * z, x * y], axis=2).sum(1)
    return areas


@cache
def _area_vectors() -> NDArray[np.float64]:
    """Return ``[256, triangles, 3]``, padded with zeros."""
    shapes = _turned_shapes()
    found = []
    for code in range(256):
        inside = {voxel for bit, voxel in enumerate(CORNERS) if code >> bit & 1}
        fewer = inside if len(inside) <= 4 else set(CORNERS) - inside
        found.append([vector for part in _parts(fewer) for vector in shapes[part]])
    table = np.zeros((256, max(map(len, found)), 3))
    for code, vectors in enumerate(found):
        table[code, : len(vectors)] = np.reshape(vectors, (-1, 3))
    return table / 8


def _turned_shapes() -> dict[Shape, Vectors]:
    """Return the six shapes in all 48 ways to turn and mirror a cube."""
    turned = {}
    for (voxels, vectors), axes, flips in product(SHAPES, permutations(range(3)), product((0, 1), repeat=3)):
        shape = frozenset(_turn(voxel, axes, flips) for voxel in voxels)
        turned[shape] = tuple(_turn(vector, axes, (0, 0, 0)) for vector in vectors)
    return turned


def _turn(voxel: Voxel, axes: tuple[int, ...], flips: tuple[int, ...]) -> Voxel:
    x, y, z = (voxel[axis] ^ flip for axis, flip in zip(axes, flips, strict=True))
    return x, y, z


def _parts(voxels: Iterable[Voxel]) -> list[Shape]:
    """Divide voxels into groups that are connected by faces."""
    parts: list[Shape] = []
    for voxel in voxels:
        touching = [part for part in parts if any(_face_between(voxel, other) for other in part)]
        parts = [part for part in parts if part not in touching] + [frozenset({voxel}).union(*touching)]
    return parts


def _face_between(first: Voxel, second: Voxel) -> bool:
    return sum(a != b for a, b in zip(first, second, strict=True)) == 1
