"""Gradients in bfloat16 are those in float32, whatever the shape of an image."""

import copy

import pytest
import torch
from test_declared import TASK, recipe_of
from torch import nn

from pipeline.engines.convolutions import SoundConv3d, convolve_soundly
from pipeline.runs import build


def gradient(layer, image, answer, precision):
    layer.zero_grad()
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        found = layer(image)
    found.backward(answer.to(found.dtype))
    return layer.weight.grad.clone()


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 3, 1), (5, 5, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 8, 8), (3, 4, 4), (4, 4, 4), (4, 2, 2), (6, 6, 6)]
)
def test_gradient_of_the_weights_is_right_in_bfloat16(kernel, stride, shape):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(16, 16, kernel, stride, [side // 2 for side in kernel], bias=False))
    convolve_soundly(network)
    layer = copy.deepcopy(network)[0]
    image = torch.randn(2, 16, *shape)
    answer = torch.randn_like(layer(image))
    known = gradient(layer, image, answer, torch.float32)
    for _ in range(3):  # What was wrong was memory that nobody had written, and differed from time to time.
        found = gradient(layer, image, answer, torch.bfloat16)
        torch.testing.assert_close(found, known, atol=0.02 * float(known.abs().max()), rtol=0.05)


def test_weights_names_and_answers_stay():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 2, 1))
    image = torch.randn(1, 4, 2, 6, 6)
    known, names = network(image), list(network.state_dict())
    convolve_soundly(network)
    assert torch.equal(network(image), known)
    assert list(network.state_dict()) == names


@pytest.mark.parametrize("name", ["unet", "dynunet", "segresnet"])
def test_every_convolution_of_a_training_is_one_of_these(name):
    network = build.make_network(recipe_of(name), TASK)
    kinds = {type(module) for module in network.modules() if isinstance(module, nn.Conv3d)}
    assert kinds == {SoundConv3d}
