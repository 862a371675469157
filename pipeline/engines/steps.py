"""One step of training: a labelled and perhaps an unlabelled batch in, an update of the weights out."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from pipeline.data.annotation import decode
from pipeline.engines.sources import own_sources
from pipeline.engines.step_output import PendingOutput, StepOutput
from pipeline.engines.units import UnitPass, added, cut, seed_of
from pipeline.engines.values import StreamValues
from pipeline.interruption import window
from pipeline.losses.objective import nothing_learnt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ignite.engine import Engine
    from torch import Tensor, nn

    from pipeline.engines.averaging import WeightAverage
    from pipeline.engines.schedules import Schedule
    from pipeline.engines.sources import Source
    from pipeline.engines.units import Gradients
    from pipeline.losses.objective import Batch, Objective
    from pipeline.pacing.course import Course

# With a scale that stays 1, PyTorch's scaler only skips updates that are not finite, and the host need not wait.
UNSCALED = {"init_scale": 1.0, "growth_interval": 2**31 - 1}


@dataclass(kw_only=True)
class TrainingStep:
    """An Ignite process function: forward, objective, backward, update.

    An update depends only on this object's state, the number of the step and the batch, so these resume a run.

    The host never waits for a CUDA device: it prepares and launches a step while the device computes the one before,
    and only then reads the numbers of that one.

    Attributes:
        network: The network, trained in place; of an ensemble, one member in each step.
        objective: The terms that it is trained on.
        optimizer: Updates the parameters of all networks in ``trained``.
        schedule: The learning rate.
        course: The share of the training that is done at a step.
        precision: Type of the network's arithmetic; float32 switches autocast off.
        clip_norm: Largest norm of the gradient.
        seed: Seeds PyTorch's generators in every step, for dropout and the like.
        alternate: Whether each term of the objective has a forward pass and an update of its own, in their order, as
            in the training of W-Net; else one update follows from their sum. Weights without a gradient do not change.
        average: The average of the weights, updated after every step; None for none.
        accumulate: Number of parts in which a batch goes through the network, with gradients added up. It saves memory;
            the step is the same unless a loss or a layer mixes the samples of a batch. It divides every batch size.
        units: Number of units in which each part goes through the networks; see :mod:`pipeline.engines.units`. It
            divides the parts of every batch.
        sources: The recipe's sources of values that terms need.
    """

    network: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    course: Course
    precision: torch.dtype
    clip_norm: float
    seed: int
    alternate: bool = False
    average: WeightAverage | None = None
    accumulate: int = 1
    units: int = 1
    sources: tuple[Source, ...] = ()
    scaler: torch.amp.GradScaler = field(init=False)
    _under_way: PendingOutput | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self._every = (*own_sources(self.network), *self.sources)
        self._providers = {name: source for source in self._every for name in source.provides}
        # float16 alone underflows without scaling; on a CPU the scaler of any other type passes values through.
        scaled = self.precision == torch.float16
        options: dict[str, Any] = {} if scaled else UNSCALED
        enabled = scaled or self._device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=enabled, **options)

    @property
    def validated(self) -> nn.Module:
        """The network that is validated and predicts: the average, or without one the network itself."""
        if self.average:
            return self.average.network
        return self.network

    @property
    def trained(self) -> tuple[nn.Module, ...]:
        """Every network whose weights an update changes: the network, and those that sources have."""
        return (self.network, *(source.network for source in self.sources if source.network is not None))

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def __call__(self, engine: Engine, batches: dict[str, Batch]) -> StepOutput:
        """Update the weights.

        Returns:
            The total as ``loss``, and each term's own value by its name. On CUDA they are those of the step before, and
            empty at the first step.

        Raises:
            UserError: The total or its gradient is NaN or infinite, and the update is not made; or the update has made
                weights NaN or infinite. The error names the cases of the batch. On CUDA it is raised a step later.
        """
        step = engine.state.iteration
        progress = self.course.share_done(step - 1)
        torch.manual_seed(seed_of(self.seed, step))
        for group in self.optimizer.param_groups:
            # A warm-up that began at 0 would waste the first step.
            group["lr"] = self.schedule(max(progress, self.course.share_done(1)))
        for source in self._every:
            source.begin_step(step)
        for network in self.trained:
            network.train()
        pending = PendingOutput(step, batches, self._device, self.precision)
        for n, objective in enumerate(self.objective.by_term() if self.alternate else (self.objective,)):
            self._update(objective, batches, progress, pending, turn=n)
        for source in self._every:
            source.after_update(step)
        if self.average:
            self.average.update(self.network, step)
        if not pending.late:
            return pending.read()
        pending.send()
        output = self.settle()
        self._under_way = pending
        return output

    def settle(self) -> StepOutput:
        """Wait for the step that a CUDA device is computing, and return its numbers; empty if there is none.

        Raises:
            UserError: As for the step itself.
        """
        if self._under_way:
            return self._under_way.read()
        return StepOutput(0)

    @property
    def is_busy(self) -> bool:
        """Whether the device is still computing a step; False on a CPU."""
        return self._under_way is not None and not self._under_way.is_there()

    def _update(
        self, objective: Objective, batches: dict[str, Batch], progress: float, pending: PendingOutput, *, turn: int
    ) -> None:
        weights = [parameter for network in self.trained for parameter in network.parameters()]
        summed: Gradients = {}
        self.optimizer.zero_grad(set_to_none=True)
        # Before the first update nothing lasting has changed, so a signal may end even a step that takes minutes.
        with window() if turn == 0 else nullcontext(), _buffers_kept(self.trained):
            for n in range(self.accumulate):
                part = cut(batches, n, self.accumulate)
                if self.units == 1:
                    total, found = self.losses(objective, part, progress)
                else:
                    in_units = self._in_units(pending.step, turn, n)
                    total, found = in_units.forward(objective, part, progress)
                if not found:  # The weight of every term is still 0.
                    return
                if not total.requires_grad:
                    raise nothing_learnt(found)
                for name, value in found.items():
                    pending.add(value, name=name, share=1 / self.accumulate)
                pending.add(total, name="loss", share=1 / self.accumulate, finite="the loss or its gradient is")
                scaled = self.scaler.scale(total / self.accumulate)
                if self.units == 1:
                    scaled.backward()  # type: ignore[no-untyped-call]
                else:
                    summed = added(summed, in_units.backward(scaled))
        for n, gradient in summed.items():
            weights[n].grad = gradient
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(weights, self.clip_norm)
        # With one infinite gradient, clipping would make every weight NaN. Under float16 the scaler skips such a step.
        if self.precision != torch.float16:
            pending.add(norm, finite="the loss or its gradient is")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        pending.add(torch.nn.utils.get_total_norm(weights, torch.inf), finite="the weights are")

    def losses(
        self, objective: Objective, batches: dict[str, Batch], progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return an objective's total and the values of its terms; what no term needs is not computed.

        Args:
            objective: The terms.
            batches: The batch of each stream.
            progress: Share of the training that is done, 0 to 1.
        """
        return objective(self._streams(batches), progress)

    def _streams(self, batches: dict[str, Batch]) -> dict[str, StreamValues]:
        streams: dict[str, StreamValues] = {}
        for kind, batch in batches.items():
            load = partial(_prepare, batch, self._device)
            streams[kind] = StreamValues(load, self._providers, streams, self._computing)
        return streams

    def _in_units(self, *number: int) -> UnitPass:
        return UnitPass(
            units=self.units,
            parameters=[parameter for network in self.trained for parameter in network.parameters()],
            device=self._device,
            seeds=(self.seed, *number),
            load=self._streams,
        )

    def _computing(self) -> torch.autocast:
        return torch.autocast(self._device.type, self.precision, enabled=self.precision != torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on."""
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "scaler": {}}
        if self.precision == torch.float16:  # Other types are not scaled, and a run may be resumed on another device.
            state["scaler"] = self.scaler.state_dict()
        if self.sources:
            state["sources"] = {str(n): source.state_dict() for n, source in enumerate(self.sources)}
        if self.average:
            state["average"] = self.average.network.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._under_way = None
        self.network.load_state_dict(state["network"])
        # Only moments and the learning rate are restored: other settings are those of this recipe and this device.
        saved = state["optimizer"]
        own = self.optimizer.state_dict()["param_groups"]
        groups = [mine | {"lr": then["lr"]} for mine, then in zip(own, saved["param_groups"], strict=True)]
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
        if state["scaler"] and self.precision == torch.float16:
            self.scaler.load_state_dict(state["scaler"])
        for n, source in enumerate(self.sources):
            source.load_state_dict(state["sources"][str(n)])
        if self.average:
            self.average.network.load_state_dict(state["average"])


@contextmanager
def _buffers_kept(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Restore running statistics, which a forward pass changes, if the block is left by an exception."""
    before = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    try:
        yield
    except BaseException:
        for buffer, value in before:
            buffer.copy_(value)
        raise


def _prepare(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to the device; its annotation is decoded there, where labels take eight times as much memory."""
    tensors = {
        name: value.to(device, non_blocking=True) for name, value in batch.items() if isinstance(value, torch.Tensor)
    }
    label, mask = decode(tensors.pop("annotation"))
    return tensors | {"label": label, "mask": mask}
