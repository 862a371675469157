from typing import NamedTuple

import numpy as np
import pytest
import torch

from pipeline.data.annotation import FIRST_CLASS, OUTSIDE, UNANNOTATED
from pipeline.data.augmentation import AUGMENTATIONS, AugmentationChain, Patch, standard
from pipeline.data.augmentation.spatial import Deformation

STRENGTHS = {
    "flip_axes": (0, 1, 2),
    "rotation_degrees": 30,
    "scaling": 0.2,
    "elastic_mm": 2,
    "noise": 0.2,
    "blur": 1.5,
    "brightness": 0.3,
    "contrast": 0.4,
    "low_resolution": 1,
    "gamma": 0.3,
}
MILLIMETRE = Patch((1.0, 1.0, 1.0))
CUBE = AugmentationChain(standard(**STRENGTHS), MILLIMETRE)


class Changes(NamedTuple):
    """What is drawn for a sample, in the order of the standard augmentations."""

    flip: tuple = ()
    deform: Deformation | None = None
    blur: float | None = None
    noise: tuple[float, int] | None = None
    brightness: float | None = None
    contrast: float | None = None
    low_resolution: float | None = None
    gamma: float | None = None


def draw(chain, seed):
    return Changes(*chain.draw(np.random.default_rng(seed)))


def batch(*shape, code=FIRST_CLASS, rows=1, channels=1):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(rows, channels, *shape, generator=generator)
    return image, torch.full((rows, 1, *shape), code, dtype=torch.uint8)


def apply(image, annotation, changes):
    CUBE.move(image, annotation, changes)
    CUBE.recolour(image, changes)


def changed(change, image, annotation):
    """Both after one sample's change, the given tensors left alone."""
    image, annotation = image.clone(), annotation.clone()
    apply(image, annotation, [change] * len(image))
    return image, annotation


def turned(degrees, axes=3):
    return Changes(deform=Deformation(turn(degrees, axes)))


def turn(degrees, axes=3):
    angle = np.deg2rad(degrees)
    matrix = np.eye(axes)
    matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return matrix


def test_no_change_changes_nothing():
    image, annotation = batch(6, 7, 8)
    after = changed(Changes(), image, annotation)
    assert torch.equal(after[0], image)
    assert torch.equal(after[1], annotation)


def test_no_strength_draws_no_change():
    still = AugmentationChain(standard(), MILLIMETRE)
    for seed in range(50):
        assert draw(still, seed) == Changes()


@pytest.mark.parametrize("spacing", [(1e-3, 1e3, 1.0), (0.5, 0.5, 5.0), (1.0, 1.0, 40.0), (1e-3, 1e3)])
def test_half_of_a_patch_stays_within_however_long_its_voxels_are(spacing):
    shape = (24, 24, 24)[: len(spacing)]
    image, annotation = batch(*shape)
    chain, kept = AugmentationChain(standard(rotation_degrees=180, elastic_mm=100.0), Patch(spacing, shape)), []
    drawn = [draw(chain, seed).deform or Deformation() for seed in range(100)]
    for found in drawn:
        after = changed(Changes(deform=Deformation(found.affine)), image, annotation)[1]
        kept.append(float((after == FIRST_CLASS).float().mean()))
    # Three turns, one after the other, may each lead half of the way out.
    assert min(kept) > (0.25 if len(spacing) == 3 else 0.45)
    assert max(np.abs(found.bends).max() for found in drawn if found.bends is not None) <= 12


def test_a_patch_about_as_long_as_wide_is_turned_as_far_as_before():
    spacing = (1.0, 1.0, 2.5)
    free, cut = (AugmentationChain(standard(**STRENGTHS), Patch(spacing, size)) for size in (None, (96, 96, 24)))
    for seed in range(20):
        one, other = ((draw(each, seed).deform or Deformation()).affine for each in (free, cut))
        assert one is other is None or np.array_equal(one, other)


def test_a_seed_decides_the_change():
    seeds = [change.noise[1] for change in (draw(CUBE, seed) for seed in range(100)) if change.noise]
    assert len(set(seeds)) == len(seeds) > 10
    first, again = (draw(CUBE, 7) for _ in range(2))
    assert str(first) == str(again)


