"""What a run has to live with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The device that a run will use.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        bfloat16: Whether it multiplies bfloat16 natively.
        cores: Processor cores for preparing batches.
        memory_bytes: Of the device, or of the machine for the CPU; None where it is not known.
        float32_is_faster: Whether float32 was timed to be faster than the device's own bfloat16.
        machine_bytes: Memory of the machine that the device is in; None where it is not known.
        processes: Processes that train together.
    """

    device: str
    bfloat16: bool
    cores: int
    memory_bytes: int | None = None
    float32_is_faster: bool = False
    machine_bytes: int | None = None
    processes: int = 1

    @property
    def is_cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.startswith("cuda")

    @property
    def precisions(self) -> tuple[str, ...]:
        """What it computes natively."""
        return ("float32", *(["bfloat16"] if self.bfloat16 else []), *(["float16"] if self.is_cuda else []))

    @property
    def budget_bytes(self) -> int | None:
        """What a training step may take: half of a machine that does other things too, and most of a GPU.

        >>> Hardware(device="cpu", bfloat16=True, cores=4, memory_bytes=8 * 2**30).budget_bytes / 2**30
        4.0
        """
        if self.memory_bytes is None:
            return None
        # A CUDA context and the workspaces of its libraries take about a gigabyte.
        if self.is_cuda:
            return max(0, int(0.85 * self.memory_bytes) - 2**30)
        return self.memory_bytes // 2
