"""Every path to the pair sums against the dense oracle, and what only paths, windows and draws can get wrong."""

from __future__ import annotations

import importlib.util
import math
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from reference import ncut, ncut_gradient, softmax

import pipeline.losses.ncut
from pipeline.losses import NCutLoss, ncut_layout, ncut_llvm, ncut_pairs, ncut_torch, ncut_triton

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton: pip install triton")


CPU = [
    pytest.param("torch"),
    pytest.param("llvm", marks=pytest.mark.skipif(not ncut_llvm.available(), reason="needs llvmlite")),
]
TRITON = pytest.param("triton", marks=needs_triton)


@pytest.fixture
def path(request, monkeypatch):
    """The named path to the pair sums, which the loss then takes; Triton's in its interpreter."""
    function = getattr(ncut_pairs, f"{request.param}_pair_sums")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    ncut_triton._kernel.cache_clear()
    monkeypatch.setattr(pipeline.losses.ncut, "choose_pair_sums", lambda q: function)
    yield function
    ncut_triton._kernel.cache_clear()


on_every_path = pytest.mark.parametrize("path", [*CPU, TRITON], indirect=True)


def draw(size, classes=3, batch=2, channels=1, scale=2.0):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    image = torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)
    return logits, image, torch.rand(batch, 1, *size, generator=generator) < 0.8


CASES = [
    # size, classes, channels, radius, spacing
    ((9, 21), 3, 1, 5.0, None),
    ((1, 7), 2, 2, 4.0, None),
    ((40, 3), 4, 1, 3.0, (0.7, 1.6)),
    ((6, 5, 7), 4, 2, 2.9, (1.0, 3.0, 0.8)),
    ((4, 7, 18), 2, 1, 4.0, None),
    ((3, 2, 4), 5, 3, 9.0, None),
]


# The interpreter is slow: it sees a 2-D and a 3-D case.
AGREEMENT = [pytest.param(*path.values, case, marks=path.marks) for path in CPU for case in CASES]
AGREEMENT += [pytest.param("triton", case, marks=needs_triton) for case in (CASES[1], CASES[3])]


