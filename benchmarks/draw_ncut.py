"""Draw N-cut's two forms side by side: docs/ncut.png.

    python benchmarks/draw_ncut.py docs/ncut.png

A phantom and five partitions of it, each with its cost by either form.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rank_ncut import cost, wrong_partitions

from pipeline.losses import ClassMeanNCutLoss, NCutLoss

FORMS = {"exact": NCutLoss, "class means": ClassMeanNCutLoss}
SIZE, ZOOM, GAP, LINE = 64, 3, 12, 16
TILE = SIZE * ZOOM


def phantom():
    """Return an image, z-scored, and the right partition: an ellipse, five times as bright as the noise."""
    rng = np.random.default_rng(3)
    y, x = np.meshgrid(*[np.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    right = (((x + 0.1 - 0.4 * y) / 0.45) ** 2 + ((y - 0.05) / 0.6) ** 2) < 1
    image = 5 * right + rng.standard_normal(right.shape)
    return (image - image.mean()) / image.std(), right, rng


def grey(values):
    low, high = np.percentile(values, (1, 99))
    return np.repeat((255 * np.clip((values - low) / (high - low), 0, 1)).astype(np.uint8)[..., None], 3, axis=-1)


def tiles():
    """Return tiles, each a picture and its lines of text."""
    image, right, rng = phantom()
    partitions = {"right": right, **wrong_partitions(rng, right)}
    found = [(grey(image), ["the image"])]
    for name, partition in partitions.items():
        costs = [f"{form}: {cost(make(softmax=False), image, partition):.2f}" for form, make in FORMS.items()]
        found.append((grey(partition.astype(float)), [name, *costs]))
    return found


def draw(row):
    """Return the picture."""
    canvas = Image.new("RGB", (len(row) * (TILE + GAP) + GAP, TILE + 3 * LINE + 2 * GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=LINE - 2)
    for n, (picture, lines) in enumerate(row):
        left = GAP + n * (TILE + GAP)
        canvas.paste(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.NEAREST), (left, GAP))
        pen.rectangle((left, GAP, left + TILE - 1, GAP + TILE - 1), outline="grey")
        for number, line in enumerate(lines):
            pen.text((left, GAP + TILE + 2 + number * LINE), line, fill="black", font=font)
    return canvas


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the PNG to write")
    draw(tiles()).quantize(64).save(parser.parse_args().picture, optimize=True)


if __name__ == "__main__":
    main()
