import numpy as np
import pytest
import torch

from pipeline.data.annotation import FIRST_CLASS, OUTSIDE, UNANNOTATED, class_locations
from pipeline.data.patches import cut_patches


def numbered(shape, annotation):
    """A case whose voxels are their own flat indices, counted from 1."""
    image = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    annotation = np.asarray(annotation, dtype=np.uint8).reshape(1, *shape)
    return {"image": image, "annotation": annotation, "locations": class_locations(annotation, 2)}


def labelled(shape):
    codes = np.full(shape, FIRST_CLASS)
    codes[-2:, -2:, -2:] = FIRST_CLASS + 1
    return numbered(shape, codes)


def patches(case, size, draws, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        patch = cut_patches([case], [rng], size)
        yield {key: value[0] for key, value in patch.items()}


def test_a_patch_is_a_block_of_the_scan():
    case = labelled((9, 10, 11))
    corners = set()
    for patch in patches(case, (4, 5, 6), 50):
        first = np.unravel_index(int(patch["image"][0, 0, 0, 0]) - 1, (9, 10, 11))
        block = (slice(None), *(slice(a, a + n) for a, n in zip(first, (4, 5, 6), strict=True)))
        np.testing.assert_array_equal(patch["image"], case["image"][block])
        np.testing.assert_array_equal(patch["annotation"], case["annotation"][block])
        corners.add(first)
    assert len(corners) > 10


def test_every_place_of_an_unlabelled_scan_is_drawn_alike():
    case = numbered((5, 4, 4), np.full((5, 4, 4), UNANNOTATED))
    firsts = [int(patch["image"][0, 0, 0, 0]) for patch in patches(case, (4, 4, 4), 400)]
    counts = [firsts.count(value) for value in sorted(set(firsts))]
    assert len(counts) == 2
    assert min(counts) > 150


def test_a_scan_smaller_than_the_patch_is_centred_in_padding():
    case = labelled((3, 8, 4))
    for patch in patches(case, (6, 4, 4), 10):
        assert patch["image"].shape == (1, 6, 4, 4)
        outside = patch["annotation"][0] == OUTSIDE
        assert outside[[0, 4, 5]].all() or outside[[0, 1, 5]].all()
        assert outside.sum() == 3 * 16
        assert (patch["image"][0][outside] == 0).all()


def test_two_thirds_of_labelled_patches_are_centred_on_a_class():
    codes = np.full((60, 4, 4), FIRST_CLASS)
    codes[30, 2, 2] = FIRST_CLASS + 1
    case = numbered((60, 4, 4), codes)
    places = [patch["annotation"][0] == FIRST_CLASS + 1 for patch in patches(case, (4, 4, 4), 3000)]
    # A third of the patches is centred on the one voxel of class 1; the rest holds it by chance, 4 places in 57.
    assert np.mean([place.any() for place in places]) == pytest.approx(1 / 3 + 2 / 3 * 4 / 57, abs=0.03)
    assert np.mean([place[2].any() for place in places]) == pytest.approx(1 / 3 + 2 / 3 * 1 / 57, abs=0.03)


@pytest.mark.parametrize("share", [0.0, 0.33, 1.0])
def test_a_share_of_patches_is_centred_on_classes_other_than_background(share):
    codes = np.full((60, 4, 4), FIRST_CLASS)
    codes[30, 2, 2] = FIRST_CLASS + 1
    codes[10, 2, 2] = FIRST_CLASS + 2
    case = numbered((60, 4, 4), codes)
    case["locations"] = class_locations(case["annotation"], 3)
    rngs = [np.random.default_rng(n) for n in range(3000)]
    places = cut_patches([case] * 3000, rngs, (4, 4, 4), share)["annotation"]
    for number in (1, 2):
        centred = (places[:, :, 2] == FIRST_CLASS + number).flatten(1).any(1).double().mean().item()
        assert centred == pytest.approx(share / 2 + (1 - share) / 57, abs=0.03)


def test_a_share_of_foreground_leaves_a_case_without_any_anywhere():
    codes = np.full((60, 4, 4), FIRST_CLASS)
    case = numbered((60, 4, 4), codes)
    rngs = [np.random.default_rng(n) for n in range(300)]
    firsts = cut_patches([case] * 300, rngs, (4, 4, 4), 1.0)["image"][:, 0, 0, 0, 0]
    assert len(firsts.unique()) > 40


def test_an_absent_class_is_not_drawn():
    case = numbered((9, 9, 9), np.full((9, 9, 9), FIRST_CLASS))
    assert all((patch["annotation"] == FIRST_CLASS).all() for patch in patches(case, (4, 4, 4), 20))


def test_equal_seeds_draw_equal_patches():
    case = labelled((9, 10, 11))
    first, again, other = ([p["image"] for p in patches(case, (4, 4, 4), 8, seed)] for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_batch_has_a_patch_of_each_case():
    cases = [labelled((9, 10, 11)), numbered((5, 6, 7), np.full((5, 6, 7), UNANNOTATED))]
    rngs = [np.random.default_rng(n) for n in (4, 5)]
    batch = cut_patches(iter(cases), rngs, (6, 6, 6))
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((2, 1, 6, 6, 6), torch.float32),
        "annotation": ((2, 1, 6, 6, 6), torch.uint8),
    }
    for n, (case, rng) in enumerate(zip(cases, (np.random.default_rng(k) for k in (4, 5)), strict=True)):
        alone = cut_patches([case], [rng], (6, 6, 6))
        assert all(torch.equal(batch[key][n], alone[key][0]) for key in batch)


def test_a_size_of_two_numbers_cuts_single_slices():
    case = labelled((9, 10, 11))
    slices = [patch["image"] for patch in patches(case, (8, 6), 30)]
    assert {tuple(image.shape) for image in slices} == {(1, 8, 6)}
    numbers = {int(image[0, 0, 0] - 1) % 11 for image in slices}
    assert len(numbers) > 3, "any slice is drawn"
    for image in slices:
        assert torch.equal(image[0, 0].diff(), torch.full((5,), 11.0))


def test_several_channels_are_cut_together():
    case = labelled((8, 8, 8))
    case["image"] = np.concatenate([case["image"], -case["image"]])
    for patch in patches(case, (4, 4, 4), 5):
        assert torch.equal(patch["image"][1], -patch["image"][0])


def test_a_cut_changes_nothing_in_the_case():
    case = labelled((8, 8, 8))
    before = {key: value.copy() for key, value in case.items()}
    for patch in patches(case, (8, 8, 8), 3):
        patch["image"] += 1
    assert all(np.array_equal(case[key], before[key]) for key in before)
