"""A step in units: parts of a batch that go through the networks by themselves, so that processes can share them out.

The values that terms look at are computed unit by unit, each by one process, and then come together in all of them. So
every process computes the objective of the whole batch: whatever a loss counts or pools over a batch is known before
the backward pass. What all share of that pass stops at these values; from there each process goes back through its own
units. The gradients of the units are added up along one binary tree, by whichever process. So the sum, and with it the
weights, depend on the number of units, and not on the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from pipeline import distributed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from pipeline.engines.values import StreamValues
    from pipeline.losses.objective import Batch, Objective

# Gradients by the number of their parameter.
Gradients = dict[int, "Tensor"]
# The shape and the type of a value, and whether it has a gradient.
Kind = tuple[tuple[int, ...], torch.dtype, bool]
# Tensors begin at multiples of so many bytes, as views of any type need.
ALIGNED = 16


def units_of(number: int, units: int) -> range:
    """Return which of so many units are a process's: all, with one process; none, if there are too few.

    >>> units_of(0, 3)
    range(0, 3)
    """
    return range(number * units // distributed.size(), (number + 1) * units // distributed.size())


def own_units(units: int) -> range:
    """Return which of so many units are this process's."""
    return units_of(distributed.rank(), units)


def own_slots(batch_size: int, parts: int, units: int) -> list[int]:
    """Return the slots of a batch that this process prepares: those of its units, in each part of the batch.

    >>> own_slots(8, 2, 2)
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    samples = batch_size // (parts * units)
    mine = own_units(units) if units > 1 else range(1)  # One unit is not shared: each process computes it.
    own = range(mine.start * samples, mine.stop * samples)
    return [part * units * samples + slot for part in range(parts) for slot in own]


@dataclass(kw_only=True)
class UnitPass:
    """The passes of one batch, or of one part of it, in units.

    Attributes:
        units: The number of units, of which each stream's samples are a multiple.
        parameters: All that are trained.
        device: The networks' device.
        seeds: Numbers that the random numbers of this pass come from, as its step.
        load: Returns the values of the streams of one unit's batch.
    """

    units: int
    parameters: Sequence[nn.Parameter]
    device: torch.device
    seeds: tuple[int, ...]
    load: Callable[[dict[str, Batch]], Mapping[str, StreamValues]]
    _values: list[list[Tensor]] = field(default_factory=list, init=False)
    _leaves: list[Tensor] = field(default_factory=list, init=False)

    def forward(
        self, objective: Objective, batches: Mapping[str, Batch], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return an objective's total and the values of its terms, of all units of all processes.

        Args:
            objective: The terms.
            batches: This process's part of the batch of each stream.
            progress: Share of the training that is done, 0 to 1.
        """
        needed = objective.needed(batches, progress)
        mine = own_units(self.units)
        names: list[tuple[str, str, int | None]] = []
        for place, unit in enumerate(mine):
            self._seed(1 + unit)
            streams = self.load(cut(batches, place, len(mine)))
            found = [(kind, name, streams[kind][name]) for kind, name in needed]
            names = [(kind, name, len(value) if isinstance(value, tuple) else None) for kind, name, value in found]
            self._values.append(_flat([value for *_, value in found]))
        kinds = [(tuple(value.shape), value.dtype, value.requires_grad) for unit in self._values[:1] for value in unit]
        # A process without a unit learns from the others what there is.
        with distributed.exchanging():
            names, kinds = next((told for told in distributed.agree((names, kinds)) if told[0]), ([], []))
            self._leaves = _brought_together(self._values, kinds, self.units, self.device)
        self._seed(0)
        return objective(_built(names, self._leaves), progress)

    def backward(self, total: Tensor) -> Gradients:
        """Return the gradients of a total, of all units of all processes; a parameter without one has none."""
        total.backward()  # type: ignore[no-untyped-call]
        mine = own_units(self.units)
        found = {
            (first, last): self._summed(first, last, mine.start)
            for first, last in branches(0, self.units, mine.start, mine.stop)
        }
        with distributed.exchanging():
            return _added_up(found, self.units, self.parameters)

    def _summed(self, first: int, last: int, start: int) -> Gradients:
        """Return the sum of the gradients of units, from ``first`` to before ``last``."""
        if last - first == 1:
            return self._gradients_of(first - start)
        middle = (first + last) // 2
        return added(self._summed(first, middle, start), self._summed(middle, last, start))

    def _gradients_of(self, place: int) -> Gradients:
        """Go back from the values of one of this process's units to the weights, and let go of the values."""
        values = self._values[place]
        self._values[place] = []
        unit = own_units(self.units)[place]
        judged = []
        slopes = []
        for value, leaf in zip(values, self._leaves, strict=True):
            if leaf.grad is not None:
                judged.append(value)
                slopes.append(leaf.grad[unit * len(value) : (unit + 1) * len(value)])
        torch.autograd.backward(judged, slopes)
        # In one layout, as what another process sends: sums over a tensor follow the order of its memory.
        found = {n: each.grad.contiguous() for n, each in enumerate(self.parameters) if each.grad is not None}
        for parameter in self.parameters:
            parameter.grad = None
        return found

    def _seed(self, number: int) -> None:
        torch.manual_seed(seed_of(*self.seeds, number))


