import pytest
import torch
from torch import nn

from pipeline.losses.base import levels_of
from pipeline.networks import CHANNELS_LAST, NETWORKS, InstanceNorm, blocks_of, recompute_blocks, to_channels_last

OPTIONS = {
    "unet": {"channels": [4, 8, 8]},
    "dynunet": {"channels": [4, 4, 8, 8]},
    "resenc": {"channels": [4, 4, 8, 8], "blocks": [1, 2]},
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
        coarser = [(2, 4, *(side // 2**n for side in size)) for n in range(3 if name in ("dynunet", "resenc") else 1)]
        assert [level.shape for level in levels] == coarser

    def test_draws_its_weights_from_the_seed(self, name, dimensions):
        first, second = (build(name, dimensions).state_dict() for _ in range(2))
        assert all(torch.equal(first[key], second[key]) for key in first)

    def test_treats_the_cases_of_a_batch_apart(self, name, dimensions):
        images, network = torch.randn(2, 2, *(16,) * dimensions), build(name, dimensions).eval()
        with torch.no_grad():
            torch.testing.assert_close(network(images)[1:], network(images[1:]), atol=1e-5, rtol=1e-4)

    def test_gives_the_same_gradients_where_features_are_computed_again(self, name, dimensions):
        options = {"dropout": 0.5} if name in ("unet", "segresnet") else {}
        images, found = torch.randn(2, 2, *(16,) * dimensions), []
        for again in (False, True):
            network, kept = build(name, dimensions, **options).train(), []
            if again:
                recompute_blocks(network)

            def keep(tensor, kept=kept):
                kept.append(tensor.numel())
                return tensor

            torch.manual_seed(1)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                levels = levels_of(network(images))
            sum(level.square().mean() for level in levels).backward()
            found.append((sum(kept), {key: p.grad for key, p in network.named_parameters()}))
        (most, plain), (fewest, recomputed) = found
        assert fewest < most / 2
        for key, gradient in plain.items():
            other = recomputed[key]
            assert gradient is other is None or torch.equal(gradient, other), key


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(("dimensions", "theirs"), [(2, nn.InstanceNorm2d), (3, nn.InstanceNorm3d)])
def test_instance_norm_is_pytorchs_function_and_no_view(dimensions, theirs, last, affine):
    ours, reference = InstanceNorm(3, affine=affine).double(), theirs(3, affine=affine).double()
    assert ours.state_dict().keys() == reference.state_dict().keys()
    for value in ours.state_dict().values():
        value.normal_()
    reference.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, *(6,) * dimensions, dtype=torch.float64) * 5 + 2
    images = images.contiguous(memory_format=CHANNELS_LAST[images.ndim] if last else torch.contiguous_format)
    answers = []
    for norm in (ours, reference):
        image = images.clone().requires_grad_()
        answer = norm(image)
        (answer * torch.linspace(0, 1, answer.numel()).view_as(answer)).sum().backward()
        answers.append([answer.detach(), image.grad, *(parameter.grad for parameter in norm.parameters())])
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other)
    answer = ours(images.clone().requires_grad_())
    assert answer.stride() == images.stride()
    assert not answer._is_view()


def test_instance_norm_of_single_voxels_is_the_offset_in_either_memory_format():
    norm, single = InstanceNorm(3, affine=True), torch.randn(2, 3, 1, 1, 1)
    norm.bias.data.normal_()
    for image in (single, single.clone(memory_format=torch.channels_last_3d)):
        # What a mean of one number misses it by, the smallest deviation makes 300 times as large.
        torch.testing.assert_close(norm(image), norm.bias.expand(2, 3).reshape(2, 3, 1, 1, 1), rtol=0, atol=1e-4)


def test_features_keep_their_channels_last_from_the_first_convolution_on():
    network, image, kept = build("dynunet", channels=1), torch.randn(2, 1, 16, 16, 16), []
    plain = network(image)[0]
    to_channels_last(network)
    for module in network.modules():
        if isinstance(module, InstanceNorm):
            module.register_forward_hook(lambda _, __, answer: kept.append(answer))
    torch.testing.assert_close(network(image)[0], plain, rtol=1e-3, atol=1e-3)
    assert len(kept) > 10
    assert all(x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous() for x in kept)


@pytest.mark.parametrize("name", ["unet", "dynunet", "resenc", "wnet"])
def test_networks_use_that_norm(name):
    kinds = [type(module) for module in build(name).modules()]
    assert InstanceNorm in kinds
    assert nn.InstanceNorm3d not in kinds


def test_network_of_unknown_blocks_is_not_computed_again():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    assert list(blocks_of(network)) == []
    with pytest.raises(ValueError, match="no block"):
        recompute_blocks(network)


def test_residual_encoder_has_its_blocks_a_level_and_the_last_number_goes_on():
    network = build("resenc", blocks=[1, 3])
    levels = [network.input_block, *network.downsamples, network.bottleneck]
    assert [len(level) for level in levels] == [1, 3, 3, 3]
    assert len(build("resenc", blocks=[2, 1, 1, 1, 9, 9]).bottleneck) == 1
    with pytest.raises(ValueError, match="one block or more"):
        build("resenc", blocks=[1, 0])


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
