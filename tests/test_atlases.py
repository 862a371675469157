"""Atlases: maps that are known, fusion by hand, and their vote in a run from training to prediction."""

import shutil

import numpy as np
import pytest
import torch
from runs_fixtures import TINY, make_phantom, train
from scipy import ndimage

from pipeline import runs
from pipeline.atlases import fusion
from pipeline.atlases.fusion import Atlases
from pipeline.atlases.registration import Moving, apply_affine, correlation, padded, register
from pipeline.errors import UserError
from pipeline.prediction.predictor import Ensemble
from pipeline.runs.models import load_model

VOTING = {"atlases": {"weight": 0.5}}


def blobs(shape=(30, 34, 26), seed=0):
    """A smooth image with structure everywhere, in standard deviations."""
    noise = np.random.default_rng(seed).normal(size=shape)
    image = ndimage.gaussian_filter(noise, 3)
    return torch.tensor((image - image.mean()) / image.std(), dtype=torch.float32)


def ball(shape, centre, radius):
    axes = np.meshgrid(*(np.arange(side) for side in shape), indexing="ij")
    return torch.tensor(sum((axis - place) ** 2 for axis, place in zip(axes, centre, strict=True)) <= radius**2)


# Registration


def test_a_scan_registered_to_itself_stays_where_it_is():
    image = blobs()
    points = register(Moving([image[None]]), image[None])
    axes = [torch.arange(side) - (side - 1) / 2 for side in image.shape]
    there = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    assert (points[0] - there).abs().mean() < 0.1


def test_a_known_shift_and_rotation_are_found():
    """SciPy's own resampling made the moving scan; the map that it was given is the one to find."""
    image = blobs((32, 32, 32))
    angle = np.deg2rad(6)
    matrix = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    shift = np.array([1.5, -1.0, 0.8])
    middle = np.array([15.5] * 3)
    # moving(y) = fixed(M (y - c) + c + s): what one shows at x, the moving one shows at M^-1 (x - c - s) + c.
    moved = ndimage.affine_transform(image.numpy(), matrix, middle + shift - matrix @ middle, order=3, mode="nearest")
    points = register(Moving([torch.tensor(moved, dtype=torch.float32)[None]]), image[None])[0]
    inner = (slice(8, 24),) * 3
    axes = torch.arange(32) - 15.5
    there = torch.stack(torch.meshgrid(axes, axes, axes, indexing="ij"), dim=-1).double()
    expected = (there - torch.tensor(shift)) @ torch.tensor(np.linalg.inv(matrix)).T
    assert (points[inner] - expected[inner]).norm(dim=-1).mean() < 0.5
    assert (points[inner] - there[inner]).norm(dim=-1).mean() > 1.5


def test_scans_of_other_shapes_are_registered_together_as_they_are_alone():
    fixed = blobs((30, 34, 26))[None]
    others = [blobs((28, 36, 30), 1)[None], blobs((32, 30, 24), 2)[None]]
    together = Atlases(others, [torch.zeros(each.shape[1:], dtype=torch.long) for each in others], 2)
    alone = [Atlases([each], [torch.zeros(each.shape[1:], dtype=torch.long)], 2) for each in others]
    likeness = together.vote(fixed).likeness
    assert torch.allclose(likeness, torch.cat([each.vote(fixed).likeness for each in alone]), atol=0.02)


def test_correlation_is_numpys_and_0_without_contrast():
    one = torch.randn(2, 1, 5, 6, 7)
    other = torch.randn(2, 1, 5, 6, 7)
    everywhere = torch.ones(2, 1, 5, 6, 7)
    expected = [np.corrcoef(one[n].flatten(), other[n].flatten())[0, 1] for n in (0, 1)]
    assert correlation(one, other, everywhere).numpy() == pytest.approx(expected, abs=1e-5)
    assert correlation(one, everywhere, everywhere).tolist() == [0, 0]


def test_an_affine_map_of_points_is_the_matrix_product():
    points = torch.randn(1, 2, 3, 4, 3)
    matrix = torch.randn(1, 3, 3)
    shift = torch.randn(1, 3)
    assert torch.allclose(apply_affine(points, matrix, shift), points @ matrix[0].T + shift[0], atol=1e-5)


