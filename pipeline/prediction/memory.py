"""What a prediction holds at once, as a formula of patch, features and one plane."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.prediction.placement import Placement
    from pipeline.prediction.windows import Windows

FLOAT = 4
# Numbers of a block of voxels, all classes of each, that are decided on together.
BLOCK = 1 << 20
# A network holds more than the tensors that are counted, such as copies in other layouts: in three networks that were
# measured, at most three quarters of the counted bytes again.
OVERHEAD = 1.75
# Maps of a block: logits, probabilities, and what a maximum or an expected Dice makes of them.
BLOCK_MAPS = 6
# For maps: a number's share of its label, a product, and the byte.
MAP_BYTES = 9
# Planes of features beside the ring: one that was stitched, two that were resampled, and one between them and halfway.
PLANES = 5


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes that a prediction holds beside the interpreter, its libraries and the networks' weights.

    Attributes:
        image: The image on the network's grid.
        labels: The label map.
        rings: The planes that are still open, of every network.
        windows: Windows of one call, what the network makes of them on the way, and its output to one of air.
        planes: Planes that are being resampled, and the classes of a block of voxels.
        maps: Probabilities of one label, or the entropy, of the whole scan, and what is made of a block for them.
    """

    image: int
    labels: int
    rings: int
    windows: int
    planes: int
    maps: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


def footprint(
    placement: Placement,
    windows: Windows,
    *,
    channels: int,
    features: int,
    classes: int,
    label_bytes: int,
    together: int,
    voxel_bytes: float,
    networks: int = 1,
    maps: int = 0,
) -> Footprint:
    """Return what a prediction holds.

    By name::

        image    4 C V
        labels   b V'
        rings    4 M (F + 1) p A
        windows  n P (4 C + 4 (H + 1) F + v) + 4 M F P, where H is M if p is 1, else 1
        planes   4 M F (A + 4 A') + 24 B
        maps     m V' + 9 B, where m is 1 or 2, else 0

    with C channels, F features that are stitched, K classes, M networks, V voxels of the network's grid and V' of the
    scan's, P of a window, which has p planes; planes of A voxels, or A' in the scan; n windows together, v bytes a
    voxel that a network holds on its way, b a label, B numbers of a block and m maps.

    Args:
        placement: Where the scan lies.
        windows: Of the image.
        channels: Of the image.
        features: What is stitched: a network's features before its last layer, or its classes.
        classes: Of the network.
        label_bytes: Of a voxel of the label map.
        together: Windows that go through the network in one call.
        voxel_bytes: What a network holds of a voxel of a window on its way, as :func:`voxel_bytes_of` finds it.
        networks: How many predict together.
        maps: How many are asked for, probabilities of all labels being one, and the entropy one.
    """
    plane = math.prod(windows.plane)
    native = math.prod(placement.native) // placement.native[windows.slab]
    # A block has at least one voxel, all of its classes.
    numbers = max(BLOCK, classes)
    # Slices of several planes go together, and each network keeps what it made of those that come later.
    holders = networks if windows.patch[windows.slab] == 1 else 1
    return Footprint(
        image=FLOAT * channels * math.prod(placement.shape),
        labels=label_bytes * math.prod(placement.native),
        rings=FLOAT * networks * (features + 1) * windows.patch[windows.slab] * plane,
        # Each network keeps its output to a window of air; one of them is at work.
        windows=round(
            math.prod(windows.patch)
            * (together * (FLOAT * (channels + (holders + 1) * features) + voxel_bytes) + FLOAT * networks * features)
        ),
        planes=FLOAT * networks * features * (plane + (PLANES - 1) * native) + BLOCK_MAPS * FLOAT * numbers,
        maps=(maps * math.prod(placement.native) + MAP_BYTES * numbers) if maps else 0,
    )


def voxel_bytes_of(network: nn.Module, image: Tensor) -> float:
    """Return the bytes a voxel that a network holds at most while it looks at ``[B, C, …]``, without its input."""
    live = _Live({image.untyped_storage()._cdata} | {w.untyped_storage()._cdata for w in network.state_dict().values()})
    with live:
        network(image)
    return OVERHEAD * live.most / image[:, :1].numel()


class _Live(TorchFunctionMode):
    """Counts the bytes of the tensors that are held, each storage once.

    PyTorch's mode for what lies below its functions would see more, and takes seconds to import.
    """

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.most = 0
        self._sizes: dict[int, int] = {}
        self._holders: dict[int, int] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor)
        self.most = max(self.most, sum(self._sizes.values()))
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        self._sizes[key] = storage.nbytes()
        self._holders[key] = self._holders.get(key, 0) + 1
        weakref.finalize(tensor, self._let_go, key)

    def _let_go(self, key: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            del self._sizes[key]
