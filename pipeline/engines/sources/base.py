"""What a source is, and the two that a network is by itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pipeline.engines.ensemble import DeepEnsemble
from pipeline.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from pipeline.engines.values import StreamValues

# What the program gives to the constructor of every source.
GIVEN = frozenset({"student", "new_network"})
SOURCES = Registry(
    "source", "What an objective can judge and compare with, beside image, mask, label and logits.", GIVEN
)


class Source(ABC):
    """Provides values of a stream's batch, under names, when a term first needs one of them.

    Whatever a source draws at random comes from PyTorch's generators, which are seeded at every step; whatever it keeps
    from step to step is in its state. So a run that is stopped and resumed stays the same to the bit.

    ``provides`` names its values. ``needs`` names those that it looks at and that are not always there: other sources'
    values, and views of a sample: ``plain_image``, with the scan's own intensities, and ``other_image``, with them
    changed by other random numbers; both show each voxel where ``image`` does. ``other_streams`` names the streams that
    it looks at beside its own.

    Args:
        student: The network that is trained.
        new_network: Returns another network of the same kind, with weights drawn from the run's seed and the number
            that it is given.
    """

    provides: tuple[str, ...]
    needs: tuple[str, ...] = ()
    other_streams: tuple[str, ...] = ()

    def __init__(self, student: nn.Module, new_network: Callable[[int], nn.Module] | None = None) -> None:
        self.student: Any = student
        self.new_network = new_network

    @abstractmethod
    def __call__(self, known: StreamValues) -> dict[str, Any]:
        """Return all values that it provides.

        Args:
            known: What is known of the stream's batch: its tensors, other sources' values, and other streams.
        """

    @property
    def network(self) -> nn.Module | None:
        """A network of its own that is trained with the student; None where it has none."""
        return None

    def begin_step(self, step: int) -> None:  # noqa: B027 - most need none
        """Prepare for a step, counted from 1."""

    def after_update(self, step: int) -> None:  # noqa: B027 - most need none
        """Follow the weights that a step has led to."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that its next values depend on, tensors and plain numbers; by default of its network."""
        if self.network is None:
            return {}
        return {"network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if self.network is not None:
            self.network.load_state_dict(state["network"])


class Student(Source):
    """The trained network's ``logits``: under deep supervision one a level, of an ensemble its member's in turn."""

    provides = ("logits",)

    def __call__(self, known: StreamValues) -> dict[str, Any]:
        """Return the logits of the batch's image."""
        return {"logits": self.student(known["image"])}

    def begin_step(self, step: int) -> None:
        """Let the member learn whose turn it is."""
        if isinstance(self.student, DeepEnsemble):
            self.student.turn = step


class Decoder(Source):
    """The ``reconstruction`` that a network with a decoder makes of its logits."""

    provides = ("reconstruction",)

    def __call__(self, known: StreamValues) -> dict[str, Any]:
        """Return the image that the logits tell."""
        return {"reconstruction": self.student.reconstruct(known["logits"])}


def own_sources(student: nn.Module) -> tuple[Source, ...]:
    """Return the sources that a network is by itself."""
    one = student.members[0] if isinstance(student, DeepEnsemble) else student
    return (Student(student), *([Decoder(student)] if hasattr(one, "reconstruct") else []))
