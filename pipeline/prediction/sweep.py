"""One network's way over one scan: windows along an axis, and planes of the scan's own grid as they are done."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.memory import is_out_of_memory
from pipeline.prediction.network_facts import evaluating
from pipeline.prediction.placement import place
from pipeline.prediction.resampling import in_plane, samples
from pipeline.prediction.stitching import Ring
from pipeline.prediction.windows import lay_windows, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.nifti.volume import Scan
    from pipeline.prediction.network_facts import NetworkFacts
    from pipeline.prediction.placement import Placement
    from pipeline.prediction.predictor import Predictor
    from pipeline.prediction.windows import Triple, Values, Windows

HOST = torch.device("cpu")


@dataclass(frozen=True)
class Sweep:
    """A network's way over a scan.

    Attributes:
        predictor: Whose network it is.
        scans: The scan, as it was read.
        image: ``[C, X, Y, Z]`` on the network's grid.
        wanted: The scan's axis to go along; None for the one along which the least is held.
    """

    predictor: Predictor
    scans: Sequence[Scan]
    image: Tensor
    wanted: int | None = None

    @cached_property
    def placement(self) -> Placement:
        """Where the scan lies on the network's grid."""
        return place(self.scans[0].header.forms, self.predictor.grid)

    @cached_property
    def windows(self) -> Windows:
        """The windows of the image."""
        slab = None if self.wanted is None else self.placement.axis_of(self.wanted)
        return lay_windows(self.placement.shape, self.predictor.patch_size, self.predictor.overlap, slab)

    @cached_property
    def facts(self) -> NetworkFacts:
        """What is known of the network."""
        return self.predictor.facts(len(self.image))

    @property
    def slab(self) -> int:
        """The scan's axis that it goes along."""
        return self.placement.axes[self.windows.slab]

    @property
    def backwards(self) -> bool:
        """Whether it goes along that axis from the scan's end."""
        return self.placement.turned[self.windows.slab]

    @property
    def numbers(self) -> range:
        """The planes of the scan in the order in which they come."""
        count = self.scans[0].shape[self.slab]
        if self.backwards:
            return range(count - 1, -1, -1)
        return range(count)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits ``[K, N]`` of what was stitched, ``[F, N]``."""
        head = self.facts.head
        if head is None:
            return features
        weight = head.weight.to(features.device)
        bias = head.bias
        if bias is None:
            return weight @ features
        return torch.addmm(bias.to(features.device)[:, None], weight, features)

    def planes(self) -> Iterator[Tensor]:
        """Yield what was stitched of each plane of the scan, ``[F, A, B]`` along the scan's two other axes."""
        placement = self.placement
        slab = self.windows.slab
        found = [
            samples(count, step, length, turned and axis != slab)
            for axis, (count, step, length, turned) in enumerate(
                zip(placement.native, placement.steps_out, placement.shape, placement.turned, strict=True)
            )
        ]
        first, second = self.windows.across
        swapped = placement.axes[first] > placement.axes[second]
        stitched = enumerate(self._stitched())
        kept: dict[int, Tensor] = {}
        for low, high, weight in zip(found[slab].low, found[slab].high, found[slab].weight, strict=True):
            kept = {number: plane for number, plane in kept.items() if number >= low}
            while high not in kept:
                number, plane = next(stitched)
                if number >= low:
                    plane = in_plane(plane, found[first], found[second])
                    kept[number] = plane.transpose(1, 2).contiguous() if swapped else plane
            yield torch.lerp(kept[low], kept[high], float(weight)) if weight else kept[low]

    def all_logits(self) -> NDArray[np.float32]:
        """Return all logits ``[K, X, Y, Z]`` on the scan's grid."""
        logits = np.empty((self.predictor.outputs, *self.scans[0].shape), np.float32)
        planes = np.moveaxis(logits, self.slab + 1, 0)
        for number, plane in zip(self.numbers, self.planes(), strict=True):
            planes[number] = self.logits(plane.flatten(1)).reshape(-1, *plane.shape[1:]).cpu().numpy()
        return logits

    def _stitched(self) -> Iterator[Tensor]:
        """Yield the planes of the network's grid, ``[F, A, B]``."""
        windows = self.windows
        slab = windows.slab
        places = windows.places()
        ring = self._ring()
        together = self.predictor.together(self.placement, windows, len(self.image))
        flat: dict[Values, Tensor] = {}
        done = 0
        while done < len(places):
            some = windows.call(places[done : done + together])
            # Before the network looks at them, so that no output is held while others go on to the same plane.
            yield from ring.finished(some[0][slab])
            outputs = self._tried(some, flat, last_resort=len(some) == 1 and ring.device == HOST)
            if outputs is None and len(some) > 1:
                together = len(some) // 2
                self.predictor.tell(f"memory ran out; from now on {together} window(s) at a time")
            elif outputs is None:
                ring.move(HOST)
                self.predictor.tell("memory ran out; from now on slabs are put together on the host")
            else:
                for place_, output in zip(some, outputs, strict=True):
                    yield from ring.finished(place_[slab])
                    ring.add(place_, output)
                done += len(some)
            del outputs
        yield from ring.finished(windows.padded[slab])

    def _ring(self) -> Ring:
        about = (self.windows, self.facts.features, len(self.predictor.patch_size))
        try:
            return Ring(*about, self.predictor.device)
        except torch.OutOfMemoryError:
            self.predictor.tell("the device has no memory for a whole slab, which is put together on the host")
        return Ring(*about, HOST)

    def _tried(self, places: Sequence[Triple], flat: dict[Values, Tensor], *, last_resort: bool) -> list[Tensor] | None:
        """Return the network's outputs to windows, or None where memory ran out and something can be done."""
        try:
            return self._outputs(self.windows.cut(self.image, places), flat)
        except (RuntimeError, MemoryError) as error:
            if last_resort or not is_out_of_memory(error):
                raise
            return None

    def _outputs(self, windows: Tensor, flat: dict[Values, Tensor]) -> list[Tensor]:
        """Return the outputs to windows; to all those of one value, as in air, the network computes once.

        Args:
            windows: ``[N, C, X, Y, Z]``.
            flat: The output to the first window that was one value all over, by its value in each channel.
        """
        values = [value_of(window) for window in windows]
        known = [value in flat for value in values]
        asked = [number for number, there in enumerate(known) if not there]
        outputs = iter(self._mean(windows[asked].to(self.predictor.device)) if asked else ())
        found = []
        for value, there in zip(values, known, strict=True):
            output = flat[value] if there and value is not None else next(outputs)
            if value is not None and not flat:
                flat[value] = output.clone()
            found.append(output)
        return found

    def _mean(self, windows: Tensor) -> Tensor:
        """Return the mean of the outputs to windows and to all their mirror images, one after the other, float32."""
        dimensions = len(self.predictor.patch_size)
        axes = [axis + 2 for axis in self.predictor.mirrors if axis < dimensions]
        images = [image for count in range(1, len(axes) + 1) for image in combinations(axes, count)]
        windows = windows.flatten(dimensions + 1)
        total = self._output(windows).float()
        if not images:
            return total.reshape(len(total), -1, *self.windows.patch)
        for number, image in enumerate(images):
            other = self._output(windows.flip(image)).flip(image)
            # A network may return a tensor that it keeps.
            total = total.add_(other) if number else total + other
            del other
        return total.div_(1 + len(images)).reshape(len(total), -1, *self.windows.patch)

    def _output(self, windows: Tensor) -> Tensor:
        head = self.facts.head
        with evaluating(self.predictor):
            if head is None:
                output: Tensor = self.predictor.network(windows)
                return output
            with head.removed():
                features: Tensor = self.predictor.network(windows)
                return features
