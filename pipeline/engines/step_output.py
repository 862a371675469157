"""The numbers of a training step, which a CUDA device may still be computing."""

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
    """The numbers of a step by name, ``loss`` first; empty before the first numbers are known.

    Args:
        step: The step, counted from 1; 0 if there is none yet.
        numbers: The numbers, by name.
    """

    def __init__(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        super().__init__(numbers or {})
        self.step = step


class PendingOutput:
    """Collects the numbers of a step, and refuses those that are not finite.

    On a CPU numbers are checked as they are added. A CUDA device would be idle while the host waits for a number, so
    its numbers are copied together without waiting, and checked when they are read.

    Args:
        step: The step, counted from 1.
        batches: The batches of the step, whose cases an error names.
        device: The device that computes the numbers.
        precision: Type of the network's arithmetic.

    Attributes:
        late: Whether numbers are checked only when they are read.
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
        """Add a number of the step.

        Args:
            number: The number.
            name: Its name in the output, in which numbers of one name are added up; "" leaves it out.
            share: Its factor in that sum.
            finite: Refuse NaN and infinity: the beginning of a sentence that ends in "not finite". "" allows them.

        Raises:
            UserError: The number is not finite; on CUDA, :meth:`read` raises this.
        """
        self._numbers.append(number.detach())
        self._about.append((name, share, finite))
        if not self.late and finite and not math.isfinite(self._numbers[-1]):
            self.read()

    def send(self) -> None:
        """Start copying the numbers to the host, without waiting for them."""
        if self._numbers:
            self._sent = torch.stack([number.float() for number in self._numbers]).to("cpu", non_blocking=True)
            if self.device.type == "cuda":
                self._event = torch.Event(self.device)
                self._event.record()

    def is_there(self) -> bool:
        """Tell whether the device has finished the step; True on a CPU."""
        return self._event is None or self._event.query()

    def read(self) -> StepOutput:
        """Wait for the numbers and return them.

        Raises:
            UserError: A number that has to be finite is not.
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
        values = {name: value for name, value in output.items() if name != "loss"}
        terms = ", ".join(f"{name} {value:g}" for name, value in values.items())
        message = f"{what} not finite at step {self.step} ({terms}); cases of this step: {', '.join(self.cases)}"
        ways = []
        odd = [name for name, value in values.items() if not math.isfinite(value)]
        if odd and len(odd) < len(values):
            ways.append(f"look at {', '.join(odd)}, since the other terms are finite")
        elif self.step == 1:
            ways.append("look at the losses, the network and these cases, since no update came before")
        if self.step > 1:
            ways.append("lower optimizer.learning_rate")
        if self.precision != torch.float32:
            ways.append("use precision=float32")
        remedy = f"{'; or '.join(ways)}; checkpoints saved before are kept"
        return UserError("Training stopped.", [Problem("objective", "diverged", message, remedy)])