def test_changes_stay_within_their_strength_and_come_as_often_as_they_say():
    drawn = [draw(CUBE, seed) for seed in range(2000)]
    deformations = [change.deform for change in drawn if change.deform is not None]
    bends = [found.bends for found in deformations if found.bends is not None]
    affine = [found.affine for found in deformations if found.affine is not None]
    assert all(0 < change.noise[0] <= 0.2 for change in drawn if change.noise)
    for name, reach in (("brightness", 0.3), ("gamma", 0.3), ("contrast", 0.4)):
        assert all(abs(getattr(change, name) - 1) <= reach for change in drawn if getattr(change, name) is not None)
    assert all(1 < change.low_resolution <= 2 for change in drawn if change.low_resolution)
    assert all(0.75 <= change.blur <= 1.5 for change in drawn if change.blur)
    assert all(np.abs(bend).max() <= 2 for bend in bends)
    shares = {
        "flipped": np.mean([0 in change.flip for change in drawn]),
        "turned": len(affine) / len(drawn),
        "bent": len(bends) / len(drawn),
        **{
            name: np.mean([getattr(change, name) is not None for change in drawn])
            for name in ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma")
        },
    }
    assert list(shares.values()) == pytest.approx([0.5, 0.5, 0.2, 0.2, 0.2, 0.3, 0.2, 0.2, 0.3], abs=0.04)
    scales = np.array([np.linalg.norm(matrix, axis=1) for matrix in affine])
    assert 0.8 - 1e-9 <= scales.min() < 0.81
    assert 1.19 < scales.max() <= 1.2 + 1e-9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_turns_image_and_annotation_together(axis):
    image, annotation = batch(5, 6, 7)
    annotation[..., :2, :3, :1] = FIRST_CLASS + 1
    after = changed(Changes(flip=(axis,)), image, annotation)
    assert torch.equal(after[0], image.flip(2 + axis))
    assert torch.equal(after[1], annotation.flip(2 + axis))


@pytest.mark.parametrize("shape", [(7, 7), (7, 7, 4), (6, 6, 5)])
def test_a_quarter_turn_is_numpy_s(shape):
    image, annotation = batch(*shape)
    annotation[..., :2, :3] += 1
    after = changed(turned(90, len(shape)), image, annotation)
    # What lies at (i, j) comes from where a turn by 90 degrees takes it: (-j, i) from the centre.
    torch.testing.assert_close(after[0], image.rot90(-1, (2, 3)), atol=2e-6, rtol=1e-5)
    assert torch.equal(after[1], annotation.rot90(-1, (2, 3)))


@pytest.mark.parametrize(
    ("name", "options", "share"),
    [
        ("blur", {"sigma": 1.0}, "share"),
        ("noise", {"sigma": 0.1}, "share"),
        ("brightness", {"change": 0.2}, "share"),
        ("contrast", {"change": 0.2}, "share"),
        ("low_resolution", {"coarseness": 1.0}, "share"),
        ("gamma", {"change": 0.3}, "share"),
        ("deform", {"scaling": 0.2}, "turned"),
        ("deform", {"elastic_mm": 2.0}, "bent"),
    ],
)
def test_an_option_says_how_many_samples_are_changed(name, options, share):
    for asked in (0.0, 0.7, 1.0):
        step = AUGMENTATIONS.build(name, options | {share: asked})
        rng = np.random.default_rng(0)
        drawn = [step.draw(rng, MILLIMETRE) is not None for _ in range(1000)]
        assert np.mean(drawn) == pytest.approx(asked, abs=0.05)


def test_a_turn_on_an_oblong_patch_is_in_voxels_not_in_shares_of_the_patch():
    image, annotation = torch.zeros(1, 1, 21, 9, 1), torch.full((1, 1, 21, 9, 1), FIRST_CLASS, dtype=torch.uint8)
    image[0, 0, 10 + 3, 4] = 1
    after, _ = changed(turned(90), image, annotation)
    assert after[0, 0, 10, 4 - 3, 0] == pytest.approx(1, abs=1e-5)


def test_thick_slices_turn_in_millimetres():
    """On voxels of 1 x 4 mm, the map of voxels is no rotation and that of millimetres is one."""
    chain = AugmentationChain(standard(rotation_degrees=90), Patch((1.0, 4.0)))
    drawn = [draw(chain, seed).deform for seed in range(20)]
    turns = [found.affine for found in drawn if found is not None]
    assert turns
    for affine in turns:
        millimetres = np.diag([1, 4]) @ affine @ np.diag([1, 1 / 4])
        np.testing.assert_allclose(millimetres @ millimetres.T, np.eye(2), atol=1e-12)
        assert not np.allclose(affine @ affine.T, np.eye(2))


def test_what_comes_in_from_outside_is_neither_label_nor_scan():
    image, annotation = batch(16, 16, 16)
    after, codes = changed(turned(45), image, annotation)
    assert set(codes.unique().tolist()) == {OUTSIDE, FIRST_CLASS}
    assert codes[0, 0, 0, 0, 0] == OUTSIDE
    assert codes[0, 0, 8, 8, 8] == FIRST_CLASS
    assert (after[codes == OUTSIDE].abs() < image.abs().max()).all()


def test_a_zoom_scales_about_the_centre():
    image, annotation = batch(8, 8, 8)
    annotation[..., 2:6, 2:6, 2:6] = FIRST_CLASS + 1
    _, codes = changed(Changes(deform=Deformation(np.eye(3) / 2)), image, annotation)
    assert (codes == FIRST_CLASS + 1).all()


def test_codes_are_never_mixed():
    image, annotation = batch(12, 12, 12)
    annotation[..., :6] = FIRST_CLASS + 5
    for seed in range(10):
        _, codes = changed(draw(CUBE, seed), image, annotation)
        assert set(codes.unique().tolist()) <= {OUTSIDE, FIRST_CLASS, FIRST_CLASS + 5}


