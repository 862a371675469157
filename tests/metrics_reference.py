"""Metrics from their definitions, voxel by voxel and pair by pair: slow, and hard to get wrong."""

from itertools import product

import numpy as np
from surface_distance import lookup_tables


def slow_case(truth, prediction, value, spacing, tolerance):
    """Every metric of one class, voxel by voxel and pair by pair; the surface Dice is at ``tolerance`` mm."""
    true, guess = ({tuple(place) for place in np.argwhere(labels == value)} for labels in (truth, prediction))
    voxel_ml = spacing[0] * spacing[1] * spacing[2] / 1000
    row = {"volume_truth_ml": len(true) * voxel_ml, "volume_predicted_ml": len(guess) * voxel_ml}
    row |= slow_lesions(truth == value, prediction == value)
    sides = [n * size for n, size in zip(truth.shape, spacing, strict=True) if n > 1 or truth.size == 1]
    names = "dice", "iou", "precision", "recall", "volume_difference", "hd95_mm", "assd_mm", "surface_dice"
    if not true and not guess:
        return row | dict.fromkeys(names)
    if not true or not guess:
        worst = sum(side**2 for side in sides) ** 0.5
        numbers = (0, 0, 0, 0, 2 if guess else -2, worst, worst, 0)
        return row | dict(zip(names, numbers, strict=True))
    both = len(true & guess)
    numbers = [
        2 * both / (len(true) + len(guess)),
        both / len(true | guess),
        both / len(guess),
        both / len(true),
        (len(guess) - len(true)) / ((len(guess) + len(true)) / 2),
        *slow_surfaces(truth == value, prediction == value, spacing, tolerance),
    ]
    return row | dict(zip(names, numbers, strict=True))


def slow_lesions(truth, prediction):
    """Grow components voxel by voxel over all 26 neighbours, and match them by a tenth of their voxels."""
    true, guess = (slow_components(mask) for mask in (truth, prediction))
    found = sum(10 * sum(bool(prediction[v]) for v in part) >= len(part) for part in true)
    false = sum(10 * sum(bool(truth[v]) for v in part) < len(part) for part in guess)
    counts = len(true), found, len(true) - found, false
    return dict(zip(("lesions_truth", "lesions_found", "lesions_missed", "lesions_false"), counts, strict=True))


def slow_components(mask):
    left, parts = {tuple(int(n) for n in place) for place in np.argwhere(mask)}, []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            part.add(voxel)
            near = {tuple(np.add(voxel, step)) for step in product((-1, 0, 1), repeat=3)} & left
            left -= near
            edge += near
        parts.append(part)
    return parts


def slow_surfaces(truth, prediction, spacing, tolerance):
    """Distances between all pairs of surface pieces; areas from the table that ``surface-distance`` comes with."""
    pieces = [slow_surface(mask, spacing) for mask in (truth, prediction)]
    (here, area_here), (there, area_there) = pieces
    between = np.sqrt(((here[:, None] - there[None]) ** 2).sum(-1))
    sides = [(between.min(axis=1), area_here), (between.min(axis=0), area_there)]
    hd95 = max(min(d for d in near if areas[near <= d].sum() >= 0.95 * areas.sum() - 1e-12) for near, areas in sides)
    moment, whole = (sum(x) for x in zip(*((near @ areas, areas.sum()) for near, areas in sides), strict=True))
    within = sum(areas[near <= tolerance].sum() for near, areas in sides)
    return hd95, moment / whole, within / whole


def slow_surface(mask, spacing):
    """Return the corners of the grid, in mm, that a surface passes by, and its area there."""
    flat = [n == 1 and mask.size > 1 for n in mask.shape]
    padded = np.pad(mask, [(0, 0) if f else (1, 1) for f in flat])
    table = lookup_tables.create_table_neighbour_code_to_surface_area(
        [1.0 if f else size for size, f in zip(spacing, flat, strict=True)]
    )
    places, areas = [], []
    for corner in product(*(range(n if f else n - 1) for n, f in zip(padded.shape, flat, strict=True))):
        block = padded[tuple(slice(c, c + (1 if f else 2)) for c, f in zip(corner, flat, strict=True))]
        block = np.broadcast_to(block, (2, 2, 2))
        if block.any() and not block.all():
            places.append(np.multiply(corner, spacing))
            areas.append(table[int((lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL * block).sum())])
    return np.array(places).reshape(-1, 3), np.array(areas)
