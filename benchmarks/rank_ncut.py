"""Does the right partition cost least? N-cut's two forms on random phantoms, against four wrong partitions each.

    python benchmarks/rank_ncut.py [--quick] [--json FILE]

A phantom is an ellipsoid, a box, a pair of balls or a bent tube, of a random size, place and turn, brighter or darker
than its surroundings by a random multiple of the noise, in 2-D or 3-D. The wrong partitions are: the right one shifted
by a tenth to a quarter of the scan, the right one dilated by one or two voxels, a half-plane through a random point,
and labels at random in the right proportion. A form wins where the right partition costs less.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from scipy.stats import special_ortho_group

from pipeline.losses import ClassMeanNCutLoss, NCutLoss
from pipeline.losses.ncut import noise_sigma


def sharp_ncut(partition, image):
    """The exact form with a sigma of the noise itself, where ``auto`` is 2.5 times as much."""
    sigma = noise_sigma(image, torch.ones_like(image, dtype=torch.bool)).item() / 2.5
    return NCutLoss(radius=4, sigma_intensity=sigma, softmax=False)(partition, image)


FORMS = {
    "exact": NCutLoss(radius=4, softmax=False),
    "exact, sigma = noise": sharp_ncut,
    "class means, spatial": ClassMeanNCutLoss(softmax=False),
    "class means, spatial, sigma_2 = 1": ClassMeanNCutLoss(sigma_2=1.0, softmax=False),
    "class means, no kernel": ClassMeanNCutLoss(spatial=False, softmax=False),
}
WRONG = ("shifted", "dilated", "half-plane", "random")
SHAPES = ("ellipsoid", "box", "two balls", "bent tube")
SIZES = {2: (48, 48), 3: (28, 28, 28)}
# The object's share of the scan, and what its contrast may be, in standard deviations of the noise.
SHARE = (0.05, 0.4)
CONTRASTS = {"clear": (5.0, 12.0), "faint": (2.0, 5.0)}


def draw_object(rng, shape, size):
    """Return a shape of a random size, place and turn; None where its share of the scan is outside SHARE."""
    dimensions = len(size)
    centre = rng.uniform(-0.3, 0.3, dimensions)
    turn = special_ortho_group.rvs(dimensions, random_state=rng)
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij"), axis=-1)
    points = (points - centre) @ turn
    radii = rng.uniform(0.25, 0.8, dimensions)
    if shape == "ellipsoid":
        inside = ((points / radii) ** 2).sum(-1) < 1
    elif shape == "box":
        inside = (np.abs(points) < radii).all(-1)
    elif shape == "two balls":
        apart = np.eye(dimensions)[0] * rng.uniform(0.3, 0.6)
        inside = np.any([((points - side * apart) ** 2).sum(-1) < radii[0] ** 2 for side in (-1, 1)], axis=0)
    else:
        bend = points[..., 0] ** 2 * rng.uniform(0.3, 0.8)
        across = [points[..., 1] - bend, *np.moveaxis(points[..., 2:], -1, 0)]
        inside = (sum(axis**2 for axis in across) < (0.5 * radii[0]) ** 2) & (np.abs(points[..., 0]) < 0.8)
    return inside if SHARE[0] < inside.mean() < SHARE[1] else None


def draw_phantom(seed, contrasts):
    """Return a phantom's image, z-scored, the right partition, and a generator for the wrong ones."""
    rng = np.random.default_rng(seed)
    shape, size = SHAPES[seed % len(SHAPES)], SIZES[2 + seed // len(SHAPES) % 2]
    right = None
    while right is None:
        right = draw_object(rng, shape, size)
    contrast = rng.uniform(*contrasts) * rng.choice([-1, 1])
    image = contrast * right + rng.standard_normal(size)
    return (image - image.mean()) / image.std(), right, rng


def wrong_partitions(rng, right):
    """Return the wrong partitions by name."""
    shift = [round(rng.uniform(0.1, 0.25) * n) * rng.choice([-1, 1]) for n in right.shape]
    normal = rng.standard_normal(right.ndim)
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in right.shape], indexing="ij"), axis=-1)
    return {
        "shifted": np.roll(right, shift, range(right.ndim)),
        "dilated": binary_dilation(right, iterations=int(rng.integers(1, 3))),
        "half-plane": (points - rng.uniform(-0.4, 0.4, right.ndim)) @ normal > 0,
        "random": rng.permuted(right.ravel()).reshape(right.shape),
    }


def cost(form, image, partition):
    """Return what a form says a partition costs."""
    tensors = (torch.from_numpy(array).float()[None, None] for array in (partition, image))
    return form(*tensors).item()


def rank(phantoms, contrasts):
    """Return, by form and wrong partition, the share of the phantoms in which the right partition costs less."""
    won = {name: Counter() for name in FORMS}
    for seed in range(phantoms):
        image, right, rng = draw_phantom(seed, contrasts)
        wrong = wrong_partitions(rng, right)
        for name, form in FORMS.items():
            best = cost(form, image, right)
            won[name].update(kind for kind, partition in wrong.items() if best < cost(form, image, partition))
    return {name: {kind: won[name][kind] / phantoms for kind in WRONG} for name in FORMS}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 phantoms of each kind in place of 200")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    options = parser.parse_args()
    phantoms = 20 if options.quick else 200
    result = {"phantoms": phantoms, "share_won": {}}
    for kind, contrasts in CONTRASTS.items():
        result["share_won"][kind] = shares = rank(phantoms, contrasts)
        low, high = contrasts
        print(
            f"\n{phantoms} {kind} phantoms, contrast {low:g} to {high:g} times the noise; won by the right partition:"
        )
        print(f"{'':36}" + "".join(f"{name:>12}" for name in WRONG))
        for name in FORMS:
            print(f"{name:36}" + "".join(f"{100 * shares[name][wrong]:10.1f} %" for wrong in WRONG))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
