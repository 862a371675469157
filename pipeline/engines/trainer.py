"""The trainer: MONAI's, run for a number of steps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ignite.engine import Events
from monai.engines import Trainer
from monai.engines.workflow import Workflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from ignite.engine import Engine

    from pipeline.pacing.course import Course


class SegmentationTrainer(Trainer):
    """Runs steps until the last one of its course; any MONAI or Ignite handler can be attached.

    ``state.output`` is what the step returned: a dictionary of floats with the key ``loss``, and an attribute ``step``.
    An epoch is one pass over the labelled cases; the last one may be cut short.

    Args:
        step: The process function.
        loader: Yields batches, beginning with those of the first step that is not done.
        course: Steps of the whole training, which may be corrected while it runs.
        epoch_length: Steps of one pass over the labelled cases.
        device: The network's device.
        handlers: Objects with ``attach(engine)``.
        done: Steps that a resumed run has done.
    """

    def __init__(
        self,
        *,
        step: Callable[[Engine, Any], Any],
        loader: Iterable[Any],
        course: Course,
        epoch_length: int,
        device: torch.device,
        handlers: Sequence[Any] = (),
        done: int = 0,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=sys.maxsize,
            data_loader=loader,
            epoch_length=epoch_length,
            iteration_update=step,
            decollate=False,
        )
        self.state.iteration = done
        self.state.epoch = done // epoch_length
        self._init_iter = done % epoch_length
        # Added before the handlers, which still run at the last step: Ignite stops after all handlers of an event.
        self.add_event_handler(
            Events.ITERATION_COMPLETED(event_filter=lambda _, i: i >= course.last), lambda: self.terminate()
        )
        self._register_handlers(handlers)

    def run(self) -> None:
        """Train. MONAI's own ``run`` would make a gradient scaler for CUDA; here the step has one."""
        Workflow.run(self)
