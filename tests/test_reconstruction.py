import pytest
import torch

from pipeline.losses import ReconstructionLoss


def draw(cases=2, channels=2, size=(4, 5, 6), **options):
    generator = torch.Generator().manual_seed(0)
    shape = (cases, channels, *size)
    return tuple(torch.randn(shape, generator=generator, **options) for _ in range(2))


@pytest.mark.parametrize("size", [(4, 5), (4, 5, 6)], ids=["2d", "3d"])
def test_mean_squared_difference_over_voxels_and_channels(size):
    made, image = draw(size=size)
    expected = ((made - image) ** 2).mean().item()
    assert ReconstructionLoss()(made, image).item() == pytest.approx(expected)


def test_perfect_reconstruction_costs_nothing():
    image = draw()[0]
    assert ReconstructionLoss()(image.clone(), image).item() == 0


def test_mask_equals_a_crop_with_nan_outside():
    made, image = draw()
    mask = torch.zeros(2, 1, 4, 5, 6, dtype=torch.bool)
    mask[..., :3] = True
    expected = ReconstructionLoss(reduction="none")(made[..., :3], image[..., :3])
    image[..., 3:] = torch.nan
    made.requires_grad_()
    per_case = ReconstructionLoss(reduction="none")(made, image, mask)
    torch.testing.assert_close(per_case, expected)
    per_case.sum().backward()
    assert torch.isfinite(made.grad).all()
    assert (made.grad[..., 3:] == 0).all()
    assert (made.grad[..., :3] != 0).all()


def test_reductions_are_over_cases():
    made, image = draw()
    each = ReconstructionLoss(reduction="none")(made, image)
    assert each.shape == (2,)
    assert ReconstructionLoss(reduction="sum")(made, image).item() == pytest.approx(each.sum().item())
    assert ReconstructionLoss()(made, image).item() == pytest.approx(each.mean().item())


def test_case_wholly_masked_out_is_not_counted():
    made, image = draw()
    mask = torch.ones(2, 1, 4, 5, 6)
    mask[1] = 0
    expected = ReconstructionLoss()(made[:1], image[:1])
    torch.testing.assert_close(ReconstructionLoss()(made, image, mask), expected)
    assert ReconstructionLoss()(made, image, mask * 0).item() == 0


def test_sums_are_wide_and_the_image_gets_no_gradient():
    made, image = draw(dtype=torch.bfloat16)
    image.requires_grad_()
    loss = ReconstructionLoss()(made.requires_grad_(), image)
    loss.backward()
    assert loss.dtype == torch.float32
    assert image.grad is None


def test_gradient_is_that_of_the_formula():
    made, image = draw(size=(2, 3), dtype=torch.float64)
    made.requires_grad_()
    assert torch.autograd.gradcheck(lambda made: ReconstructionLoss()(made, image), made)


@pytest.mark.parametrize("shape", [(2, 1, 4, 5, 6), (2, 2, 4, 5), (1, 2, 4, 5, 6)])
def test_image_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="reconstruction has shape"):
        ReconstructionLoss()(torch.zeros(2, 2, 4, 5, 6), torch.zeros(shape))
