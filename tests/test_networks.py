import pytest
import torch

from pipeline.losses.objective import levels_of
from pipeline.networks import NETWORKS

OPTIONS = {
    "unet": {"channels": [4, 8, 8]},
    "dynunet": {"channels": [4, 4, 8, 8]},
    "segresnet": {"init_filters": 8, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]},
    "wnet": {"channels": [4, 4, 8]},
}


def build(name, dimensions=3, channels=2, classes=4, **options):
    torch.manual_seed(0)
    given = {"spatial_dims": dimensions, "in_channels": channels, "out_channels": classes}
    return NETWORKS.build(name, OPTIONS[name] | options, **given)


def test_every_network_is_tried_here():
    # Plugins of other tests may be there as well.
    assert set(OPTIONS) <= set(NETWORKS.names)
    assert {name for name in NETWORKS.names if NETWORKS[name].__module__ == "pipeline.networks"} == set(OPTIONS)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("name", OPTIONS)
class TestEveryNetwork:
    def test_answers_with_logits_on_the_grid_of_the_image(self, name, dimensions):
        size = (16, 24, 16)[:dimensions]
        with torch.no_grad():
            logits = build(name, dimensions).eval()(torch.randn(2, 2, *size))
        assert logits.shape == (2, 4, *size)
        assert torch.isfinite(logits).all()

    def test_gives_its_answer_first_while_it_trains(self, name, dimensions):
        size = (16,) * dimensions
        levels = levels_of(build(name, dimensions).train()(torch.randn(2, 2, *size)))
        coarser = [(2, 4, *(side // 2**n for side in size)) for n in range(3 if name == "dynunet" else 1)]
        assert [level.shape for level in levels] == coarser

    def test_draws_its_weights_from_the_seed(self, name, dimensions):
        first, second = (build(name, dimensions).state_dict() for _ in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_treats_the_cases_of_a_batch_apart(self, name, dimensions):
        images, network = torch.randn(2, 2, *(16,) * dimensions), build(name, dimensions).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(images)[1:], network(images[1:]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_recipe_are_judged_without_building(name):
    assert NETWORKS.problems(name, OPTIONS[name]) == []
    ((option, _),) = NETWORKS.problems(name, OPTIONS[name] | {"in_channels": 1})
    assert option == "in_channels"


@pytest.mark.parametrize("name", OPTIONS)
def test_every_network_has_a_line_in_the_list_of_components(name):
    assert NETWORKS.summary(name).endswith(".")


def test_deep_supervision_can_be_switched_off():
    logits = build("dynunet", deep_supervision=False).train()(torch.randn(1, 2, 16, 16, 16))
    assert logits.shape == (1, 4, 16, 16, 16)


def test_finest_level_of_deep_supervision_is_the_networks_answer():
    network, image = build("dynunet"), torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network.train()(image)[0], network.eval()(image))


@pytest.mark.parametrize(("name", "option"), [("unet", "dropout"), ("segresnet", "dropout")])
def test_dropout_is_off_unless_asked_for(name, option):
    image = torch.randn(1, 2, 16, 16, 16)

    def differs(network):
        with torch.no_grad():
            return not torch.equal(network.train()(image), network(image))

    assert not differs(build(name))
    assert differs(build(name, **{option: 0.5}))


@pytest.mark.parametrize(("residual", "kind"), [(True, "UnetResBlock"), (False, "UnetBasicBlock")])
def test_blocks_of_dynunet_are_residual_where_asked_for(residual, kind):
    assert kind in {type(module).__name__ for module in build("dynunet", residual=residual).modules()}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_wnet_makes_an_image_of_the_soft_segmentation_alone(dimensions):
    network, image = build("wnet", dimensions).eval(), torch.randn(2, 2, *(16,) * dimensions)
    with torch.no_grad():
        logits = network(image)
        made = network.reconstruct(logits)
        assert made.shape == image.shape
        # A softmax does not know of a shift of all logits, and neither may the decoder.
        torch.testing.assert_close(network.reconstruct(logits + 3), made, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(network.reconstruct(logits.flip(1)), made, atol=1e-2)


def test_wnet_reconstructs_through_the_encoder():
    network, image = build("wnet"), torch.randn(1, 2, 8, 8, 8)
    network.reconstruct(network(image)).square().mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not (p.grad.abs().max() > 0)] == []
