"""What a kind of device computes in a reasonable step."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What a kind of device computes in a reasonable step.

    Attributes:
        samples: Patches a step.
        voxels: Of one patch.
        most_samples: Where patches are smaller, this many of them at most.
        first: Features of a network's first level.
        most: Features of any level.
        pace: In words, for the reasons.
    """

    samples: int
    voxels: int
    most_samples: int
    first: int
    most: int
    pace: str


# By CUDA or not, and by dimensions. The CPU's is what two cores with bfloat16 take about half a second for.
REACH = {
    (False, 3): Reach(samples=4, voxels=64**3, most_samples=4, first=16, most=256, pace="a CPU's reach"),
    (False, 2): Reach(samples=16, voxels=256**2, most_samples=16, first=16, most=256, pace="a CPU's reach"),
    (True, 3): Reach(samples=4, voxels=128**3, most_samples=16, first=32, most=320, pace="a GPU's reach"),
    (True, 2): Reach(samples=16, voxels=512**2, most_samples=32, first=32, most=512, pace="a GPU's reach"),
}
# On a CPU, of slices of volumes: small patches leave time for many steps.
SLICES = Reach(samples=16, voxels=64**2, most_samples=16, first=16, most=256, pace="a CPU's reach")
