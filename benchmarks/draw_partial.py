"""Draw what `simulate-labels` keeps of a mask: docs/partial-labels.png.

    python benchmarks/draw_partial.py docs/partial-labels.png

One slice of a phantom, and of its mask. Grey is what nobody has annotated; of boxes, points and slices the drawn slice
shows what falls into it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from draw_ncut import draw, grey

from pipeline.data.phantom import write_phantom
from pipeline.data.simulated import KINDS

COLOURS = {-1: (150, 150, 150), 0: (20, 20, 30), 1: (230, 150, 40), 2: (70, 160, 230)}


def coloured(values):
    picture = np.zeros((*values.shape, 3), np.uint8)
    for value, colour in COLOURS.items():
        picture[values == value] = colour
    return picture


def tiles():
    """Return tiles, each a picture and its lines of text."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        list(write_phantom(folder, labelled=1, unlabelled=0, seed=0))
        image, mask = (
            np.asarray(nib.load(next((folder / side).iterdir())).dataobj) for side in ("imagesTr", "labelsTr")
        )
    mask = mask.astype(int)
    shown = int((mask == 2).sum(axis=(0, 1)).argmax())
    found = [(grey(image[..., shown].astype(float)), ["the scan"]), (coloured(mask[..., shown]), ["its mask"])]
    for kind, amount in (("scribbles", 1), ("slices", 20), ("boxes", 6), ("points", 400)):
        kept = KINDS[kind](mask, 2, amount, np.random.default_rng(3))
        found.append((coloured(np.where(kept, mask, -1)[..., shown]), [kind, f"--amount {amount}"]))
    dropped = np.where(mask == 1, mask, 0)
    return [*found, (coloured(dropped[..., shown]), ["classes", '"annotated": ["organ"]'])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the PNG to write")
    draw(tiles()).quantize(64).save(parser.parse_args().picture, optimize=True)


if __name__ == "__main__":
    main()