def test_padding_goes_behind_the_last_voxels():
    volume = torch.ones(1, 2, 3, 4)
    found = padded(volume, (3, 5, 4))
    assert found.shape == (1, 3, 5, 4)
    assert found[:, :2, :3].sum() == found.sum() == 24


# Fusion


def test_one_atlas_of_the_same_scan_says_its_own_mask():
    image = blobs()
    label = ball(image.shape, (14, 17, 13), 7).long()
    vote = Atlases([image[None]], [label], 2).vote(image[None])
    said = vote.probabilities.argmax(dim=0)
    overlap = 2 * (said * label).sum() / (said.sum() + label.sum())
    assert overlap > 0.97
    assert vote.likeness.item() > 0.98


def test_the_atlas_that_is_alike_outvotes_one_that_is_not():
    image = blobs()
    right = ball(image.shape, (14, 17, 13), 7).long()
    wrong = ball(image.shape, (20, 8, 20), 5).long()
    said = Atlases([image[None], blobs(seed=9)[None]], [right, wrong], 2).vote(image[None])
    found = said.probabilities.argmax(dim=0)
    assert 2 * (found * right).sum() / (found.sum() + right.sum()) > 0.95
    assert said.likeness[0] > said.likeness[1] + 0.1


def test_probabilities_add_up_to_one_and_what_is_not_annotated_has_no_vote(monkeypatch):
    image = blobs()
    label = ball(image.shape, (14, 17, 13), 7).long()
    label[:, :10] = -1
    identity = torch.stack(
        torch.meshgrid(*[torch.arange(side) - (side - 1) / 2 for side in image.shape], indexing="ij"), dim=-1
    )
    monkeypatch.setattr(fusion, "register", lambda *_: identity[None])
    said = Atlases([image[None]], [label], 2).vote(image[None]).probabilities
    assert torch.allclose(said.sum(dim=0), torch.ones(image.shape), atol=1e-5)
    assert said[:, :, :10].unique().tolist() == [0.5]
    assert torch.allclose(said[1, :, 11:], label[:, 11:].float(), atol=1e-4)


def test_no_atlas_is_refused():
    with pytest.raises(ValueError, match="no labelled scan"):
        Atlases([], [], 2)


# In a run


