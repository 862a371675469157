"""How scans look, and which of those without masks look like none that has one."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from runs_fixtures import make_phantom, plug_pulled_at, state_of, train
from scipy.ndimage import gaussian_filter

from pipeline import nifti
from pipeline.data.appearance import MOST_DIFFERENCE, _usual_agreement, describe, unlike
from pipeline.data.layouts import open_dataset
from pipeline.errors import UserError
from pipeline.runs import splitting

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HEARTS = SHARED / "ACDC" / "images"
HIPPOCAMPI = SHARED / "Task04_Hippocampus" / "imagesTr"
UPRIGHT = np.diag([1.0, 1.0, 2.0, 1.0])


def scan(seed=0, shape=(24, 20, 12)):
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=shape), 2)
    return np.round(1000 * (1 + smooth / np.abs(smooth).max()) + 5 * np.arange(shape[0])[:, None, None]) + 1


def difference(first, second):
    return max(abs(a - b) for a, b in zip(first.texture, second.texture, strict=True))


def test_texture_and_layout_have_their_numbers():
    found = describe(scan(), UPRIGHT)
    assert (len(found.texture), len(found.layout)) == (23, 64)
    assert np.isfinite([*found.texture, *found.layout]).all()
    # Of a ramp from left to right: the mean of the second block of four is a third of the way between the outer ones.
    ramp = np.broadcast_to(np.arange(8.0)[:, None, None] + 1, (8, 8, 8))
    blocks = np.array(describe(ramp, UPRIGHT).layout).reshape(4, 4, 4)
    assert blocks[:, 0, 0] == pytest.approx((np.array([1.5, 3.5, 5.5, 7.5]) - 4.5) / np.std(np.arange(8)), abs=1e-4)
    assert np.ptp(blocks, axis=(1, 2)).max() == 0


@pytest.mark.parametrize("code", ["LPS", "AIR", "SRA", "PIL", "IPR"])
def test_the_order_and_direction_of_axes_make_no_difference(code):
    image = nib.Nifti1Image(scan(), UPRIGHT)
    wanted = nib.orientations.axcodes2ornt(code)
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(UPRIGHT), wanted))
    assert "".join(nib.aff2axcodes(turned.affine)) == code
    assert describe(np.asarray(turned.dataobj), turned.affine) == describe(scan(), UPRIGHT)


def test_scale_and_type_make_no_difference():
    expected = describe(scan(), UPRIGHT)
    assert describe(scan().astype(np.uint16), UPRIGHT) == expected
    assert difference(describe(scan() * 0.37, UPRIGHT), expected) < 2e-4


def test_what_is_constant_outside_the_body_is_no_texture_of_it():
    within = np.zeros((40, 40, 24), bool)
    within[8:32, 10:30, 6:18] = True
    body = np.zeros(within.shape)
    body[within] = scan().ravel()
    black = describe(body, UPRIGHT)
    assert describe(body - 1024, UPRIGHT).texture[:11] == pytest.approx(black.texture[:11], abs=2e-4)
    assert describe(body - 1024, UPRIGHT) == describe(body + 3000, UPRIGHT)


@pytest.mark.parametrize("shape", [(30, 40, 1), (1, 30, 20), (3, 1, 2), (1, 1, 9), (2, 2, 2)])
def test_thin_scans_have_finite_numbers(shape):
    values = np.random.default_rng(0).normal(size=shape)
    found = describe(values, np.eye(4))
    assert np.isfinite([*found.texture, *found.layout]).all()


@pytest.mark.parametrize("shape", [(300_000, 1, 1), (1, 300_000, 1), (2, 2, 300_000)])
def test_an_axis_that_is_longer_than_all_that_is_looked_at_has_an_end(shape):
    found = describe(np.random.default_rng(0).normal(size=shape), np.eye(4))
    assert np.isfinite([*found.texture, *found.layout]).all()


def test_intensities_whose_squares_are_no_numbers_have_no_appearance():
    assert describe(scan() * 1e200, UPRIGHT) is None


@pytest.mark.parametrize("value", [0, 7.5])
def test_a_constant_scan_has_no_appearance_and_looks_like_none(value):
    assert describe(np.full((4, 4, 4), value), np.eye(4)) is None
    real = (describe(scan(), UPRIGHT),)
    assert unlike([real], [(), real]) == [True, False]


def test_a_large_scan_is_described_by_some_of_its_voxels_alone():
    small = scan(shape=(40, 40, 40))
    large = np.kron(small, np.ones((4, 4, 1)))
    found = describe(large, UPRIGHT)
    assert found.layout == pytest.approx(describe(small, UPRIGHT).layout, abs=0.1)


def shifted(appearance, by):
    return type(appearance)(tuple(number + by for number in appearance.texture), appearance.layout)


def test_a_cohort_is_followed_as_far_as_it_has_no_gap():
    first = describe(scan(), UPRIGHT)
    step = 0.9 * MOST_DIFFERENCE
    near = [(shifted(first, n * step),) for n in (3, 1, 2)]
    far = (shifted(first, 3 * step + 1.1 * MOST_DIFFERENCE),)
    assert unlike([(first,)], [*near, far]) == [False, False, False, True]
    assert unlike([(first,)], [near[0], far]) == [True, True]
    assert unlike([], near) == [True, True, True]
    assert unlike([(first,)], []) == []


def test_opposed_layouts_are_unlike_and_every_channel_counts():
    first = describe(scan(), UPRIGHT)
    inverted = type(first)(first.texture, tuple(-number for number in first.layout))
    assert unlike([(first,)], [(inverted,)]) == [True]
    other = shifted(first, 2 * MOST_DIFFERENCE)
    assert unlike([(first, first)], [(first, first), (first, other)]) == [False, True]


def laid_out(appearance, layout):
    return (type(appearance)(appearance.texture, tuple(layout)),)


def test_layouts_agree_as_far_as_those_of_the_scans_with_masks_do():
    rng = np.random.default_rng(0)
    first, common = describe(scan(), UPRIGHT), rng.normal(size=64)

    def scans(number, noise):
        return [laid_out(first, common + noise * rng.normal(size=64)) for _ in range(number)]

    organ, elsewhere = scans(5, 0.5), [laid_out(first, rng.normal(size=64)) for _ in range(40)]
    assert unlike(organ, scans(10, 0.5)) == [False] * 10
    assert np.mean(unlike(organ, elsewhere)) >= 0.95
    # Cells lie anywhere: their layouts tell nothing of those without masks.
    assert np.mean(unlike(elsewhere[:5], elsewhere[5:])) <= 0.05


def test_how_bright_the_brightest_are_counts_by_its_ratio_and_noise_in_the_dark_by_a_part():
    rng = np.random.default_rng(1)
    body = scan()
    vessels = rng.random(body.shape) < 0.02
    bright, brighter = (np.where(vessels, body.mean() + times * body.std(), body) for times in (30, 45))
    quantiles = [describe(each, UPRIGHT).texture[:11] for each in (bright, brighter)]
    plain = [(np.quantile(each, (0.99, 0.995)) - each.mean()) / each.std() for each in (bright, brighter)]
    assert min(plain[0]) > 2.5  # Where logarithms begin
    for found, number in zip(quantiles, plain, strict=True):
        assert found[-2:] == pytest.approx(2.5 * (1 + np.log(number / 2.5)), abs=1e-3)
    dark = body < np.quantile(body, 1 / 3)
    noisy = np.where(dark, body * (1 + 0.05 * rng.normal(size=body.shape)), body)
    centred = (noisy - noisy.mean()) / noisy.std()
    steps = np.abs(np.diff(centred, axis=0))
    third = centred[:-1] <= np.quantile(centred, 1 / 3)
    ratio = np.log((steps[third].mean() + 1e-3) / (steps.mean() + 1e-3))
    assert describe(noisy, UPRIGHT).texture[-3] == pytest.approx(0.6 * ratio, abs=2e-3)


def test_many_layouts_are_compared_in_parts():
    rng = np.random.default_rng(0)
    layouts = rng.normal(size=(600, 64))
    layouts /= np.linalg.norm(layouts, axis=1, keepdims=True)
    among = layouts @ layouts.T - 2 * np.eye(600)
    assert _usual_agreement(layouts) == pytest.approx(min(0.35, among.max(axis=1).min()))
    assert _usual_agreement(layouts[:1]) == 0


def appearances(folder, every):
    paths = sorted(folder.glob("*.nii.gz"))[::every]
    loaded = [nifti.load(path) for path in paths]
    rng = np.random.default_rng(0)
    real = [(describe(each.voxels[0], each.affine),) for each in loaded]
    altered = {
        "noise": [rng.normal(100, 20, each.shape) for each in loaded],
        "smoothed noise": [gaussian_filter(rng.normal(size=each.shape), rng.uniform(0.5, 3)) for each in loaded],
        "shuffled": [rng.permutation(each.voxels[0].ravel()).reshape(each.shape) for each in loaded],
        "inverted": [each.voxels[0].max() - each.voxels[0] + 1.0 for each in loaded],
    }
    false = {
        name: [(describe(v, each.affine),) for v, each in zip(voxels, loaded, strict=True)]
        for name, voxels in altered.items()
    }
    return real, false


@pytest.mark.skipif(not (HEARTS.is_dir() and HIPPOCAMPI.is_dir()), reason="needs the shared datasets")
@pytest.mark.parametrize(("own", "other", "every"), [(HEARTS, HIPPOCAMPI, 4), (HIPPOCAMPI, HEARTS, 4)])
def test_of_real_and_false_scans_the_real_ones_are_kept(own, other, every):
    real, false = appearances(own, every)
    elsewhere, _ = appearances(other, 4 * every)
    known = real[::7]
    judged = [scan for n, scan in enumerate(real) if n % 7]
    for name, scans in (false | {"another organ": elsewhere}).items():
        answers = unlike(known, [*judged, *scans])
        assert np.mean(answers[: len(judged)]) <= 0.05, name
        assert np.mean(answers[len(judged) :]) >= 0.95, name


@pytest.mark.skipif(not HEARTS.is_dir(), reason="needs the shared datasets")
def test_of_few_scans_most_are_kept():
    real = [
        (describe(scan.voxels[0], scan.affine),)
        for path in sorted(HEARTS.glob("*_frame01.nii.gz"))
        if (scan := nifti.load(path))
    ]
    rng = np.random.default_rng(0)
    left_out = []
    for _ in range(20):
        order = rng.permutation(len(real))
        left_out += unlike([real[place] for place in order[:6]], [real[place] for place in order[6:10]])
    assert np.mean(left_out) <= 0.13


def make_noise(path, like):
    image = nib.load(like)
    values = np.random.default_rng(len(path.name)).normal(100, 20, image.shape)
    nib.save(nib.Nifti1Image(values.astype(np.float32), image.affine), path)


def with_noise(folder, unlabelled):
    """Return a phantom with so many scans without masks, the first two of which are noise; and the names of those."""
    dataset = make_phantom(folder, labelled=4, unlabelled=unlabelled)
    cases = [case for case in open_dataset(dataset).cases if case.label is None][:2]
    for case in cases:
        make_noise(case.images[0], case.images[0])
    return dataset, [case.id for case in cases]


def test_noise_is_left_out_and_said(tmp_path, capsys):
    dataset, noise = with_noise(tmp_path / "data", 5)
    run = train(tmp_path, dataset, "run", max_steps=2)
    split = json.loads((run / "split.json").read_text())
    assert (split["unlike"], len(split["unlabelled"])) == (noise, 3)
    said = capsys.readouterr().err
    assert "2 of 5 scans without masks look like none that has one, and are left out (data.unlike=keep" in said
    assert ", ".join(noise) in said
    page = (run / "report.html").read_text()
    assert all(name in page for name in noise)
    again = train(tmp_path, dataset, "run", max_steps=2, resume=True)
    assert json.loads((again / "split.json").read_text()) == split
    kept = train(tmp_path, dataset, "kept", "data.unlike=keep", max_steps=2)
    assert json.loads((kept / "split.json").read_text())["unlike"] == []


def test_which_scans_are_left_out_is_decided_once(tmp_path, monkeypatch):
    """A run goes on with its own, whatever another version would say."""
    dataset, noise = with_noise(tmp_path / "data", 5)
    with plug_pulled_at(2):
        train(tmp_path, dataset, "run", max_steps=3)
    monkeypatch.setattr(splitting, "unlike", lambda known, others: [False] * len(others))
    run = train(tmp_path, dataset, "run", max_steps=3, resume=True)
    assert json.loads((run / "split.json").read_text())["unlike"] == noise
    assert state_of(run)["step"] == 3


def test_with_noise_alone_the_training_is_the_supervised_one_bit_for_bit(tmp_path, capsys):
    dataset, _ = with_noise(tmp_path / "data", 2)
    run = train(tmp_path, dataset, "semi", max_steps=3)
    assert "None is left: the terms on unlabelled scans are left out too." in capsys.readouterr().err
    alone = train(tmp_path, dataset, "supervised", max_steps=3, objective=[{"loss": "dice"}])
    first = state_of(run)["network"]
    second = state_of(alone)["network"]
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_without_a_term_on_masks_nothing_is_dropped_silently(tmp_path):
    dataset, _ = with_noise(tmp_path / "data", 2)
    with pytest.raises(UserError, match="looks at unlabelled scans") as caught:
        train(tmp_path, dataset, "run", objective=[{"loss": "ncut", "on": "unlabelled", "options": {"radius": 2}}])
    assert "all 2 of the dataset look like none with a mask" in str(caught.value)
    assert "data.unlike=keep" in str(caught.value)


def test_of_two_scans_with_masks_nothing_is_concluded(tmp_path):
    dataset, _ = with_noise(tmp_path / "data", 2)
    run = train(tmp_path, dataset, "run", "data.validation_fraction=0.5", max_steps=2)
    split = json.loads((run / "split.json").read_text())
    assert (len(split["labelled"]), len(split["unlabelled"]), split["unlike"]) == (2, 2, [])
