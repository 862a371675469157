"""The estimate of a training step's memory against what a process really takes."""

import multiprocessing
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.losses import BalancedCELoss, DiceLoss
from pipeline.losses.base import levels_of
from pipeline.networks import NETWORKS, recompute_blocks
from pipeline.planning.memory import training_bytes

# The estimate is within this factor of what is measured, either way; where features are computed again, it is too high.
FACTOR, FACTOR_AGAIN = 1.6, 1.75

CASES = [
    ["dynunet", {"channels": [16, 32, 64, 128], "deep_supervision": False}, [40, 56, 40], 4, "float32", False],
    ["dynunet", {"channels": [16, 32, 64, 128], "deep_supervision": False}, [40, 56, 40], 8, "float32", True],
    ["unet", {"channels": [16, 32, 64, 128]}, [48, 48, 48], 4, "bfloat16", False],
    ["unet", {"channels": [16, 32, 64, 128]}, [48, 48, 48], 8, "float32", True],
    ["dynunet", {"channels": [16, 32, 64, 128]}, [256, 256], 6, "bfloat16", False],
]


def peak_bytes():
    """The most that this process has held. (``ru_maxrss`` would count its parent's, where that was larger.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measure(case, answers):
    """Take two training steps, and tell what was estimated and by how much the process has grown."""
    name, options, patch, samples, precision, recompute = case

    def build():
        return NETWORKS.build(name, options, spatial_dims=len(patch), in_channels=1, out_channels=3)

    shape, arithmetic = (samples, 1, *patch), getattr(torch, precision)
    estimated = training_bytes(build, shape, 3, arithmetic, recompute=recompute)
    network, losses = build(), (DiceLoss(), BalancedCELoss())
    if recompute:
        recompute_blocks(network)
    optimizer = torch.optim.AdamW(network.parameters())
    before = peak_bytes()
    images, labels = torch.randn(samples, 1, *patch), torch.randint(0, 3, (samples, 1, *patch))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            levels = levels_of(network(images))
            shrunk = [interpolate(labels.float(), level.shape[2:]).long() for level in levels]
            total = sum(loss(*pair) for pair in zip(levels, shrunk, strict=True) for loss in losses)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
    answers.put((estimated, peak_bytes() - before))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{len(case[2])}d-{case[4]}{'-again' * case[5]}")
def test_estimate_is_near_what_a_step_takes(case):
    # A fork would take the memory that this process has freed before it asked for more.
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=measure, args=(case, answers))
    process.start()
    estimated, measured = answers.get()
    process.join(60)
    assert measured > 5e7, "too small to be told from noise"
    assert 1 / FACTOR < estimated / measured < (FACTOR_AGAIN if case[-1] else FACTOR)
