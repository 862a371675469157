"""From a scan's files to a label map on the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.special import expit

from pipeline import nifti
from pipeline.metrics.region_calibration import RegionExpectation
from pipeline.planning.devices import free_bytes
from pipeline.prediction.deciding import decide
from pipeline.prediction.images import Images
from pipeline.prediction.memory import Footprint, footprint
from pipeline.prediction.network_facts import evaluating, try_network
from pipeline.prediction.placement import Placement, place
from pipeline.prediction.postprocessing import postprocess
from pipeline.prediction.spool import RegionSpool, Spool
from pipeline.prediction.sweep import Sweep
from pipeline.prediction.voting import VoteSweep
from pipeline.prediction.windows import Windows, lay_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from torch import nn

    from pipeline.atlases.fusion import Atlases
    from pipeline.data.normalization import IntensityRange
    from pipeline.data.transforms import Grid
    from pipeline.metrics.calibration import Expectation
    from pipeline.nifti.forms import Forms
    from pipeline.nifti.volume import Scan
    from pipeline.prediction.maps import Maps
    from pipeline.prediction.network_facts import NetworkFacts
    from pipeline.prediction.postprocessing import PostprocessingStep
    from pipeline.types import Region


# At most so much of the memory that is free goes to windows.
SHARE = 0.5


class Segmenter(Protocol):
    """Whatever segments a scan on the grid of its files, with the labels of a dataset."""

    @property
    def label_values(self) -> tuple[int, ...]:
        """The dataset's value of each class, in the order of the classes."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def segment(
        self, scans: Sequence[Scan], expectation: Expectation | RegionExpectation | None = None
    ) -> NDArray[np.integer[Any]]:
        """Segment a scan that was read: one file with all channels, or one a channel."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Segments one scan at a time, with a sliding window.

    Attributes:
        network: In evaluation mode while it predicts, whatever its mode before.
        grid: The grid that the network was trained on.
        patch_size: The window; two numbers for a network of slices.
        label_values: The dataset's value of each class, in the order of the classes.
        regions: What the channels of the network's output are in the place of classes; none where these exclude each
            other.
        precision: As in training.
        overlap: Share of a window that its neighbour covers again.
        windows: Windows (in 2-D: slices) that go through the network together, where there is memory for them.
        ranges: How intensities are normalised, as for :func:`pipeline.data.transforms.scan_transforms`.
        mirrors: Axes along which windows are mirrored too: the output is the mean over all mirror images. In 2-D only
            axes of the slice count.
        postprocessing: What is done to the label map, in this order; the probabilities stay.
        tell: Called with what a user has to know: that memory ran out, and what was done.
    """

    network: nn.Module
    grid: Grid
    patch_size: tuple[int, ...]
    label_values: tuple[int, ...]
    precision: torch.dtype
    overlap: float = 0.5
    windows: int = 4
    ranges: tuple[IntensityRange | None, ...] = ()
    mirrors: tuple[int, ...] = ()
    postprocessing: tuple[PostprocessingStep, ...] = ()
    regions: tuple[Region, ...] = ()
    tell: Callable[[str], None] = field(default=lambda _: None, compare=False)
    _known: dict[int, NetworkFacts] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def outputs(self) -> int:
        """The number of channels of the network's output."""
        return len(self.regions) or len(self.label_values)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    def __call__(self, images: Sequence[Path]) -> NDArray[np.integer[Any]]:
        """Return label values ``[X, Y, Z]`` on the grid of the scan's files; all else as :meth:`segment`."""
        return self.segment([nifti.load(path) for path in images])

    def segment(
        self,
        scans: Sequence[Scan],
        expectation: Expectation | RegionExpectation | None = None,
        maps: Maps | None = None,
    ) -> NDArray[np.integer[Any]]:
        """Segment a scan on the grid of its files.

        Args:
            scans: One file with all channels, or one a channel, as it was read.
            expectation: Is told the probabilities of every voxel.
            maps: Takes the probabilities of every voxel.

        Returns:
            Label values ``[X, Y, Z]``.

        Raises:
            UserError: The network's output is NaN.
        """
        return _segment([self.sweep(scans)], expectation, self.postprocessing, maps)

    def logits(self, scans: Sequence[Scan]) -> NDArray[np.float32]:
        """Return all logits ``[K, X, Y, Z]`` on the grid of the scan's files: for study, since they may be many."""
        return self.sweep(scans).all_logits()

    def probabilities(self, scans: Sequence[Scan]) -> NDArray[np.float32]:
        """Return the probability of every class or region, ``[K, X, Y, Z]``, on the grid of the scan's files."""
        logits = self.logits(scans)
        if self.regions:
            found: NDArray[np.float32] = expit(logits, out=logits)
            return found
        logits -= logits.max(axis=0)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=0)
        return logits

    def sweep(self, scans: Sequence[Scan], images: Images | None = None, slab: int | None = None) -> Sweep:
        """Return the way over a scan, plane by plane.

        Args:
            scans: As for :meth:`segment`.
            images: Images that were made of these scans.
            slab: The scan's axis to go along; by default the one along which the least is held.
        """
        images = Images(scans) if images is None else images
        return Sweep(self, scans, images.on(self.grid, self.ranges), slab)

    @property
    def mirrored(self) -> bool:
        """Whether it looks at mirror images."""
        return bool(self.mirrors)

    def without_mirrors(self) -> Predictor:
        """Return one that looks at no mirror images."""
        return replace(self, mirrors=())

    def footprint(self, forms: Forms, channels: int, networks: int = 1, maps: int = 0) -> Footprint:
        """Return what predicting a scan holds beside the scan, the libraries and the network's weights.

        Args:
            forms: Where the scan's header places its voxels.
            channels: Of the scan.
            networks: How many predict together.
            maps: How many are asked for beside the label map.
        """
        placement = place(forms, self.grid)
        windows = lay_windows(placement.shape, self.patch_size, self.overlap)
        together = self.together(placement, windows, channels)
        return self._footprint(placement, windows, channels, together, networks, maps)

    def together(self, placement: Placement, windows: Windows, channels: int) -> int:
        """Return how many windows go through the network in one call: half of the memory that is free has to do."""
        most = min(self.windows, len(windows))
        one = self._footprint(placement, windows, channels, 1, 1).windows
        return max(1, min(most, int(SHARE * free_bytes(self.device) / max(1, one))))

    def _footprint(
        self, placement: Placement, windows: Windows, channels: int, together: int, networks: int, maps: int = 0
    ) -> Footprint:
        facts = self.facts(channels)
        return footprint(
            placement,
            windows,
            channels=channels,
            features=facts.features,
            classes=self.outputs,
            label_bytes=np.min_scalar_type(max(self.label_values)).itemsize,
            together=together,
            voxel_bytes=facts.voxel_bytes,
            networks=networks,
            maps=maps,
        )

    def facts(self, channels: int) -> NetworkFacts:
        """Return what is found by trying the network once."""
        if channels not in self._known:
            with evaluating(self):
                self._known[channels] = try_network(self.network, channels, self.patch_size, self.outputs)
        return self._known[channels]


