"""What a step of training has come to: numbers that a CUDA device may still be computing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pipeline.losses.objective import Batch


class StepOutput(dict[str, float]):
    """The numbers of a step by name, ``loss`` first; empty where none are there yet.

    Args:
        step: The step that they are of, counted from 1.
        numbers: By name.
    """

    def __init__(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        super().__init__(numbers or {})
        self.step = step


class PendingOutput:
    """Collects the numbers of a step, and refuses those that are not finite.

    On a CPU they are looked at as they come. A CUDA device would have nothing to do while the host looked: its numbers
    are sent together, and looked at when somebody reads them.

    Args:
        step: The step, counted from 1.
        batches: What it learns from.
        device: Where its numbers are.
        precision: Type of the network's arithmetic.

    Attributes:
        late: Whether numbers are looked at only when they are read.
    """

    def __init__(self, step: int, batches: Mapping[str, Batch], device: torch.device, precision: torch.dtype) -> None:
        self.step = step
        self.device = device
        self.precision = precision
        self.late = device.type == "cuda"
        self.cases = sorted({case for batch in batches.values() for case in batch["case"]})
        self._numbers: list[Tensor] = []
        self._about: list[tuple[str, float, str]] = []
        self._sent: Tensor | None = None
        self._event: torch.Event | None = None

    def add(self, number: Tensor, *, name: str = "", share: float = 1.0, finite: str = "") -> None:
        """Take in a number.

        Args:
            number: The number.
            name: Under which it is told, with a share, added to others of that name; none tells nothing of it.
            share: Its factor there.
            finite: What is said, up to "not finite", where it is NaN or infinite; nothing allows that.

        Raises:
            UserError: It is not finite, as is seen at once on a CPU.
        """
        self._numbers.append(number.detach())
        self._about.append((name, share, finite))
        if not self.late and finite and not math.isfinite(self._numbers[-1]):
            self.read()

    def send(self) -> None:
        """Have the numbers brought to the host, without waiting for them."""
        if self._numbers:
            self._sent = torch.stack([number.float() for number in self._numbers]).to("cpu", non_blocking=True)
            if self.device.type == "cuda":
                self._event = torch.Event(self.device)
                self._event.record()

    def is_there(self) -> bool:
        """Tell whether the device is done with the step."""
        return self._event is None or self._event.query()

    def read(self) -> StepOutput:
        """Return the numbers, once they are there.

        Raises:
            UserError: One that has to be finite is not.
        """
        if self._event is not None:
            self._event.synchronize()
        numbers = list(map(float, self._numbers)) if self._sent is None else self._sent.tolist()
        output = StepOutput(self.step, {"loss": 0.0})
        for (name, share, _), number in zip(self._about, numbers, strict=True):
            if name:
                output[name] = output.get(name, 0.0) + share * number
        for (_, _, finite), number in zip(self._about, numbers, strict=True):
            if finite and not math.isfinite(number):
                raise self._diverged(finite, output)
        return output

    def _diverged(self, what: str, output: StepOutput) -> UserError:
        terms = ", ".join(f"{name} {value:g}" for name, value in output.items() if name != "loss")
        message = f"{what} not finite at step {self.step} ({terms}); cases of this step: {', '.join(self.cases)}"
        wider = "" if self.precision == torch.float32 else ", or use precision=float32"
        remedy = f"lower optimizer.learning_rate{wider}; the last checkpoint is kept"
        return UserError("Training stopped.", [Problem("objective", "diverged", message, remedy)])
