"""Choose patch, batch and network together: what the scans are worth, as far as the device goes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from pipeline.networks import NETWORKS
from pipeline.planning.limits import refuse_options, refuse_unbuildable
from pipeline.planning.memory import least_bytes, training_bytes
from pipeline.planning.patch import SMALLEST, choose_channels, choose_kernels, choose_patch, choose_strides
from pipeline.planning.reach import REACH, SLICES, Reach
from pipeline.recipe import BATCHES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipeline.planning.hardware import Hardware
    from pipeline.recipe import Recipe


# A patch is not made smaller than this for the sake of memory, nor a batch than this many samples before the patch.
LEAST_SIDE = 32
LEAST_SAMPLES = 2
# Networks of an ensemble at most: three gain what there is to gain, and each takes its time to predict with.
MOST_MEMBERS = 3


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is chosen together.

    Attributes:
        patch_size: Voxels along each axis.
        batch_size: Labelled samples a step.
        unlabelled_batch_size: Unlabelled ones.
        options: All options of the network that are given or planned.
        accumulate: Parts that a batch goes through the network in.
        recompute: Whether features are computed again in the backward pass.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    unlabelled_batch_size: int
    options: dict[str, Any]
    accumulate: int = 1
    recompute: bool = False

    @property
    def of_data(self) -> dict[str, Any]:
        """The part of it that a recipe keeps under ``data``."""
        return {key: getattr(self, key) for key in ("patch_size", "batch_size", "unlabelled_batch_size", "accumulate")}

    @property
    def of_network(self) -> dict[str, Any]:
        """The part of it that a recipe keeps under ``network``."""
        return {"options": self.options, "recompute": self.recompute}


@dataclass(frozen=True, kw_only=True)
class SizePlanner:
    """Chooses patch, batch, depth and width; what the recipe gives stays.

    The patch is the median scan, or as much of it as the device computes in a reasonable step. The batch grows where
    patches are small, and the network halves each axis as long as enough voxels remain. Where the estimated memory is
    over the device's budget, the batch becomes smaller, then goes through the network in parts, then features are
    computed again in the backward pass, and at last the patch becomes smaller.

    Attributes:
        recipe: As read.
        shape: Of the median scan on the target grid.
        spacing_mm: Of that grid.
        channels: Of an image.
        classes: Background included.
        precision: Of the network's arithmetic.
        hardware: The device.
        of_volumes: Whether the scans are volumes, also where a network sees slices of them.
    """

    recipe: Recipe
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    channels: int
    classes: int
    precision: str
    hardware: Hardware
    of_volumes: bool = True

    @property
    def reach(self) -> Reach:
        """What the device computes in a reasonable step."""
        if self.of_volumes and len(self.shape) == 2 and not self.hardware.is_cuda:
            return SLICES
        return REACH[self.hardware.is_cuda, len(self.shape)]

    def choose(self) -> tuple[Sizes, int | None]:
        """Return what fits the device, and the bytes that a step of it is estimated to take (None: not known).

        Raises:
            UserError: Strides or kernels that are given do not have a number for each axis, or a network of ours
                refuses its options.
        """
        name = self.recipe.network.name
        refuse_options(name, self._given(), len(self.shape))
        sizes = self._full
        while True:
            needed = self.memory_bytes(sizes)
            smaller = None if self._fits(needed) else self._smaller(sizes)
            if smaller is None:
                refuse_unbuildable(name, self._build(sizes))
                return sizes, needed
            sizes = smaller

    @property
    def _full(self) -> Sizes:
        """What the device computes in a reasonable step, whatever its memory."""
        data = self.recipe.data
        sizes = self._sizes(self.reach.voxels, self.reach.most_samples)
        parts = 1 if data.accumulate == "auto" else data.accumulate
        return replace(sizes, accumulate=parts, recompute=self.recipe.network.recompute is True)

    def units(self, sizes: Sizes) -> tuple[int, str]:
        """Return the number of units in which a part of a batch is shared out, and the reason."""
        processes = self.hardware.processes
        most = self._common_batch(sizes) // sizes.accumulate
        if processes == 1:
            return 1, "one process computes the whole batch at once"
        enough = next((units for units in range(processes, most + 1) if most % units == 0), most)
        return (
            enough,
            f"{processes} processes share the batch; with this number, any number of them gives these weights",
        )

    def wider(self, sizes: Sizes) -> Sizes | None:
        """Return the same with as many features as on a GPU; None where it has them, or they are not to choose."""
        if "channels" in self._given() or "channels" not in sizes.options:
            return None
        first = REACH[True, len(self.shape)].first
        most = REACH[True, len(self.shape)].most
        channels = list(choose_channels(len(sizes.options["channels"]), first, most))
        wide = replace(sizes, options=sizes.options | {"channels": channels})
        needed = self.memory_bytes(wide)
        fits = needed is not None and needed <= (self.hardware.budget_bytes or 0)
        return wide if fits and wide != sizes else None

    def lighter(self, sizes: Sizes) -> Iterator[Sizes]:
        """Yield sizes of which a step takes less and less time: fewer samples first, then smaller patches."""
        while True:
            data = self.recipe.data
            samples = self._samples(sizes)
            voxels = math.prod(sizes.patch_size)
            fewer = self._sizes(voxels, samples // 2)
            smaller = self._sizes(voxels * 3 // 4, samples) if voxels > LEAST_SIDE ** len(self.shape) else sizes
            if samples > LEAST_SAMPLES and self._samples(fewer) < samples:
                sizes = replace(sizes, batch_size=fewer.batch_size, unlabelled_batch_size=fewer.unlabelled_batch_size)
                sizes = replace(sizes, accumulate=math.gcd(sizes.accumulate, self._common_batch(sizes)))
            elif data.patch_size == "auto" and math.prod(smaller.patch_size) < voxels:
                sizes = replace(sizes, patch_size=smaller.patch_size, options=smaller.options)
            else:
                return
            yield sizes

    def _smaller(self, sizes: Sizes) -> Sizes | None:
        """Return what takes less memory, first what costs the least; None where all of that is given or done."""
        data = self.recipe.data
        samples = self._samples(sizes)
        voxels = math.prod(sizes.patch_size)
        if data.batch_size == "auto" and samples > LEAST_SAMPLES:
            fewer = self._sizes(voxels, samples // 2)
            if self._samples(fewer) < samples:
                return replace(fewer, accumulate=sizes.accumulate, recompute=sizes.recompute)
        if data.accumulate == "auto" and (parts := self._more_parts(sizes)):
            return replace(sizes, accumulate=parts)
        if self.recipe.network.recompute == "auto" and not sizes.recompute:
            again = replace(sizes, recompute=True)
            if (self.memory_bytes(again) or 0) < (self.memory_bytes(sizes) or 0):
                return again
        if data.patch_size == "auto" and voxels > LEAST_SIDE ** len(self.shape):
            smaller = self._sizes(min(voxels, self.reach.voxels) * 3 // 4, samples)
            if math.prod(smaller.patch_size) < voxels:
                return replace(sizes, patch_size=smaller.patch_size, options=smaller.options)
        return None

    def _more_parts(self, sizes: Sizes) -> int | None:
        """Return the next number of parts that each stream of a step can be cut into."""
        whole = self._common_batch(sizes)
        return next((parts for parts in range(sizes.accumulate + 1, whole + 1) if whole % parts == 0), None)

    def _common_batch(self, sizes: Sizes) -> int:
        """Return the largest number of parts that each stream of a step can be cut into."""
        return math.gcd(*(getattr(sizes, BATCHES[kind]) for kind in self.recipe.kinds))

    def most_members(self, sizes: Sizes) -> int:
        """Return how many networks a time budget may train: those that are given, or a few where memory allows it."""
        if self.recipe.network.members != "auto" or self.recipe.segments is not None:
            return self._members
        fitting = (n for n in range(MOST_MEMBERS, 1, -1) if self._fits(self.memory_bytes(sizes, n)))
        return next(fitting, 1)

    def _fits(self, needed: int | None) -> bool:
        return needed is None or needed <= (self.hardware.budget_bytes or 0)

    def memory_bytes(self, sizes: Sizes, members: int | None = None) -> int | None:
        """Return what a step is estimated to take; None where nobody asks, or the network will not be built so."""
        if self.hardware.memory_bytes is None:
            return None
        at_once = -(-self._samples(sizes) // sizes.accumulate)
        shape = (at_once, self.channels, *sizes.patch_size)
        try:
            return training_bytes(
                self._build(sizes),
                shape,
                self.classes,
                getattr(torch, self.precision),
                recompute=sizes.recompute,
                members=members or self._members,
            )
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return None  # Building it in earnest says what is wrong.

    def least_bytes(self, sizes: Sizes, needed: int | None) -> int | None:
        """Return the least that an estimate of what a step takes may mean; None of none."""
        averaged = self.recipe.optimizer.averaging > 0
        return needed and least_bytes(needed, self._build(sizes), averaged=averaged, members=self._members)

    def _build(self, sizes: Sizes) -> Callable[[], torch.nn.Module]:
        """Return what builds the network."""
        return partial(
            NETWORKS.build,
            self.recipe.network.name,
            sizes.options,
            spatial_dims=len(self.shape),
            in_channels=self.channels,
            out_channels=self.classes,
        )

    def reasons(self, sizes: Sizes) -> Iterator[tuple[str, Any, str]]:
        """Yield key, value and reason of every choice."""
        network = self.recipe.network
        given = {f"data.{key}": value for key, value in self.recipe.data}
        given |= {f"network.options.{key}": value for key, value in network.options.items()}
        given["network.recompute"] = network.recompute
        for key, value, reason in self._own_reasons(sizes):
            yield key, value, reason if given.get(key, "auto") == "auto" else "given in the recipe"

    def _own_reasons(self, sizes: Sizes) -> Iterator[tuple[str, Any, str]]:
        full = self._full
        reach = self.reach
        median = " x ".join(map(str, self.shape))
        if all(side >= whole for side, whole in zip(sizes.patch_size, self.shape, strict=True)):
            patch = f"the whole of the median scan, {median} on this grid, in sides that can be halved"
        else:
            limit = reach.pace if sizes.patch_size == full.patch_size else "the memory"
            patch = f"of {median}, the median scan on this grid, what {limit} allows, equally far along each axis in mm"
        yield "data.patch_size", sizes.patch_size, patch
        batch = "small patches leave room for more" if self._samples(sizes) > reach.samples else reach.pace
        batch = batch if self._samples(sizes) >= self._samples(full) else "what the memory allows"
        if self.recipe.data.accumulate not in ("auto", 1):
            batch = f"{reach.pace}, and a multiple of data.accumulate"
        batch += "; half of a step each for scans with and without masks" if len(self.recipe.kinds) == 2 else ""
        for kind, key in BATCHES.items():
            unused = f"of no effect: no term looks at {kind} scans"
            yield f"data.{key}", getattr(sizes, key), batch if kind in self.recipe.kinds else unused
        whole = "the memory takes a whole batch at once"
        parts = f"the memory takes one part in {sizes.accumulate} of a batch at once; their gradients add up"
        yield "data.accumulate", sizes.accumulate, whole if sizes.accumulate == 1 else parts
        again = "memory is short: a step takes up to a third longer, and the patch stays larger"
        yield "network.recompute", sizes.recompute, again if sizes.recompute else "the memory takes all features"
        why = {
            "channels": f"{reach.first} at full resolution, twice as many a level, {reach.most} at most: {reach.pace}",
            "strides": f"long voxels wait for the others; a side is halved while {SMALLEST} voxels are left of it",
            "kernels": "3 voxels wide, but 1 across voxels twice as long as others",
        }
        for option, reason in why.items():
            if option in sizes.options:
                yield f"network.options.{option}", sizes.options[option], reason

    @property
    def _members(self) -> int:
        given = self.recipe.network.members
        return 1 if given == "auto" else given

    def voxels(self, sizes: Sizes) -> int:
        """Return the voxels of all samples of a step."""
        return self._samples(sizes) * math.prod(sizes.patch_size)

    def _samples(self, sizes: Sizes) -> int:
        return sum(getattr(sizes, BATCHES[kind]) for kind in self.recipe.kinds)

    def _sizes(self, voxels: int, most_samples: int) -> Sizes:
        data = self.recipe.data
        reach = self.reach
        patch = data.patch_size
        if patch == "auto":
            patch = choose_patch(self.shape, voxels, self.spacing_mm, self._divisors())
        room = reach.samples * reach.voxels // math.prod(patch)
        samples = min(most_samples, max(reach.samples, room))
        parts = 1 if data.accumulate == "auto" else data.accumulate
        share = max(1, samples // len(self.recipe.kinds) // parts) * parts
        labelled, unlabelled = (
            share if given == "auto" else given for given in (data.batch_size, data.unlabelled_batch_size)
        )
        return Sizes(
            patch_size=patch, batch_size=labelled, unlabelled_batch_size=unlabelled, options=self._options(patch)
        )

    def _given(self) -> dict[str, Any]:
        return {key: value for key, value in self.recipe.network.options.items() if value != "auto"}

    def _divisors(self) -> tuple[int, ...]:
        """Return what the network's own options ask of a patch; nothing where its strides are planned."""
        if "strides" not in NETWORKS.options(self.recipe.network.name):
            return (8,) * len(self.shape)  # A U-Net of four levels, whatever it calls them.
        strides = self._given().get("strides")
        if strides:
            return tuple(math.prod(along) for along in zip(*strides, strict=True))
        return ()

    def _options(self, patch: tuple[int, ...]) -> dict[str, Any]:
        """Fill in ``channels``, ``strides`` and ``kernels`` of a network that has them, in lists as YAML has them."""
        known = NETWORKS.options(self.recipe.network.name)
        given = self._given()
        if "strides" not in known:
            halvings = choose_strides(patch, (1.0,) * len(patch))
            strides = tuple(step for step in halvings if set(step) == {2})
        else:
            levels = len(given["channels"]) if "channels" in given else None
            strides = given.get("strides") or choose_strides(patch, self.spacing_mm, levels)
        planned = {
            "channels": list(choose_channels(len(strides) + 1, self.reach.first, self.reach.most)),
            "strides": [list(step) for step in strides],
            "kernels": [list(kernel) for kernel in choose_kernels(self.spacing_mm, strides)],
        }
        return {key: value for key, value in planned.items() if key in known} | given