@dataclass(frozen=True)
class Ensemble:
    """Predicts the mean of the probabilities of several predictors, and post-processes the label map.

    They may work on different grids: they are averaged on that of the scan. All go along the scan in step, so that only
    the planes still open are held of each.

    Attributes:
        predictors: One or more, with the same labels.
        postprocessing: What is done to the label map, in this order, instead of what the predictors would do.
        atlases: Vote beside the predictors, on the grid of the first.
        atlas_weight: The share of that vote in the mean, 0 to 1.
    """

    predictors: tuple[Predictor, ...]
    postprocessing: tuple[PostprocessingStep, ...] = ()
    atlases: Atlases | None = None
    atlas_weight: float = 0.0

    @property
    def label_values(self) -> tuple[int, ...]:
        """The dataset's value of each class, in the order of the classes."""
        return self.predictors[0].label_values

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return self.predictors[0].device

    @property
    def mirrored(self) -> bool:
        """Whether one of them looks at mirror images."""
        return any(each.mirrored for each in self.predictors)

    def without_mirrors(self) -> Ensemble:
        """Return one of predictors that look at no mirror images."""
        return replace(self, predictors=tuple(each.without_mirrors() for each in self.predictors))

    def footprint(self, forms: Forms, channels: int, maps: int = 0) -> Footprint:
        """Return what predicting a scan holds, by the first of the networks; all else as for one."""
        return self.predictors[0].footprint(forms, channels, len(self.predictors), maps)

    def segment(
        self,
        scans: Sequence[Scan],
        expectation: Expectation | RegionExpectation | None = None,
        maps: Maps | None = None,
    ) -> NDArray[np.integer[Any]]:
        """Segment a scan on the grid of its files; all else as :meth:`Predictor.segment`."""
        images = Images(scans)
        first = self.predictors[0].sweep(scans, images)
        sweeps = [first, *(each.sweep(scans, images, first.slab) for each in self.predictors[1:])]
        weights = None
        if self.atlases is not None:
            sweeps.append(self._vote(first))
            weights = [*[(1 - self.atlas_weight) / len(self.predictors)] * len(self.predictors), self.atlas_weight]
        return _segment(sweeps, expectation, self.postprocessing, maps, averaged=True, weights=weights)

    def _vote(self, beside: Sweep) -> VoteSweep:
        """Return what the atlases say of a scan, as a way over it beside a network's."""
        assert self.atlases is not None
        said = self.atlases.vote(beside.image.to(self.device))
        return VoteSweep(
            predictor=beside.predictor,
            scans=beside.scans,
            image=beside.image,
            wanted=beside.wanted,
            probabilities=said.probabilities,
        )

    def probabilities(self, scans: Sequence[Scan]) -> NDArray[np.float32]:
        """Return the mean probability of every class or region, ``[K, X, Y, Z]``, on the grid of the scan's files."""
        total = self.predictors[0].probabilities(scans)
        for each in self.predictors[1:]:
            total += each.probabilities(scans)
        total /= len(self.predictors)
        if self.atlases is not None:
            said = self._vote(self.predictors[0].sweep(scans)).all_logits()
            said = expit(said) if self.predictors[0].regions else np.exp(said)
            total += self.atlas_weight * (said - total)
        return total


def _segment(
    sweeps: Sequence[Sweep],
    expectation: Expectation | RegionExpectation | None,
    steps: Sequence[PostprocessingStep],
    maps: Maps | None,
    *,
    averaged: bool = False,
    weights: Sequence[float] | None = None,
) -> NDArray[np.integer[Any]]:
    """Return the label map of a scan after post-processing; what is expected is expected of that."""
    if not steps:
        return decide(sweeps, expectation, averaged=averaged, weights=weights, maps=maps)
    first = sweeps[0]
    spool: Spool | RegionSpool | None = None
    if isinstance(expectation, RegionExpectation):
        spool = RegionSpool(expectation)
    elif expectation:
        spool = Spool(expectation, steps)
    found = decide(sweeps, expectation, averaged=averaged, weights=weights, spool=spool, maps=maps)
    processed = postprocess(found, first.scans[0].spacing_mm, steps)
    if spool:
        spool.tell(found, processed)
    return processed