def seed_of(*numbers: int) -> int:
    """Mix numbers into 32 bits, since PyTorch's generator on the CPU uses no more of a seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def branches(first: int, last: int, start: int, stop: int) -> list[tuple[int, int]]:
    """Return the largest branches of the tree over units that some of them make whole.

    The tree's root is all units, from ``first`` to before ``last``, and each branch has two halves.

    >>> branches(0, 8, 0, 4), branches(0, 6, 2, 4), branches(0, 3, 3, 3)
    ([(0, 4)], [(2, 3), (3, 4)], [])
    """
    if stop <= first or last <= start or start == stop:
        return []
    if start <= first and last <= stop:
        return [(first, last)]
    middle = (first + last) // 2
    return [*branches(first, middle, start, stop), *branches(middle, last, start, stop)]


def cut(batches: Mapping[str, Batch], place: int, count: int) -> dict[str, Batch]:
    """Return one of ``count`` equal parts of the batch of each stream."""
    return {
        kind: {
            key: values[place * len(values) // count : (place + 1) * len(values) // count]
            for key, values in batch.items()
        }
        for kind, batch in batches.items()
    }


def _flat(values: Sequence[Any]) -> list[Tensor]:
    return [level for value in values for level in (value if isinstance(value, tuple) else (value,))]


def _built(shape: Sequence[tuple[str, str, int | None]], tensors: Sequence[Tensor]) -> dict[str, dict[str, Any]]:
    """Put flat tensors back under the names of their streams and values, several levels as a tuple."""
    rest = iter(tensors)
    streams: dict[str, dict[str, Any]] = {}
    for kind, name, levels in shape:
        value: Any = next(rest) if levels is None else tuple(next(rest) for _ in range(levels))
        streams.setdefault(kind, {})[name] = value
    return streams


def _brought_together(
    values: Sequence[Sequence[Tensor]], kinds: Sequence[Kind], units: int, device: torch.device
) -> list[Tensor]:
    """Return each value of all units, those of other processes too, in the order of the units.

    A value with a gradient becomes a tensor whose gradient is that of the whole objective.
    """
    every = [[value.detach() for value in unit] for unit in values]
    if distributed.size() > 1:
        every = _exchanged(every, kinds, units, device)
    joined = [torch.cat([unit[n] for unit in every]).contiguous() for n in range(len(kinds))]
    return [each.requires_grad_(learns) for each, (*_, learns) in zip(joined, kinds, strict=True)]


def _exchanged(
    values: Sequence[Sequence[Tensor]], kinds: Sequence[Kind], units: int, device: torch.device
) -> list[list[Tensor]]:
    """Return the values of every unit, given those of this process; as bytes, which every backend takes."""
    sizes = [_bytes(shape, kind) for shape, kind, _ in kinds]
    starts = np.cumsum([0, *(-(-size // ALIGNED) * ALIGNED for size in sizes)]).tolist()
    counts = [len(units_of(number, units)) for number in range(distributed.size())]
    own = torch.zeros((max(counts), starts[-1]), dtype=torch.uint8, device=device)
    for row, unit in zip(own, values, strict=False):
        for start, size, value in zip(starts, sizes, unit, strict=False):
            row[start : start + size] = value.contiguous().view(-1).view(torch.uint8)
    received = [torch.empty_like(own) for _ in counts]
    dist.all_gather(received, own, group=distributed.group_of(device))
    return [
        [
            row[start : start + _bytes(*kind[:2])].view(kind[1]).view(kind[0])
            for start, kind in zip(starts, kinds, strict=False)
        ]
        for count, rows in zip(counts, received, strict=True)
        for row in rows[:count]
    ]


def _bytes(shape: tuple[int, ...], kind: torch.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * kind.itemsize


def added(one: Gradients, other: Gradients) -> Gradients:
    """Return the sum of gradients, in place of the first where both have one."""
    both = sorted(one.keys() & other.keys())
    if both:
        torch._foreach_add_([one[n] for n in both], [other[n] for n in both])
    return {**other, **one}


def _added_up(found: dict[tuple[int, int], Gradients], units: int, parameters: Sequence[nn.Parameter]) -> Gradients:
    """Add the branches of all processes up to the root of the tree."""
    told = distributed.agree({branch: sorted(part) for branch, part in found.items()})
    present = sorted({n for every in told for numbers in every.values() for n in numbers})
    if not present:
        return {}
    trained = [parameters[n] for n in present]
    kind = reduce(torch.promote_types, [each.dtype for each in trained])
    vectors = [
        torch.cat([part.get(n, torch.zeros_like(parameters[n])).reshape(-1).to(kind) for n in present])
        for part in found.values()
    ]
    of_all = [branch for every in told for branch in every]
    if distributed.size() == 1:
        whole = _root(0, units, dict(zip(of_all, vectors, strict=True)))
    else:
        empty = torch.empty((len(vectors), sum(each.numel() for each in trained)), dtype=kind, device=trained[0].device)
        own = torch.stack(vectors, out=empty) if vectors else empty
        whole = _reduced(own, of_all, [len(every) for every in told], units)
    pieces = torch.split(whole, [each.numel() for each in trained])
    return {n: piece.view(own.shape).to(own.dtype) for n, piece, own in zip(present, pieces, trained, strict=True)}


def _reduced(own: Tensor, of_all: Sequence[tuple[int, int]], counts: Sequence[int], units: int) -> Tensor:
    """Return the sum of the branches of all processes.

    Each process adds up one piece, for which it receives that piece of every branch; then the pieces come together. So
    it receives hardly more than twice the size of the gradients, however many processes there are.

    Args:
        own: The branches of this process, ``[branches, length]``.
        of_all: The branches of all processes, in their order.
        counts: How many of them each process has.
        units: The number of units.
    """
    processes = distributed.size()
    group = distributed.group_of(own.device)
    length = own.shape[1]
    piece = -(-length // processes)
    sent = torch.nn.functional.pad(own, (0, processes * piece - length)).view(len(own), processes, piece)
    received = own.new_empty(sum(counts) * piece)
    whole = own.new_empty(processes, piece)
    dist.all_to_all_single(
        received,
        sent.transpose(0, 1).reshape(-1),
        output_split_sizes=[count * piece for count in counts],
        input_split_sizes=[len(own) * piece] * processes,
        group=group,
    )
    summed = _root(0, units, dict(zip(of_all, received.view(-1, piece), strict=True)))
    dist.all_gather(list(whole), summed.contiguous(), group=group)
    return whole.view(-1)[:length]


def _root(first: int, last: int, known: Mapping[tuple[int, int], Tensor]) -> Tensor:
    """Return the sum of a branch from those that are known."""
    if (first, last) in known:
        return known[first, last]
    middle = (first + last) // 2
    return _root(first, middle, known) + _root(middle, last, known)
