"""Draw N-cut's two forms side by side: docs/ncut.png.

    python benchmarks/draw_ncut.py docs/ncut.png

Above, a phantom and five partitions of it, each with its cost by either form. Below, a blurred guess beside the object,
and where the gradient of each form pushes it: red voxels towards the object, blue ones away from it.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rank_ncut import cost, wrong_partitions
from scipy.ndimage import gaussian_filter

from pipeline.losses import ClassMeanNCutLoss, NCutLoss

FORMS = {"exact": NCutLoss, "class means": ClassMeanNCutLoss}
NO_KERNEL = {"no kernel": partial(ClassMeanNCutLoss, spatial=False)}
SIZE, ZOOM, GAP, LINE = 64, 3, 12, 16
TILE = SIZE * ZOOM


def phantom():
    """Return an image, z-scored, and the right partition: an ellipse, five times as bright as the noise."""
    rng = np.random.default_rng(3)
    y, x = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    right = (((x + 0.1 - 0.4 * y) / 0.45) ** 2 + ((y - 0.05) / 0.6) ** 2) < 1
    image = 5 * right + rng.standard_normal(right.shape)
    return (image - image.mean()) / image.std(), right, rng


def push(form, image, probabilities):
    """Return minus the gradient of a form with respect to the logit of the object."""
    logits = torch.logit(torch.from_numpy(probabilities)).float()[None, None].requires_grad_()
    form()(logits, torch.from_numpy(image).float()[None, None]).backward()
    return -logits.grad[0, 0].numpy()


def grey(values):
    low, high = np.percentile(values, (1, 99))
    return np.repeat((255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)[..., None], 3, axis=-1)


def red_and_blue(values):
    strength = np.clip(values / np.percentile(np.abs(values), 99), -1, 1)
    colours = np.stack([1 + np.minimum(strength, 0), 1 - np.abs(strength), 1 - np.maximum(strength, 0)], axis=-1)
    return (255 * colours).astype(np.uint8)


def tiles():
    """Return two rows of tiles, each a picture and its lines of text."""
    image, right, rng = phantom()
    partitions = {"right": right, **wrong_partitions(rng, right)}
    above = [(grey(image), ["the image"])]
    for name, partition in partitions.items():
        costs = [f"{form}: {cost(make(softmax=False), image, partition):.2f}" for form, make in FORMS.items()]
        above.append((grey(partition.astype(float)), [name, *costs]))
    guess = np.clip(gaussian_filter(np.roll(right, 9, axis=1).astype(float), 5), 0.05, 0.95)
    below = [(grey(guess), ["a guess, too far right"])]
    below += [
        (red_and_blue(push(make, image, guess)), [f"{form}: its push"]) for form, make in (FORMS | NO_KERNEL).items()
    ]
    return above, below


def draw(rows):
    """Return the picture."""
    high = TILE + 3 * LINE + 2 * GAP
    canvas = Image.new("RGB", (max(map(len, rows)) * (TILE + GAP) + GAP, len(rows) * high), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=LINE - 2)
    for n, row in enumerate(rows):
        for m, (picture, lines) in enumerate(row):
            left, top = GAP + m * (TILE + GAP), GAP + n * high
            canvas.paste(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST), (left, top))
            pen.rectangle((left, top, left + TILE - 1, top + TILE - 1), outline="grey")
            for number, line in enumerate(lines):
                pen.text((left, top + TILE + 2 + number * LINE), line, fill="black", font=font)
    return canvas


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the PNG to write")
    draw(tiles()).quantize(64).save(parser.parse_args().picture, optimize=True)


if __name__ == "__main__":
    main()
