"""Which weights of one network another one can begin with: by name, shape, and what their rows stand for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.networks import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pipeline.planning.settings import Settings
    from pipeline.types import Task

# Of the target's positions along an axis, those that stand for something that the model has too, each with the place
# where the model has it.
Shared = dict[int, int]


@dataclass(frozen=True)
class Axes:
    """Along which axes of a weight its rows stand for labels, and along which for channels of the image."""

    labels: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """The weights that a network begins with.

    Attributes:
        weights: All of them, by name.
        whole: The names of those taken whole. Here and below, a weight that layers share is named once.
        partly: The names of those taken for some labels.
        new: The names of those that stay as they were drawn.
        left: The names of the other network's that fit nowhere.
    """

    weights: dict[str, Tensor]
    whole: tuple[str, ...]
    partly: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def is_nothing(self) -> bool:
        """Whether no weight of more than one axis was taken: others are alike in many networks."""
        return all(self.weights[name].ndim < 2 for name in (*self.whole, *self.partly))


def axes_of(settings: Settings, task: Task) -> dict[str, Axes]:
    """Find what the rows of each weight of a network stand for: its shape changes with the number of them.

    Args:
        settings: Of the network; of an ensemble, those of one member are returned.
        task: Its labels and channels.
    """
    labels = len(task.outputs)
    channels = len(task.channels)
    own = _shapes(settings, labels, channels)
    more_labels = _shapes(settings, labels + 1, channels)
    more_channels = _shapes(settings, labels, channels + 1)
    return {name: Axes(_unlike(own[name], more_labels[name]), _unlike(own[name], more_channels[name])) for name in own}


def _shapes(settings: Settings, labels: int, channels: int) -> dict[str, tuple[int, ...]]:
    network = NETWORKS.build(
        settings.network.name,
        settings.network.options,
        spatial_dims=settings.data.dimensions,
        in_channels=channels,
        out_channels=labels,
    )
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def _unlike(shape: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis, (one, two) in enumerate(zip(shape, other, strict=True)) if one != two)


def shared_labels(task: Task, model: Task) -> Shared:
    """Return the classes that a model has under the same name; background is background whatever it is called.

    A name that stands for several labels stands for none. Regions and classes share nothing.

    >>> from pipeline.types import Task
    >>> shared_labels(Task({0: "background", 1: "liver", 2: "tumour"}, ()), Task({0: "air", 4: "tumour"}, ()))
    {0: 0, 2: 1}
    """
    if bool(task.regions) != bool(model.regions):
        return {}
    return _by_name(*([0 if value == 0 else each.labels[value] for value in each.outputs] for each in (task, model)))


def shared_channels(task: Task, model: Task) -> Shared:
    """Return the channels of a model of as many: by name where the names are the same ones, else in their order.

    Of a model with another number of channels there are none.
    """
    if len(task.channels) != len(model.channels):
        return {}
    if set(task.channels) == set(model.channels) and len(set(task.channels)) == len(task.channels):
        return _by_name(task.channels, model.channels)
    return {n: n for n in range(len(task.channels))}


def _by_name(names: Sequence[str | int], others: Sequence[str | int]) -> Shared:
    unique = {name for each in (names, others) for name, count in Counter(each).items() if count > 1}
    return {n: others.index(name) for n, name in enumerate(names) if name in others and name not in unique}


def transfer(
    drawn: Mapping[str, Tensor], held: Mapping[str, Tensor], axes: Mapping[str, Axes], tasks: tuple[Task, Task]
) -> Transfer:
    """Return the weights of a network in which those of another are taken where name and shape fit.

    Args:
        drawn: The network's own, by name.
        held: The other's.
        axes: What the rows of the network's weights stand for.
        tasks: What the network is to predict, and what the other one predicts.
    """
    labels = shared_labels(*tasks)
    channels = shared_channels(*tasks)
    counts = (len(tasks[1].outputs), len(tasks[1].channels))
    found: dict[str, list[str]] = {"whole": [], "partly": [], "new": []}
    told = set[int]()
    weights = {}
    for name, own in drawn.items():
        places = _places(own, held.get(name), axes[name], (labels, channels), counts)
        kind = "new"
        if places is not None:
            kind = (
                "whole" if all(len(along) == size for along, size in zip(places, own.shape, strict=True)) else "partly"
            )
        weights[name] = own if places is None else _filled(own, held[name], places)
        if own.data_ptr() not in told:  # Some networks have a weight under several names.
            found[kind].append(name)
        told.add(own.data_ptr())
    left = tuple(name for name in held if name not in drawn)
    names = {kind: tuple(each) for kind, each in found.items()}
    return Transfer(weights=weights, left=left, **names)


def _places(
    own: Tensor, other: Tensor | None, axes: Axes, shared: tuple[Shared, Shared], counts: tuple[int, int]
) -> list[Shared] | None:
    """Return which positions along each axis of a weight are taken, and from where; None where nothing fits."""
    if other is None or own.ndim != other.ndim or own.dtype != other.dtype:
        return None
    places = []
    for axis, (size, others) in enumerate(zip(own.shape, other.shape, strict=True)):
        along = {n: n for n in range(size)}
        expected = size
        for kind, meant in enumerate((axes.labels, axes.channels)):
            if axis in meant:
                along = shared[kind]
                expected = counts[kind]
        if others != expected or not along:
            return None
        places.append(along)
    return places


def _filled(own: Tensor, other: Tensor, places: Sequence[Shared]) -> Tensor:
    """Return a weight with some positions along each axis from another; of a weight without axes, the other."""
    if not places:
        return other.clone()
    to = torch.meshgrid(*(torch.tensor(list(along.keys())) for along in places), indexing="ij")
    where = torch.meshgrid(*(torch.tensor(list(along.values())) for along in places), indexing="ij")
    result = own.clone()
    result[to] = other[where].to(own.device)
    return result
