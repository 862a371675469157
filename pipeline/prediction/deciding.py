"""From what networks say of each plane of a scan to a label map, and to what is expected of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.errors import Problem, UserError
from pipeline.prediction.memory import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.metrics.calibration import Expectation
    from pipeline.metrics.region_calibration import RegionExpectation
    from pipeline.prediction.maps import Maps
    from pipeline.prediction.spool import RegionSpool, Spool
    from pipeline.prediction.sweep import Sweep


def decide(
    sweeps: Sequence[Sweep],
    expectation: Expectation | RegionExpectation | None = None,
    *,
    averaged: bool = False,
    weights: Sequence[float] | None = None,
    spool: Spool | RegionSpool | None = None,
    maps: Maps | None = None,
) -> NDArray[np.integer[Any]]:
    """Return the label map ``[X, Y, Z]`` of a scan, in the smallest type that holds all label values.

    Args:
        sweeps: One a network, all along one axis of the scan and in one direction.
        expectation: Is told the probabilities of every voxel.
        averaged: Whether the label is that of the largest mean probability, as an ensemble's is, and not that of the
            largest logit. Regions are painted where their probability, or mean probability, is a half or more.
        weights: Of the sweeps in the mean, 1 together; by default all count alike.
        spool: Takes what depends on a label map that is still to be mended.
        maps: Takes the probabilities of every voxel.

    Raises:
        UserError: A network's output is not finite.
        ValueError: The networks' grids run in opposite directions.
    """
    first = sweeps[0]
    if any(each.numbers != first.numbers for each in sweeps):
        raise ValueError("the networks' grids run in opposite directions along the scan")
    values = first.predictor.label_values
    names = np.array(values, np.min_scalar_type(max(values)))
    painted = [values.index(region.label) for region in first.predictor.regions]
    least = 0.5 if averaged else 0.0
    labels = np.empty(first.scans[0].shape, names.dtype)
    planes = np.moveaxis(labels, first.slab, 0)
    told = expectation is not None or maps is not None
    together = zip(*(each.planes() for each in sweeps), strict=True)
    for number, parts in zip(first.numbers, together, strict=True):
        flat = np.empty(planes[number].size, names.dtype)
        truth = expectation.true_plane(first.slab, number) if expectation else None
        for part in blocks(flat.size, first.predictor.outputs):
            logits = [each.logits(plane.flatten(1)[:, part]) for each, plane in zip(sweeps, parts, strict=True)]
            p = _mean(logits, weights, regions=bool(painted)) if averaged or told else logits[0]
            decisive = p if averaged else logits[0]
            codes = paint(decisive >= least, painted) if painted else decisive.max(dim=0).indices
            _refuse_nan(logits, first)
            flat[part] = names[codes.cpu().numpy()]
            if not told:
                continue
            probabilities = p.cpu().numpy()
            if maps is not None:
                maps.add(probabilities, (first.slab, number, part))
            if expectation is None:
                continue
            shares = expectation.shares(probabilities)
            if spool is not None:
                spool.add(shares, flat[part], (first.slab, number, part))
            else:
                expectation.add(shares, flat[part], None if truth is None else truth[part])
        planes[number] = flat.reshape(planes[number].shape)
    return labels


def blocks(voxels: int, classes: int) -> Iterator[slice]:
    """Yield the parts of a plane that are decided on together."""
    step = max(1, BLOCK // classes)
    for start in range(0, voxels, step):
        yield slice(start, start + step)


def paint(inside: Tensor, classes: Sequence[int]) -> Tensor:
    """Return the class of each voxel ``[N]``: that of the last region that it is inside of, else 0.

    >>> paint(torch.tensor([[True, True, False, False], [False, True, True, False]]), [2, 1]).tolist()
    [2, 1, 1, 0]
    """
    found = torch.zeros(inside.shape[1:], dtype=torch.long, device=inside.device)
    for mask, number in zip(inside, classes, strict=True):
        found.masked_fill_(mask, number)
    return found


def _probabilities(logits: Tensor, *, regions: bool) -> Tensor:
    return logits.sigmoid() if regions else logits.softmax(0)


def _mean(logits: Sequence[Tensor], weights: Sequence[float] | None, *, regions: bool) -> Tensor:
    """Return the mean of the probabilities ``[K, N]`` of several."""
    mean = _probabilities(logits[0], regions=regions)
    if weights is not None:
        mean *= weights[0]
    for number, other in enumerate(logits[1:], 1):
        mean.add_(
            _probabilities(other, regions=regions).to(mean.device), alpha=1 if weights is None else weights[number]
        )
    return mean if weights is not None else mean.div_(len(logits))


def _refuse_nan(logits: Sequence[Tensor], sweep: Sweep) -> None:
    if not all(torch.isfinite(torch.stack(each.aminmax())).all() for each in logits):
        message = "the network's output is not finite"
        where = str(sweep.scans[0].path)
        remedy = "look at the scan's intensities"
        if sweep.predictor.precision != torch.float32:
            remedy += ", or train with precision=float32"
        raise UserError("Prediction stopped.", [Problem(where, "nan-logits", message, remedy)])
