"""Patches: a box of voxels of each of several prepared cases, cut into one batch.

Of a memory-mapped array only the patch is read from the disk, and it is copied once, to its place in the batch. Where a
case's arrays are tensors on a device, the batch is made there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.data.annotation import ANNOTATION, IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

# Share of labelled patches that are centred on a class drawn at random, background included; the others lie anywhere.
CENTRED_SHARE = 2 / 3


def cut_patches(
    cases: Iterable[Mapping[str, Any]],
    rngs: Sequence[np.random.Generator],
    size: Sequence[int],
    foreground_share: float | None = None,
) -> dict[str, Tensor]:
    """Cut one patch of each case: ``image`` ``[B, C, …]`` float32 and ``annotation`` ``[B, 1, …]`` uint8.

    What lies outside a scan is zeros.

    Args:
        cases: Each with ``image`` and ``annotation`` ``[C, X, Y, Z]``, arrays or tensors, and the ``locations`` of its
            classes, an array. They are taken one by one, so that they need not be in memory together.
        rngs: One for each case; it draws the place of the patch.
        size: Voxels along each axis; two numbers cut single slices, and the slice axis is dropped.
        foreground_share: The share of patches of labelled cases that are centred on a class other than background; None
            centres two thirds on a class, background included.
    """
    box = np.array((*size, 1)[:3])
    batch: dict[str, Tensor] = {}
    for row, (case, rng) in enumerate(zip(cases, rngs, strict=True)):
        corner = _draw_corner(rng, np.array(case[IMAGE].shape[1:]), box, case["locations"], foreground_share)
        for key, kind in ((IMAGE, torch.float32), (ANNOTATION, torch.uint8)):
            whole = case[key]
            on_device = isinstance(whole, torch.Tensor)
            if key not in batch:
                device = "cpu"
                if on_device:
                    device = whole.device
                batch[key] = torch.zeros((len(rngs), len(whole), *box), dtype=kind, device=device)
            _copy_box(whole, corner, batch[key][row] if on_device else batch[key][row].numpy())
    return {key: tensor.reshape(*tensor.shape[:2], *size) for key, tensor in batch.items()}


def _draw_corner(
    rng: np.random.Generator,
    shape: NDArray[Any],
    size: NDArray[Any],
    locations: NDArray[Any],
    foreground_share: float | None,
) -> NDArray[Any]:
    """Draw a patch's first corner, inside the scan where it fits and centred where it does not.

    A share of labelled patches are centred on a voxel of a class that is drawn evenly from those present; all others
    lie anywhere.
    """
    spare = shape - size
    present = np.flatnonzero(locations[:, 0] >= 0)
    share = CENTRED_SHARE
    if foreground_share is not None:
        share = foreground_share
        present = present[present > 0]
    if present.size and rng.random() < share:
        row = locations[rng.choice(present)]
        centre = np.unravel_index(int(rng.choice(row[row >= 0])), shape)
        corner = np.clip(np.array(centre) - size // 2, 0, np.maximum(spare, 0))
    else:
        corner = rng.integers(0, np.maximum(spare, 0), endpoint=True)
    placed: NDArray[Any] = np.where(spare < 0, -((-spare) // 2), corner)
    return placed


def _copy_box(array: Any, corner: NDArray[Any], patch: Any) -> None:
    low = np.maximum(corner, 0)
    high = np.minimum(corner + patch.shape[1:], array.shape[1:])
    inside = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
    placed = (slice(None), *(slice(a, b) for a, b in zip(low - corner, high - corner, strict=True)))
    patch[placed] = array[inside]