@pytest.fixture(autouse=True, scope="module")
def lenient():
    """Phantoms are not alike enough to vote on each other; here they do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.runs.atlases.LEAST_AGREEMENT", 0.0)
        yield


@pytest.fixture(scope="module")
def voting(tmp_path_factory, lenient):
    folder = tmp_path_factory.mktemp("atlases")
    make_phantom(folder / "data")
    return folder, train(folder, folder / "data", "run", **VOTING)


def test_the_vote_is_in_the_scores_of_the_run_and_in_its_predictions(voting):
    folder, run = voting
    plain = train(folder, folder / "data", "plain")
    assert (run / "checkpoints").exists()
    assert (run / "cases.csv").read_text() != (plain / "cases.csv").read_text()
    before = (run / "cases.csv").read_text()
    runs.validate(run)
    assert (run / "cases.csv").read_text() == before


def test_weights_of_the_network_are_those_without_atlases(voting):
    folder, run = voting
    ours = load_model(run, "last").predictor
    assert isinstance(ours, Ensemble)
    other = load_model(train(folder, folder / "data", "same"), "last").predictor
    theirs = other.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.predictors[0].network.state_dict().items())


def test_probabilities_are_the_weighted_mean_and_agree_with_the_labels(voting):
    from pipeline import nifti

    folder, run = voting
    model = load_model(run, "last").predictor
    scan = [nifti.load(next((folder / "data/imagesTs").iterdir()))]
    network = model.predictors[0].probabilities(scan)
    whole = model.probabilities(scan)
    vote = 2 * whole - network
    assert np.allclose(vote.sum(axis=0), 1, atol=1e-3)
    assert vote.min() > -1e-3
    assert not np.allclose(vote, network, atol=0.05)
    chosen = np.array(model.label_values)[whole.argmax(axis=0)]
    assert (chosen == model.segment(scan)).mean() > 0.9999


def test_atlases_that_were_changed_gone_or_of_another_task_are_refused(voting, tmp_path):
    import shutil

    _, run = voting
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    state = torch.load(copy / "atlases.pt", weights_only=True)
    (copy / "atlases.pt").unlink()
    with pytest.raises(UserError, match=r"atlases.pt.*is not there"):
        load_model(copy, "last")
    torch.save(state | {"images": [2 * image for image in state["images"]]}, copy / "atlases.pt")
    with pytest.raises(UserError, match="was changed after it was written"):
        load_model(copy, "last")
    (copy / ".fewmask").unlink()
    for broken in (
        state | {"images": []},
        state | {"images": [image.double() for image in state["images"]]},
        state | {"annotations": [annotation + 9 for annotation in state["annotations"]]},
        state | {"images": [image[:, 1:] for image in state["images"]]},
        {"format": 2},
    ):
        torch.save(broken, copy / "atlases.pt")
        with pytest.raises(UserError, match=r"atlases.pt.*hold"):
            load_model(copy, "last")


def test_atlases_need_volumes_and_labels(voting):
    folder, _ = voting
    with pytest.raises(UserError, match=r"atlases.weight.*volumes"):
        train(
            folder,
            folder / "data",
            "flat",
            "data.dimensions=2",
            "data.patch_size=[16,16]",
            "data.spacing_mm=[2.5,2.5]",
            **VOTING,
        )


def test_at_most_so_many_patients_vote(voting):
    folder, _ = voting
    run = train(folder, folder / "data", "one", atlases={"weight": 0.5, "most": 1})
    assert len(torch.load(run / "atlases.pt", weights_only=True)["images"]) == 1


def test_a_cross_validation_votes_too(voting):
    folder, _ = voting
    from runs_fixtures import write_recipe

    recipe = runs.read_recipe(write_recipe(folder, folder / "data", **VOTING))
    runs.cross_validate(recipe, folder / "folds", 2)
    model = load_model(folder / "folds", "last").predictor
    assert len(model.predictors) == 2
    assert model.atlases is not None
    assert model.atlas_weight == 0.5


# Whether they may vote


def test_agreement_leaves_a_patient_out_with_all_scans_and_is_dice():
    image = blobs()
    label = ball(image.shape, (14, 17, 13), 7).long()
    pair = Atlases([image[None], image[None]], [label, label], 2)
    assert pair.agreement(["a", "b"]) > 0.97
    assert pair.agreement(["a", "a"]) == 0
    other = ball(image.shape, (22, 8, 18), 5).long()
    assert Atlases([image[None], image[None]], [label, other], 2).agreement(["a", "b"]) < 0.05


def test_atlases_that_do_not_agree_do_not_vote_and_the_report_says_so(voting, monkeypatch):
    from pipeline.runs import atlases

    folder, _ = voting
    monkeypatch.setattr(atlases, "LEAST_AGREEMENT", 1.01)
    run = train(folder, folder / "data", "silent", **VOTING)
    plain = train(folder, folder / "data", "plain2")
    assert (run / "cases.csv").read_text() == (plain / "cases.csv").read_text()
    assert not isinstance(load_model(run, "last").predictor, Ensemble)
    scores = runs.validate(run)
    assert "atlases do not vote: left out in turn, their masks are found with Dice" in scores.notes[-1]
    assert "atlases do not vote" in (run / "report.html").read_text()


def test_atlases_of_a_training_that_ended_before_its_first_step_do_not_vote_in_another(tmp_path, monkeypatch):
    dataset = make_phantom(tmp_path / "scans")
    settings = {"objective": [{"loss": "dice"}], "atlases": {"weight": 0.3, "most": 3}}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pipeline.runs.setup.read_atlases", interrupted)
        train(tmp_path, dataset, "run", **settings)
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # As if it had been killed while the budget was still timed.
    assert (tmp_path / "run" / "atlases.pt").is_file()
    coarse = TINY["data"] | {"spacing_mm": [4.0, 4.0, 4.0]}
    runs_made = [train(tmp_path, dataset, name, **settings, data=coarse, seed=77) for name in ("run", "fresh")]
    other, fresh = (torch.load(run / "atlases.pt") for run in runs_made)
    assert [image.shape for image in other["images"]] == [image.shape for image in fresh["images"]]
    assert other["agreement"] == fresh["agreement"]


def interrupted(*_):
    raise KeyboardInterrupt