@pytest.mark.parametrize(("path", "case"), AGREEMENT, indirect=["path"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("scale", "tolerance"), [(2.0, 1e-5), (20.0, 5e-5)], ids=["soft", "saturated"])
def test_value_and_gradient_in_float32(path, case, masked, scale, tolerance):
    size, classes, channels, radius, spacing = case
    logits, image, mask = draw(size, classes, channels=channels, scale=scale)
    p, inside = softmax(logits.numpy()), (mask if masked else torch.ones_like(mask))[:, 0].numpy()
    space = {"sigma_space": 0.8 * radius, "spacing": spacing or 1.0}
    cases = list(zip(p, image.numpy(), inside, strict=True))
    costs = [ncut(*case, radius, **space) for case in cases]
    slopes = np.stack([ncut_gradient(*case, radius, **space) for case in cases])
    slopes = p * (slopes - (p * slopes).sum(axis=1, keepdims=True))  # back through the softmax

    given = logits.float().requires_grad_()
    hostile = image.float().where(mask, math.nan) if masked else image.float()
    loss = NCutLoss(radius=radius, spacing_mm=spacing, normalize=False, reduction="none")
    value = loss(given, hostile, mask if masked else None)
    (gradient,) = torch.autograd.grad(value.sum(), given)
    np.testing.assert_allclose(value.detach(), costs, atol=1e-6)
    assert np.linalg.norm(gradient.numpy() - slopes) <= tolerance * np.linalg.norm(slopes)


@on_every_path
def test_given_probabilities_need_not_add_up_to_one(path):
    logits, image, _ = draw((5, 20))
    p = logits.sigmoid().float()
    expected = [
        ncut(*case, np.ones((5, 20), bool), 4.0, 3.2) for case in zip(p.double().numpy(), image.numpy(), strict=True)
    ]
    value = NCutLoss(softmax=False, normalize=False, reduction="none")(p, image.float())
    np.testing.assert_allclose(value, expected, atol=1e-6)


@on_every_path
def test_a_window_of_nothing(path):
    logits, image, _ = draw((4, 5))
    loss = NCutLoss(radius=1)
    torch.testing.assert_close(loss(logits.float(), image.float()), loss(logits, image).float())


@pytest.mark.parametrize("path", CPU, indirect=True)
def test_blocks_and_pieces_make_no_difference(path, monkeypatch):
    q, features = torch.rand(2, 3, 7, 6, 5), torch.randn(2, 1, 7, 6, 5)
    window = ncut_pairs.half_window(3.0, 2.0, (7, 6, 5))
    whole = path(q, features, window).clone()
    monkeypatch.setattr(ncut_torch, "BLOCK", 4)
    monkeypatch.setattr(ncut_layout, "PIECE", 4)
    torch.testing.assert_close(path(q, features, window), whole)


@pytest.mark.parametrize("path", CPU, indirect=True)
def test_threads_make_no_difference(path):
    q, features = torch.rand(1, 3, 9, 40, 21), torch.randn(1, 1, 9, 40, 21)
    window = ncut_pairs.half_window(3.0, 2.0, (9, 40, 21))
    threads, sums = torch.get_num_threads(), []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            sums.append(path(q, features, window).clone())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_vectors_of_other_processors_give_the_same(monkeypatch, lanes):
    q, features = torch.rand(1, 2, 5, 19), torch.randn(1, 1, 5, 19)
    window = ncut_pairs.half_window(3.0, 2.0, (5, 19))
    expected = ncut_pairs.torch_pair_sums(q, features, window)
    monkeypatch.setattr(ncut_llvm, "lanes_here", lambda features: lanes)
    ncut_llvm.compiled.cache_clear()
    try:
        torch.testing.assert_close(ncut_pairs.llvm_pair_sums(q, features, window), expected)
    finally:
        ncut_llvm.compiled.cache_clear()


@on_every_path
def test_exponents_from_far_too_small_for_a_float_to_a_drawn_weight_above_1(path):
    q, features = torch.rand(1, 1, 1, 4), torch.tensor([0.0, 1e3, 1e3 + 9.5, 1e18]).view(1, 1, 1, 4)
    window = (((0, 1), -2.0), ((0, 2), 0.0), ((0, 3), 1.0))
    expected = ncut_pairs.torch_pair_sums(q.double(), features.double(), window)
    torch.testing.assert_close(path(q, features, window), expected.float())
    alike = path(q, torch.zeros_like(features), window)
    expected = ncut_pairs.torch_pair_sums(q.double(), torch.zeros_like(features).double(), window)
    torch.testing.assert_close(alike, expected.float())


def test_the_path_follows_device_type_and_what_is_installed(monkeypatch):
    single = torch.zeros(1)
    assert ncut_pairs.choose_pair_sums(single) is ncut_pairs.llvm_pair_sums
    assert ncut_pairs.choose_pair_sums(single.double()) is ncut_pairs.torch_pair_sums
    assert ncut_pairs.choose_pair_sums(single.to("meta")) is ncut_pairs.torch_pair_sums
    monkeypatch.setattr(ncut_llvm, "available", lambda: False)
    assert ncut_pairs.choose_pair_sums(single) is ncut_pairs.torch_pair_sums


def _loss_of_a_child(queue):
    queue.put(float(NCutLoss()(torch.ones(2, 2, 8, 40).cumsum(3) % 5, torch.ones(2, 1, 8, 40).cumsum(3) % 3)))


def test_a_forked_process_computes_too():
    # as loader workers are forked from a process in which the loss has run
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = NCutLoss()(torch.ones(2, 2, 8, 40).cumsum(3) % 5, torch.ones(2, 1, 8, 40).cumsum(3) % 3)
    finally:
        torch.set_num_threads(threads)
    fork = multiprocessing.get_context("fork")
    queue = fork.SimpleQueue()
    child = fork.Process(target=_loss_of_a_child, args=(queue,), daemon=True)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == expected.item()


@pytest.mark.parametrize("count", [1, 7, 24, 60, 124])
def test_drawn_offsets_are_right_on_average(monkeypatch, count):
    window = ncut_pairs.half_window(4.0, 3.2, (9, 9, 9))
    phases, sums = 500, dict.fromkeys((offset for offset, _ in window), 0.0)
    for n in range(phases):
        monkeypatch.setattr(torch, "rand", lambda *_, n=n, **__: torch.tensor((n + 0.5) / phases, dtype=torch.float64))
        drawn = ncut_pairs.draw_offsets(window, count)
        assert len({offset for offset, _ in drawn}) == count
        for offset, cost in drawn:
            sums[offset] += math.exp(-cost) / phases
    for offset, cost in window:
        assert sums[offset] == pytest.approx(math.exp(-cost), abs=0.3 / count)


def test_more_offsets_than_there_are_is_all_of_them():
    window = ncut_pairs.half_window(2.0, 1.6, (9, 9))
    assert ncut_pairs.draw_offsets(window, len(window)) == window


@pytest.mark.parametrize(("radius", "step", "count"), [(0.9, 0.3, 2), (0.91, 0.3, 3), (3.0, 1.0, 2)])
def test_a_distance_that_equals_the_radius_is_outside(radius, step, count):
    assert len(ncut_pairs.half_window(radius, 1.0, (1, 9), (step, step))) == count


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pipeline.losses import ncut_triton

rows = ("*fp32",) * 3
types = {"q": rows, "features": ("*fp32",), "sums": rows, "shifts": "*i64", "exponents": "*fp32"}
types |= {"first": "i32", "end": "i32", "pairs": "i32", "block": "constexpr"}
source = ASTSource(ncut_triton._kernel(), types, constexprs={"block": ncut_triton.BLOCK})
code = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
print(code.count("ex2.approx"), code.count("atom"))
"""


@needs_triton
def test_the_triton_kernel_compiles_for_a_cuda_device():
    # in a process of its own, since the interpreter leaves its marks on Triton
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    code = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True)
    # Each of the 128 threads forms a weight of each of its voxels once, and none adds to a place in memory.
    assert code.stdout.split() == [str(ncut_triton.BLOCK // 128), "0"]
