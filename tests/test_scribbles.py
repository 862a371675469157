"""Masks of which only some voxels are annotated: read, checked, sampled, scored, and made of whole ones."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import fewmask
from runs_fixtures import digest, files_in, make_phantom, state_of, train

from pipeline.data.annotation import FIRST_CLASS, OUTSIDE, UNANNOTATED, class_locations, implied_background
from pipeline.data.cache import Cache
from pipeline.data.layouts import read_dataset
from pipeline.data.patches import cut_patches
from pipeline.data.relabelling import relabel
from pipeline.data.repairs import declarations
from pipeline.data.simulated import KINDS, shared_out
from pipeline.data.transforms import Grid
from pipeline.errors import UserError
from pipeline.runs.checking import check, survey
from pipeline.runs.simulation import simulate_labels

ACDC = Path(__file__).resolve().parents[2] / "shared" / "data" / "ACDC"
OBJECTIVE = [{"loss": "dice"}, {"loss": "ncut", "on": "all", "weight": 0.1, "options": {"radius": 2}}]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_phantom(tmp_path_factory.mktemp("scribbles") / "data", labelled=5, unlabelled=1)


@pytest.fixture(scope="module")
def scribbled(phantom, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scribbled") / "copy"
    simulate_labels(phantom, folder, "scribbles", seed=2)
    return folder


def arrays(folder, section="training"):
    """The id of each case of a copy, and its mask."""
    content = json.loads((folder / "dataset.json").read_text())
    return {case["id"]: np.asarray(nib.load(folder / case["label"]).dataobj) for case in content[section]}


def whole(phantom):
    return {path.name.split(".")[0]: np.asarray(nib.load(path).dataobj) for path in (phantom / "labelsTr").iterdir()}


# Simulated masks


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_partial_masks_agree_with_the_whole_ones_and_those_that_validate_are_whole(phantom, tmp_path, kind):
    simulate_labels(phantom, tmp_path / "copy", kind, seed=1)
    truth = whole(phantom)
    made = arrays(tmp_path / "copy")
    assert len(made) == 4
    for name, mask in made.items():
        kept = mask != 255
        assert 0 < kept.mean() < 0.5
        assert (mask[kept] == truth[name][kept]).all()
        assert {0, 1, 2} <= set(np.unique(mask)), "every structure and background are drawn"
    ((name, mask),) = arrays(tmp_path / "copy", "validation").items()
    np.testing.assert_array_equal(mask, truth[name])
    found = survey(read_dataset(tmp_path / "copy"))
    assert found.findings == []
    assert {facts.label_voxels[255] > 0 for facts in found.seen.values() if 255 in (facts.label_voxels or {})} == {True}


def test_a_seed_makes_the_same_files_and_another_makes_others(phantom, scribbled, tmp_path):
    for name, seed in (("same", 2), ("other", 3)):
        simulate_labels(phantom, tmp_path / name, "scribbles", seed=seed)
    names = [path.relative_to(scribbled) for path in files_in(scribbled)]
    assert all((scribbled / name).read_bytes() == (tmp_path / "same" / name).read_bytes() for name in names)
    assert any(
        (scribbled / "labels" / path.name).read_bytes() != path.read_bytes()
        for path in (tmp_path / "other" / "labels").iterdir()
        if (scribbled / "labels" / path.name).exists()
    )


def test_a_folder_that_holds_something_and_the_dataset_itself_are_left_as_they_are(phantom, tmp_path):
    before = files_in(phantom)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="folder-not-empty"):
        simulate_labels(phantom, tmp_path, "points")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert files_in(phantom) == before


def test_strokes_run_along_the_middle_and_touch_no_border():
    x, y = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    radius = np.hypot(x - 32, y - 32)
    ring = ((radius > 12) & (radius < 22)).astype(np.uint8)[..., None]
    kept = KINDS["scribbles"](ring, 2, 3, np.random.default_rng(0))[..., 0]
    drawn = kept & (ring[..., 0] == 1)
    assert drawn.sum() > 30
    assert 15 < np.median(radius[drawn]) < 19
    beside = kept & (ring[..., 0] == 0)
    assert radius[beside].max() <= 22 + 0.5 * 43 + 1, "strokes of background are near the structure"


def test_slices_boxes_and_points_keep_what_is_asked_for():
    mask = np.zeros((20, 24, 16), np.uint8)
    mask[5:15, 6:18, 4:12] = 1
    mask[8:11, 8:12, 6:9] = 2
    rng = np.random.default_rng(0)
    slices = KINDS["slices"](mask, 2, 3, rng)
    assert sorted(set(slices.mean(axis=(0, 1)))) == [0.0, 1.0]
    assert slices.any(axis=(0, 1)).sum() == 3
    assert mask.any(axis=(0, 1))[slices.any(axis=(0, 1))].all()
    assert KINDS["slices"](mask, 2, 100, rng).any(axis=(0, 1)).sum() == 8
    assert KINDS["boxes"](mask, 2, 1, rng).sum() == 5 * 6 * 4
    points = KINDS["points"](mask, 2, 7, rng)
    assert [int((points & (mask == value)).sum()) for value in range(3)] == [7, 7, 7]
    nothing = np.zeros((4, 4, 4), np.uint8)
    assert [int(KINDS[kind](nothing, 2, 1, rng).sum()) for kind in ("slices", "boxes", "points")] == [0, 0, 1]


@pytest.mark.parametrize(("classes", "cases", "amount"), [(3, 7, 1), (4, 6, 2), (5, 5, 4)])
def test_classes_are_shared_out_evenly(classes, cases, amount):
    found = shared_out(range(1, classes + 1), cases, amount, np.random.default_rng(0))
    assert all(len(set(each)) == amount for each in found)
    counts = [sum(value in each for each in found) for value in range(1, classes + 1)]
    assert max(counts) - min(counts) <= 1


def test_dropped_classes_are_named_and_train(phantom, tmp_path):
    simulate_labels(phantom, tmp_path / "copy", "classes")
    content = json.loads((tmp_path / "copy" / "dataset.json").read_text())
    assert "ignore" not in content
    truth = whole(phantom)
    values = {"organ": 1, "nodule": 2}
    for case in content["training"]:
        (name,) = case["annotated"]
        mask = arrays(tmp_path / "copy")[case["id"]]
        np.testing.assert_array_equal(mask, np.where(truth[case["id"]] == values[name], values[name], 0))
    assert {name for case in content["training"] for name in case["annotated"]} == {"organ", "nodule"}
    assert "annotated" not in content["validation"][0]
    with pytest.raises(UserError, match="--amount"):
        simulate_labels(phantom, tmp_path / "more", "classes", amount=2)
    run = train(tmp_path, tmp_path / "copy", "run", max_steps=1)
    assert "not annotated" not in (run / "cases.csv").read_text()


def test_the_command_says_what_it_wrote_and_what_is_next(phantom, tmp_path):
    done = fewmask("simulate-labels", phantom, "--kind", "points", "--amount", "3", "-o", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert "4 masks are partial" in done.stdout
    assert "fewmask train scribbles dataset=" in done.stdout
    again = fewmask("simulate-labels", phantom, "--kind", "points", "-o", tmp_path / "copy")
    assert again.returncode == 2
    assert "Traceback" not in again.stderr


# Reading and checking


def rewritten(scribbled, folder, values, **told):
    """A copy of a scribbled dataset with other values in its masks."""
    folder.mkdir()
    content = json.loads((scribbled / "dataset.json").read_text())
    for side in ("training", "validation", "unlabeled"):
        for case in content[side]:
            case["image"] = [str((scribbled / path).resolve()) for path in case["image"]]
            if "label" in case:
                mask = nib.load(scribbled / case["label"])
                changed = np.vectorize(values.get)(np.asarray(mask.dataobj)).astype(np.uint8)
                case["label"] = str(folder / Path(case["label"]).name)
                nib.save(nib.Nifti1Image(changed, mask.affine), case["label"])
    (folder / "dataset.json").write_text(json.dumps(content | told))
    return folder / "dataset.json"


def test_zero_for_what_nobody_annotated_trains_to_the_bits_of_another_value(scribbled, tmp_path):
    zero = rewritten(
        scribbled,
        tmp_path / "zero",
        {255: 0, 0: 1, 1: 2, 2: 3},
        labels={"background": 1, "organ": 2, "nodule": 3},
        ignore=0,
    )
    own = rewritten(scribbled, tmp_path / "own", {value: value for value in (0, 1, 2, 255)})
    index = check(zero, Path("/"))
    assert (dict(index.labels), index.ignore) == ({0: "background", 1: "organ", 2: "nodule"}, 3)
    assert index.warnings == ()
    one, other = (
        train(tmp_path, path, path.parent.name + "-run", root="/", objective=OBJECTIVE) for path in (zero, own)
    )
    assert digest(state_of(one)["network"]) == digest(state_of(other)["network"])
    assert (one / "cases.csv").read_text() == (other / "cases.csv").read_text()
    chosen = relabel(read_dataset(zero, Path("/")), {"lump": ("nodule",)})
    assert chosen.cases[0].relabelled == ((3, 1), (0, 2))


def test_copies_of_a_dataset_with_zero_to_be_ignored_say_what_their_files_have(scribbled, tmp_path):
    about = {"labels": {"background": 1, "organ": 2, "nodule": 3}, "ignore": 0}
    zero = rewritten(scribbled, tmp_path / "zero", {255: 0, 0: 1, 1: 2, 2: 3}, **about)
    simulate_labels(zero, tmp_path / "copy", "points", root=Path("/"))
    before, after = check(zero, Path("/")), check(tmp_path / "copy")
    assert (after.labels, after.ignore) == (before.labels, before.ignore)
    (name,) = (case.id for case in after.dataset.cases if case.role == "validation")
    assert after.facts[name].label_voxels == before.facts[name].label_voxels
    assert declarations(before.dataset) == {
        "labels": {"1": "background", "2": "organ", "3": "nodule"},
        "ignore": 0,
        "channel_names": {"0": "MRI"},
    }


def test_zero_to_be_ignored_needs_a_value_for_background(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps({"ignore": 0, "training": [{"image": "a.nii", "label": "b.nii"}]}))
    found = survey(read_dataset(tmp_path / "list.json")).problems
    assert [p.code for p in found] == ["bad-labels", "missing-file", "missing-file", "nothing-there"]
    assert "no label is called background" in found[0].message


def test_a_value_that_fills_most_of_the_masks_is_asked_about(scribbled, tmp_path):
    unnamed = rewritten(scribbled, tmp_path / "unnamed", {0: 0, 1: 1, 2: 2, 255: 3}, labels={}, ignore=None)
    (warning,) = (
        found for found in survey(read_dataset(unnamed, Path("/"))).warnings if found.code == "looks-unannotated"
    )
    assert "3 in most voxels of most masks" in warning.message
    assert "ignore=3" in warning.remedy
    said = read_dataset(unnamed, Path("/"), options={"ignore": 3})
    assert survey(said).findings == []
    strokes, whole = fewmask("check", unnamed, "--root", "/").stdout.splitlines()[-2:]
    ending = f"fewmask train scribbles dataset={unnamed} root=/ layout.options.ignore=3"
    assert strokes == f"Next, if 3 is what nobody has annotated: {ending}"
    assert whole == f"Or, if it is a structure: fewmask train {unnamed} root=/"


def test_background_beside_strokes_is_said_to_be_unknown_where_nothing_says_what_is_annotated(
    phantom, tmp_path, capsys
):
    train(tmp_path, phantom, "run", objective=[{"loss": "dice"}], max_steps=1, data={"background_mm": 50})
    assert "data.background_mm changes nothing" in capsys.readouterr().err


def test_the_value_that_fills_them_is_asked_about_though_a_label_is_larger(scribbled, tmp_path):
    unnamed = rewritten(scribbled, tmp_path / "unnamed", {0: 0, 1: 1, 2: 250, 255: 200}, labels={}, ignore=None)
    found = survey(read_dataset(unnamed, Path("/"))).warnings
    assert ["ignore=200" in warning.remedy for warning in found if warning.code == "looks-unannotated"] == [True]


def test_whole_masks_are_asked_about_nothing(phantom, tmp_path):
    content = json.loads((phantom / "dataset.json").read_text()) | {"labels": {}}
    content["training"] = [
        {key: str((phantom / path).resolve()) for key, path in case.items()} for case in content["training"]
    ]
    (tmp_path / "list.json").write_text(json.dumps({"training": content["training"]}))
    assert survey(read_dataset(tmp_path / "list.json", Path("/"))).findings == []


# Training and scoring


def test_patches_are_centred_on_what_is_annotated():
    annotation = np.full((1, 60, 60, 1), UNANNOTATED, np.uint8)
    annotation[0, 5, 50:53] = FIRST_CLASS + 1
    annotation[0, 40, 10] = FIRST_CLASS
    case = {"image": np.zeros((1, 60, 60, 1), np.float32), "annotation": annotation}
    case["locations"] = class_locations(annotation, 2)
    rngs = [np.random.default_rng(n) for n in range(300)]
    patches = cut_patches([case] * 300, rngs, (9, 9))["annotation"]
    seen = (patches >= FIRST_CLASS).flatten(1).any(dim=1).float().mean()
    assert seen > 0.6, "two thirds are centred on a class"
    every = cut_patches([case] * 300, rngs, (9, 9), foreground_share=1.0)["annotation"]
    assert (every == FIRST_CLASS + 1).flatten(1).any(dim=1).all()


def test_scribbles_choose_no_post_processing_and_whole_masks_that_validate_bring_no_note(scribbled, tmp_path):
    run = train(tmp_path, scribbled, "run", objective=OBJECTIVE, max_steps=1)
    assert "postprocessing: []" in (run / "config.yaml").read_text()
    assert json.loads((run / "summary.json").read_text())["notes"] == []


def test_scores_of_scribbles_carry_a_note(scribbled, tmp_path):
    content = json.loads((scribbled / "dataset.json").read_text())
    for section in ("training", "validation", "unlabeled"):
        for case in content[section]:
            case["image"] = [str((scribbled / path).resolve()) for path in case["image"]]
            case["label"] = str((scribbled / case["label"]).resolve()) if "label" in case else None
    content["validation"] = content["training"][:2]
    content["training"] = content["training"][2:]
    (tmp_path / "list.json").write_text(json.dumps(content))
    run = train(tmp_path, tmp_path / "list.json", "run", root="/", objective=[{"loss": "dice"}], max_steps=1)
    (note,) = json.loads((run / "summary.json").read_text())["notes"]
    assert note.startswith("2 of 2 masks have voxels that nobody annotated, which are not scored")


@pytest.mark.skipif(not ACDC.is_dir(), reason="needs ../shared/data/ACDC")
def test_real_scribbles_are_read_as_their_files_say(tmp_path):
    listed = json.loads((ACDC / "list_scribbles_070.json").read_text())
    listed |= {"training": listed["training"][:4], "validation": listed["validation"][:2]}
    for case in listed["training"] + listed["validation"]:
        case |= {key: str(ACDC / case[key]) for key in ("image", "label")}
    (tmp_path / "list.json").write_text(json.dumps(listed))
    index = check(tmp_path / "list.json", Path("/"))
    assert index.ignore == 4
    for case in listed["training"]:
        values, counts = np.unique(np.asarray(nib.load(case["label"]).dataobj), return_counts=True)
        facts = index.facts[case["id"]]
        assert facts.label_voxels == dict(zip(values.tolist(), counts.tolist(), strict=True))
        assert facts.largest_pieces == {}
        assert facts.label_voxels[4] > 0.9 * np.prod(facts.shape)
    assert all(4 not in index.facts[case["id"]].label_voxels for case in listed["validation"])


def by_brute_force(codes, size_mm, beyond_mm, tied=min):
    """Make background of what is far from a structure of one voxel, or behind strokes of background."""
    places = np.stack(np.meshgrid(*map(np.arange, codes.shape), indexing="ij"), axis=-1)
    (structure,) = np.argwhere(codes > FIRST_CLASS)
    direct = np.linalg.norm((places - structure) * size_mm, axis=-1)
    background = np.argwhere(codes == FIRST_CLASS)
    strokes = [place for place in background if codes[tuple((place + structure) // 2)] == UNANNOTATED]
    implied = direct > beyond_mm
    for place in places.reshape(-1, 3) if strokes else ():
        lengths = np.linalg.norm((np.array(strokes) - place) * size_mm, axis=-1)
        nearest = [direct[tuple(each)] for each, mm in zip(strokes, lengths, strict=True) if mm < lengths.min() + 1e-9]
        implied[tuple(place)] |= lengths.min() + tied(nearest) <= 1.2 * direct[tuple(place)]
    return np.where(implied & (codes == UNANNOTATED), FIRST_CLASS, codes)


def test_voxels_far_from_every_structure_or_behind_a_stroke_of_background_count_as_background():
    codes = np.full((9, 5, 3), UNANNOTATED, np.uint8)
    codes[2, 2, 1] = FIRST_CLASS + 1
    codes[5, 2, 1] = codes[5, 3, 1] = FIRST_CLASS
    codes[8, 4] = OUTSIDE
    found = implied_background(codes[None], (2.0, 2.1, 10.0), 13.0)[0]
    assert found[8, 2, 1] == FIRST_CLASS  # Behind.
    assert found[4, 2, 1] == UNANNOTATED  # Before it.
    assert found[0, 2, 1] == UNANNOTATED  # On the other side.
    np.testing.assert_array_equal(found, by_brute_force(codes, (2.0, 2.1, 10.0), 13.0))


def test_a_region_that_is_annotated_whole_hides_nothing_behind_it():
    codes = np.full((12, 5, 1), UNANNOTATED, np.uint8)
    codes[:2] = FIRST_CLASS + 1
    codes[2:6] = FIRST_CLASS
    np.testing.assert_array_equal(implied_background(codes[None], (1.0, 1.0, 1.0), 99.0)[0], codes)
    codes[2:5] = UNANNOTATED  # A stroke is left.
    assert (implied_background(codes[None], (1.0, 1.0, 1.0), 99.0)[0][6:] == FIRST_CLASS).all()


@pytest.mark.parametrize("seed", range(20))
def test_implied_background_is_that_of_all_distances(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 3))
    codes = rng.choice([UNANNOTATED, FIRST_CLASS], shape, p=[0.9, 0.1]).astype(np.uint8)
    codes[tuple(rng.integers(0, shape))] = FIRST_CLASS + 2
    size_mm, beyond_mm = rng.uniform(0.5, 5, 3), float(rng.choice([6.0, 99.0]))
    found = implied_background(codes[None], size_mm.tolist(), beyond_mm)[0] == FIRST_CLASS
    least, most = (by_brute_force(codes, size_mm, beyond_mm, tied) == FIRST_CLASS for tied in (max, min))
    assert not (least & ~found).any()
    assert not (found & ~most).any()


def test_without_structures_or_unannotated_voxels_nothing_is_implied():
    nothing = np.full((1, 3, 3, 3), UNANNOTATED, np.uint8)
    nothing[0, 0, 0, 0] = FIRST_CLASS
    assert implied_background(nothing, (1.0, 1.0, 1.0), 1.0) is nothing
    whole = np.full((1, 3, 3, 3), FIRST_CLASS, np.uint8)
    whole[0, 0, 0, 0] = FIRST_CLASS + 1
    assert implied_background(whole, (1.0, 1.0, 1.0), 1.0) is whole


def test_far_background_is_prepared_apart_and_changes_no_whole_mask(scribbled, phantom, tmp_path):
    index = check(scribbled)
    grid = Grid("RAS", (2.5, 2.5, 2.5))
    near, far = (Cache(folder=tmp_path / "cache", index=index, grid=grid, background_mm=mm) for mm in (None, 20.0))
    for case in index.dataset.cases:
        before, after = (cache.get(case)["annotation"] for cache in (near, far))
        changed = before != after
        assert changed.any() == (case.role == "training" and case.label is not None)
        assert set(before[changed]) <= {UNANNOTATED}
        assert set(after[changed]) <= {FIRST_CLASS}
        assert near._name(case) != far._name(case)
    run = train(tmp_path, scribbled, "run", "data.background_mm=20", objective=OBJECTIVE, max_steps=1)
    assert "background_mm: 20.0" in (run / "config.yaml").read_text()


@pytest.mark.skipif(not ACDC.is_dir(), reason="needs ../shared/data/ACDC")
def test_no_real_heart_is_farther_than_40_mm_from_its_scribbles_and_hardly_any_behind_background():
    hidden = hearts = 0
    for case in json.loads((ACDC / "list_scribbles_070.json").read_text())["training"][:6]:
        scribble = nib.load(ACDC / case["label"])
        values = np.asarray(scribble.dataobj)
        codes = np.where(values == 4, UNANNOTATED, values + FIRST_CLASS).astype(np.uint8)[None]
        found = implied_background(codes, scribble.header.get_zooms(), 40.0)[0]
        truth = np.asarray(nib.load(ACDC / case["label"].replace("scribbles", "labels")).dataobj)
        changed = found != codes[0]
        assert changed.mean() > 0.8
        hidden += np.count_nonzero(truth[changed])
        hearts += np.count_nonzero(truth)
    assert hidden <= 1e-4 * hearts
