"""From the scans of a case, as they were read, to the network's image, plane by plane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.data.outside import find_outside
from pipeline.prediction.placement import place
from pipeline.prediction.resampling import in_plane, samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.data.normalization import IntensityRange
    from pipeline.data.transforms import Grid
    from pipeline.nifti.volume import Scan
    from pipeline.prediction.placement import Placement

    Voxels = NDArray[np.float32]


@dataclass
class Images:
    """The images that are made of one scan; of one grid and one way to normalise there is one, whoever asks for it.

    Attributes:
        scans: One file with all channels, or one a channel.
    """

    scans: Sequence[Scan]
    _made: list[tuple[tuple[Grid, tuple[IntensityRange | None, ...]], Tensor]] = field(default_factory=list, init=False)

    def on(self, grid: Grid, ranges: Sequence[IntensityRange | None] = ()) -> Tensor:
        """Return the image; arguments as for :func:`network_image`."""
        wanted = grid, tuple(ranges)
        for known, image in self._made:
            if known == wanted:
                return image
        self._made.append((wanted, network_image(self.scans, grid, ranges)))
        return self._made[-1][1]


def network_image(scans: Sequence[Scan], grid: Grid, ranges: Sequence[IntensityRange | None] = ()) -> Tensor:
    """Return the image ``[C, X, Y, Z]`` that a network sees, float32.

    It is what :func:`pipeline.data.transforms.scan_transforms` makes, but for the last bit of a number here and there;
    beside it no more than a few planes are held.

    Args:
        scans: One file with all channels, or one a channel.
        grid: The network's.
        ranges: How intensities are normalised, as for ``scan_transforms``.
    """
    placement = place(scans[0].header.forms, grid)
    channels = [(scan, channel) for scan in scans for channel in range(scan.channels)]
    image = np.empty((len(channels), *placement.shape), np.float32)
    scales = tuple(ranges) or (None,) * len(channels)
    for voxels, (scan, channel), scale in zip(image, channels, scales, strict=True):
        _resample(scan, channel, placement, voxels)
        if scale is None:
            _standardize(voxels)
        else:
            for plane in torch.from_numpy(voxels):
                plane.clamp_(scale.low, scale.high).sub_(scale.mean).div_(scale.std)
    return torch.from_numpy(image)


def _resample(scan: Scan, channel: int, placement: Placement, out: Voxels) -> None:
    """Bring a channel to the network's grid, a plane of the file's last axis at a time, since those lie together."""
    across = placement.axis_of(2)
    ways = zip(placement.shape, placement.steps_in, placement.native, strict=True)
    found = [samples(*way) for way in ways]
    rows, columns = (axis for n, axis in enumerate(found) if n != across)
    kept: dict[int, Tensor] = {}

    def plane(number: int) -> Tensor:
        if number not in kept:
            if len(kept) == 2:
                del kept[min(kept)]
            own = placement.native[across] - 1 - number if placement.turned[across] else number
            kept[number] = torch.from_numpy(_turned(scan.plane(channel, own), placement))
        return kept[number]

    planes = np.moveaxis(out, across, 0)
    for target, low, high, weight in zip(
        planes, found[across].low, found[across].high, found[across].weight, strict=True
    ):
        between = torch.lerp(plane(int(low)), plane(int(high)), float(weight)) if weight else plane(int(low))
        target[...] = in_plane(between, rows, columns).numpy()


def _turned(plane: Voxels, placement: Placement) -> NDArray[np.float64]:
    """Return a plane ``[X, Y]`` of a file along the network's axes, wide enough that interpolation adds no error."""
    order = [own for own in placement.axes if own != 2]
    turned = [backwards for own, backwards in zip(placement.axes, placement.turned, strict=True) if own != 2]
    view = plane.transpose(order)[tuple(slice(None, None, -1 if backwards else 1) for backwards in turned)]
    return view.astype(np.float64, order="C")


def _standardize(voxels: Voxels) -> None:
    """Bring voxels to mean 0 and standard deviation 1, as :class:`~pipeline.data.normalization.Normalized` does."""
    low, high, mean, deviation = _moments(voxels, find_outside(voxels))
    if low == high:  # A mask: its zeros are all the contrast that it has.
        low, high, mean, deviation = _moments(voxels, None)
    for plane in voxels:
        plane[...] = 0 if low == high else (plane.astype(np.float64) - mean) / deviation


def _moments(voxels: Voxels, outside: tuple[float, float] | None) -> tuple[float, float, float, float]:
    """Return the least, the largest, the mean and the standard deviation of all voxels, or of those inside the body.

    Of fewer than two voxels the least and the largest are one.
    """

    def planes() -> Iterator[NDArray[np.float64]]:
        for plane in voxels:
            wide = plane.astype(np.float64)
            chosen = wide.ravel() if outside is None else wide[np.abs(wide - outside[0]) > outside[1]]
            if chosen.size:
                yield chosen

    found = [(plane.size, plane.sum(), plane.min(), plane.max()) for plane in planes()]
    count = sum(size for size, *_ in found)
    if count < 2:
        return 0.0, 0.0, 0.0, 1.0
    mean = sum(total for _, total, *_ in found) / count
    square = sum(((plane - mean) ** 2).sum() for plane in planes())
    low = min(low for *_, low, _ in found)
    high = max(high for *_, high in found)
    return float(low), float(high), float(mean), float(np.sqrt(square / (count - 1)))