def test_intensities_leave_the_annotation_alone():
    image, annotation = batch(6, 6, 6, code=UNANNOTATED)
    after, codes = changed(Changes(noise=(0.3, 5), brightness=1.2, gamma=0.8), image, annotation)
    assert torch.equal(codes, annotation)
    assert not torch.equal(after, image)


def test_noise_has_its_size_and_its_seed():
    image, annotation = torch.zeros(1, 2, 20, 20, 20), batch(20, 20, 20)[1]
    first, again, other = (changed(Changes(noise=(0.3, seed)), image, annotation)[0] for seed in (1, 1, 2))
    assert float(first.std()) == pytest.approx(0.3, rel=0.02)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gain_and_gamma_are_what_they_say():
    image, annotation = batch(6, 6, 6)
    torch.testing.assert_close(changed(Changes(brightness=1.25), image, annotation)[0], 1.25 * image)
    curved = changed(Changes(gamma=0.7), image, annotation)[0]
    low, high = image.min(), image.max()
    torch.testing.assert_close(curved, ((image - low) / (high - low)) ** 0.7 * (high - low) + low)


def test_contrast_moves_values_from_their_mean():
    image, annotation = batch(6, 6, 6)
    after = changed(Changes(contrast=0.5), image + 3, annotation)[0]
    torch.testing.assert_close(after, (image + 3 - (image + 3).mean()) * 0.5 + (image + 3).mean())


@pytest.mark.parametrize("shape", [(30, 30), (24, 25, 26)])
def test_blur_is_a_gaussian_of_its_sigma(shape):
    from scipy.ndimage import gaussian_filter

    image, annotation = batch(*shape, channels=2)
    after = changed(Changes(blur=1.2), image, annotation)[0]
    expected = [gaussian_filter(channel, 1.2, mode="nearest", radius=4) for channel in image[0].numpy()]
    np.testing.assert_allclose(after[0], np.stack(expected), atol=1e-5)


def test_a_coarse_image_has_lost_what_is_fine_and_kept_what_is_not():
    slope = torch.linspace(0, 1, 24)[None, None, :, None, None].expand(1, 1, 24, 24, 24)
    checks = (torch.arange(24) % 2 * 2.0 - 1)[None, None, None, :, None].expand_as(slope)
    annotation = batch(24, 24, 24)[1]
    smooth = changed(Changes(low_resolution=2.0), slope, annotation)[0]
    assert (smooth - slope).abs().max() < 0.06
    fine = changed(Changes(low_resolution=2.0), checks, annotation)[0]
    assert fine.std() < 0.2, "neighbours that alternate are one voxel now"


def test_bends_move_image_and_annotation_by_their_millimetres():
    image, annotation = batch(20, 20, 20)
    annotation[..., 10:, :, :] = FIRST_CLASS + 1
    image[:] = annotation.float()
    bends = np.zeros((3, 5, 5, 5))
    bends[0] = 3  # every value comes from three voxels further along the first axis
    after, codes = changed(Changes(deform=Deformation(bends=bends)), image, annotation)
    assert torch.equal(codes[..., :17, :, :], annotation[..., 3:, :, :])
    assert (codes[..., 17:, :, :] == OUTSIDE).all()
    torch.testing.assert_close(after[..., :16, :, :], image[..., 3:19, :, :])


def test_bends_in_the_middle_leave_the_corners_where_they_are():
    image, annotation = batch(20, 20)
    bends = np.zeros((2, 5, 5))
    bends[:, 2, 2] = 2
    after, _ = changed(Changes(deform=Deformation(bends=bends)), image, annotation)
    torch.testing.assert_close(after[..., :4, :4], image[..., :4, :4], atol=2e-5, rtol=1e-5)
    assert not torch.allclose(after[..., 8:12, 8:12], image[..., 8:12, 8:12], atol=0.1)


def test_a_flat_image_survives_gamma():
    image, annotation = torch.full((1, 1, 4, 4, 4), 2.5), batch(4, 4, 4)[1]
    torch.testing.assert_close(changed(Changes(gamma=1.3), image, annotation)[0], image)


def test_each_sample_has_its_own_change():
    image, annotation = batch(6, 6, 6, rows=3)
    changes = [Changes(), Changes(flip=(0,), brightness=2.0), turned(90)]
    together = image.clone(), annotation.clone()
    apply(*together, changes)
    for n, change in enumerate(changes):
        alone = changed(change, image[n : n + 1], annotation[n : n + 1])
        assert torch.equal(together[0][n], alone[0][0])
        assert torch.equal(together[1][n], alone[1][0])


def test_threads_do_not_change_a_bit():
    image, annotation = batch(40, 56, 40, rows=2)
    changes = [
        Changes((0,), Deformation(turn(20)), noise=(0.1, 3), brightness=1.1, gamma=0.8),
        Changes((), Deformation(None, np.ones((3, 5, 5, 5))), blur=1.0, contrast=0.8, low_resolution=1.5),
    ]
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append((image.clone(), annotation.clone()))
            apply(*results[-1], changes)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_standard_augmentations_are_registered_under_the_names_of_their_changes():
    names = {kind: name for name, kind in AUGMENTATIONS.components.items()}
    assert tuple(names[type(step)] for step in standard()) == Changes._fields
