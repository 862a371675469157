"""Stitch windows to an image of which only the planes still open are held: a ring of as many as a window is thick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from pipeline.prediction.windows import importance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pipeline.prediction.windows import Triple, Windows


@dataclass
class Ring:
    """Planes of an image that windows are being added to.

    The windows come in the order of the slab axis, so a plane before the next window's first is done.

    Attributes:
        windows: Where they lie.
        features: Numbers of a voxel.
        dimensions: 3, or 2 for windows that are slices.
        device: Where the planes are held.
    """

    windows: Windows
    features: int
    dimensions: int
    device: torch.device
    _sums: Tensor = field(init=False)
    _weights: Tensor = field(init=False)
    _importance: Tensor = field(init=False)
    _done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        thick = self.windows.patch[self.windows.slab]
        plane = self.windows.plane
        self._sums = torch.zeros((thick, self.features, *plane), device=self.device)
        self._weights = torch.zeros((thick, 1, *plane), device=self.device)
        weights = importance(self.windows, self.dimensions).movedim(self.windows.slab, 0).contiguous()
        self._importance = weights[:, None].to(self.device)

    def move(self, device: torch.device) -> None:
        """Hold the planes elsewhere from now on."""
        self.device = device
        self._sums, self._weights = self._sums.to(device), self._weights.to(device)
        self._importance = self._importance.to(device)

    def add(self, place: Triple, output: Tensor) -> None:
        """Add a window ``[F, X, Y, Z]`` that begins at a place."""
        slab = self.windows.slab
        across = self.windows.across
        patch = self.windows.patch
        thick = patch[slab]
        first = place[slab] % patch[slab]
        window = output.to(self.device, torch.float32).movedim(slab + 1, 0)
        if not window.is_contiguous():
            window = window.contiguous()
        spans = tuple(slice(place[axis], place[axis] + patch[axis]) for axis in across)
        # The ring begins anew after its last plane.
        for ring, own in (
            (slice(first, thick), slice(0, thick - first)),
            (slice(0, first), slice(thick - first, None)),
        ):
            here = (ring, slice(None), *spans)
            self._sums[here].addcmul_(window[own], self._importance[own])
            self._weights[here].add_(self._importance[own])

    def finished(self, until: int) -> Iterator[Tensor]:
        """Yield the planes ``[F, A, B]`` of the image before a plane of the enlarged image, and forget them."""
        slab = self.windows.slab
        across = self.windows.across
        margin = self.windows.margin
        shape = self.windows.shape
        inside = tuple(slice(margin[axis], margin[axis] + shape[axis]) for axis in across)
        for number in range(self._done, until):
            place = number % len(self._sums)
            if 0 <= number - margin[slab] < shape[slab]:
                here = (slice(None), *inside)
                yield self._sums[place][here] / self._weights[place][here]
            self._sums[place].zero_()
            self._weights[place].zero_()
            self._done = number + 1
