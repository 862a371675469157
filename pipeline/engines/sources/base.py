"""The base class of sources, and the two sources that every network has: its logits, and its decoder's output."""

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


class Source(ABC):
    """Computes named values of a stream's batch, when a term first needs one of them.

    All random numbers of a source come from PyTorch's generators, which are seeded at every step, and all that it keeps
    from step to step is in its state. So a run that is stopped and resumed stays the same to the bit. Where a batch
    goes through the networks in units (``data.units``), it is called for each unit by itself, and what it provides has
    the same shape for all.

    ``provides`` names its values. ``needs`` names the values that it uses, as far as not every batch has them: those of
    other sources, and the views ``plain_image``, with the scan's own intensities, and ``other_image``, with intensities
    changed by other random numbers; in both each voxel is where it is in ``image``. ``other_streams`` names the streams
    that it uses beside its own. ``regions`` is set by the program: whether the channels of logits are regions, each
    with a sigmoid of its own. Labels that are predicted then have a channel a region.

    Args:
        student: The network that is trained.
        new_network: Returns another network of the same kind, with weights drawn from the run's seed and the number
            that it is given.
    """

    provides: tuple[str, ...]
    needs: tuple[str, ...] = ()
    other_streams: tuple[str, ...] = ()
    regions: bool = False

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
        """Follow the weights after a step's update, counted from 1."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that its next values depend on, as tensors and numbers; by default its network's state."""
        if self.network is None:
            return {}
        return {"network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        if self.network is not None:
            self.network.load_state_dict(state["network"])


SOURCES = Registry(
    name="source",
    description="What an objective can judge and compare with, beside image, mask, label and logits.",
    given=GIVEN,
    base=Source,
)


class Student(Source):
    """The trained network's ``logits``: a tuple of levels under deep supervision, and one member's for an ensemble."""

    provides = ("logits",)

    def __call__(self, known: StreamValues) -> dict[str, Any]:
        """Return the logits of the batch's image."""
        return {"logits": self.student(known["image"])}

    def begin_step(self, step: int) -> None:
        """Choose the member of an ensemble whose turn it is."""
        if isinstance(self.student, DeepEnsemble):
            self.student.turn = step


class Decoder(Source):
    """The ``reconstruction`` that a network with a decoder makes of its logits."""

    provides = ("reconstruction",)

    def __call__(self, known: StreamValues) -> dict[str, Any]:
        """Return the image that the decoder makes of the logits."""
        return {"reconstruction": self.student.reconstruct(known["logits"])}


def own_sources(student: nn.Module) -> tuple[Source, ...]:
    """Return the sources that a network has by itself: its logits, and a decoder's reconstruction if it has one."""
    one = student.members[0] if isinstance(student, DeepEnsemble) else student
    if hasattr(one, "reconstruct"):
        return (Student(student), Decoder(student))
    return (Student(student),)
