"""The gate: whatever is wrong with a dataset is found, named and said how to mend, and what is merely odd passes."""

import gzip
import itertools
import json
import random

import damage
import nibabel as nib
import numpy as np
import pytest
import torch
from commands import fewmask
from damage import AFFINE, DATASETS, FILES, LAYOUTS, NAMES, PACKED, SHAPE, WHOLE, save, write_sound
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from isal.isal_zlib import decompressobj

from pipeline import nifti, runs
from pipeline.data.codes import CODES, is_warning
from pipeline.data.layouts import read_dataset
from pipeline.data.transforms import Grid
from pipeline.errors import UserError
from pipeline.nifti import container
from pipeline.prediction.predictor import Predictor
from pipeline.recipe import Recipe
from pipeline.runs import checking, prediction
from pipeline.runs.models import TrainedModel
from pipeline.types import Task

SINGLE = PACKED | FILES | WHOLE | NAMES


class Bright(torch.nn.Module):
    """Two classes: what is far brighter than the mean of the scan, and what is not."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(1))

    def forward(self, image):
        return torch.cat([1.5 - image, image - 1.5], 1) * self.gain


@pytest.fixture
def model(monkeypatch):
    """A model of one channel at 1 x 1 x 2 mm, which ``predict`` takes for any run's."""
    raw = {"dataset": "none", "objective": [{"loss": "dice"}], "device": "cpu", "precision": "float32"}
    raw["data"] = {
        **{"dimensions": 3, "orientation": "RAS", "spacing_mm": [1, 1, 2], "patch_size": [16, 16, 16]},
        **{"batch_size": 1, "unlabelled_batch_size": 1, "workers": 0},
    }
    raw["postprocessing"] = []
    task = Task({0: "background", 1: "bright"}, ("MRI",))
    predictor = Predictor(
        network=Bright(),
        grid=Grid("RAS", (1.0, 1.0, 2.0)),
        patch_size=(16, 16, 16),
        label_values=(0, 1),
        precision=torch.float32,
    )
    recipe = Recipe.model_validate_json(json.dumps(raw))
    made = TrainedModel(settings=recipe, task=task, predictor=predictor, step=1)
    monkeypatch.setattr(prediction, "load_model", lambda *_: made)
    return made


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Sound datasets, one a layout; a test spoils a copy."""
    return {layout: write_sound(layout, tmp_path_factory.mktemp(layout) / "data") for layout in LAYOUTS}


def look_at(source, **options):
    """Return problems and warnings, whether the list or the files are at fault."""
    try:
        look = checking.survey(read_dataset(source, **options))
    except UserError as error:
        return list(error.problems), []
    return look.problems, look.warnings


def spoil(made, name, number):
    """Damage one case, and return the damage and the files that may be blamed for it."""
    what = SINGLE[name]
    files = {"image": [made.images[number]], "label": [made.labels[number]]}
    files["case"] = [made.images[number], made.labels[number]]
    what.spoil(files["case"] if what.on == "case" else files[what.on][0])
    return what, {str(path) for path in files["case"]}


def case_for(name):
    """Choose the case to damage: one that is gzipped where that matters, and any of them elsewhere."""
    return len(name) % (4 if name in FILES else 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_untouched_dataset_passes_without_a_word(sound, layout):
    assert look_at(sound[layout].source) == ([], [])


def assert_said_well(problems):
    for problem in problems:
        assert problem.code in CODES
        assert problem.where
        assert len(problem.message) > 5
        assert len(problem.remedy) > 5
        assert "\n" not in problem.message + problem.remedy


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SINGLE)
def test_a_damaged_file_is_named_and_no_other(sound, tmp_path, layout, name):
    made = sound[layout].moved(tmp_path / "spoilt")
    what, blamed = spoil(made, name, case_for(name))
    problems, warnings = look_at(made.source)
    found = warnings if what.warning else problems
    assert_said_well(problems + warnings)
    assert {problem.code for problem in found} & set(what.codes), problems + warnings
    assert {problem.where for problem in problems + warnings} <= blamed
    assert all(is_warning(problem) for problem in warnings)
    if what.warning:
        assert problems == []
        assert checking.survey(read_dataset(made.source), strict=True).problems == warnings
    else:
        with pytest.raises(UserError) as raised:  # what train begins with
            checking.check(made.source)
        assert {problem.code for problem in raised.value.problems} == {problem.code for problem in problems}


@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for name, (layouts, *_) in DATASETS.items() for layout in layouts]
)
def test_a_mistake_in_a_list_or_a_name_is_named(sound, tmp_path, layout, name):
    made = sound[layout].moved(tmp_path / "spoilt")
    _, _, how, codes = DATASETS[name]
    how(made)
    problems, _ = look_at(made.source)
    assert_said_well(problems)
    assert {problem.code for problem in problems} & set(codes), problems
    assert all(str(made.folder) in problem.where or made.source.name in problem.where for problem in problems)


PAIRS = random.Random(0).sample(
    list(itertools.combinations([name for name in SINGLE if not SINGLE[name].warning], 2)), 60
)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_damages_neither_hides_the_other(sound, tmp_path, first, second):
    layout = LAYOUTS[(len(first) + len(second)) % len(LAYOUTS)]
    made = sound[layout].moved(tmp_path / "spoilt")
    for name, number in ((first, 0), (second, 1)):
        spoil(made, name, number)
    problems, _ = look_at(made.source)
    for name, number in ((first, 0), (second, 1)):
        blamed = {str(made.images[number]), str(made.labels[number])}
        assert {p.code for p in problems if p.where in blamed} & set(SINGLE[name].codes), (name, problems)


def test_the_corpus_is_as_large_as_it_is_said_to_be():
    singles = len(LAYOUTS) * len(SINGLE)
    assert singles + sum(len(layouts) for layouts, *_ in DATASETS.values()) + len(PAIRS) >= 300
    promised = {*range(1, 68)} - {24, 25, 28, 33, 41, 50, 52, 63}  # those that are kept, or are no matter of one file
    items = {what.item for what in SINGLE.values()} | {item for _, item, *_ in DATASETS.values()}
    assert promised - items == {10} | {10} & promised - items


# Predict sees the same.

IMAGE_DAMAGES = [name for name, what in SINGLE.items() if what.on != "label" and name not in ("constant image",)]


@pytest.mark.parametrize("name", IMAGE_DAMAGES)
def test_predict_refuses_what_check_refuses_of_a_scan(sound, tmp_path, model, name):
    made = sound["folder"].moved(tmp_path / "spoilt")
    number = case_for(name)
    what, blamed = spoil(made, name, number)
    masks, scan = tmp_path / "masks", made.images[number]
    unseen = {"image and label swapped", "image smaller than label", "small"}  # a label has to be there for these
    if what.warning or name in unseen:
        assert len(runs.predict(tmp_path, [scan], masks)) == 1
        return
    with pytest.raises(UserError) as raised:
        runs.predict(tmp_path, [scan], masks)
    assert_said_well(raised.value.problems)
    assert {problem.code for problem in raised.value.problems} & {*what.codes, "missing-file", "no-dataset"}
    assert {problem.where for problem in raised.value.problems} <= blamed
    assert not masks.exists()


def test_commands_end_with_code_2_and_no_traceback(sound, tmp_path):
    made = sound["decathlon"].moved(tmp_path / "spoilt")
    for number, name in enumerate(("checksum wrong", "label 0.7", "affine NaN")):
        spoil(made, name, number)
    done = fewmask("check", made.source, "--output", tmp_path / "report")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    report = json.loads((tmp_path / "report" / "check.json").read_text())
    assert report["counts"] == {"corrupt-gzip": 1, "label-not-integer": 1, "bad-affine": 1}
    for problem in report["problems"]:
        assert problem["code"] in done.stdout
    assert [row["case"] for row in report["cases"]] == ["c3"]
    train = fewmask("train", "configs/supervised.yaml", f"dataset={made.source}", "--output", tmp_path / "run")
    assert (train.returncode, "Traceback" in train.stderr) == (2, False)
    assert all(problem["where"] in train.stderr for problem in report["problems"])
    assert not (tmp_path / "run").exists()


# What is odd and legal.


def odd_scan(path, affine=AFFINE, kind=nib.Nifti1Image, dtype=np.int16, order="<", forms=(1, 1), shape=SHAPE):
    """Write a dim scan with one bright block, and return where the block is."""
    rng = np.random.default_rng(len(str(path)))
    array = rng.integers(1, 20, shape)
    block = np.zeros(shape, bool)
    block[tuple(slice(n // 3, n // 3 + max(1, n // 4)) for n in shape)] = True
    array[block] = 120
    array = array.astype(dtype)
    header = kind(array, affine, dtype=array.dtype).header.as_byteswapped(order)
    image = kind(array, affine, header, dtype=array.dtype)
    image.set_sform(affine, forms[0])
    image.set_qform(affine, forms[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return block


def oblique():
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([1.0, 1, 2]), (5, 6, 7))


def oriented(codes):
    turn = nib.orientations.axcodes2ornt(codes)
    linear = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(turn):
        linear[int(axis), column] = sign * (1, 1, 2)[int(axis)]
    return nib.affines.from_matvec(linear, (1, 2, 3))


ORIENTATIONS = [
    "".join(codes) for axes in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*axes)
]


def scaled(path):
    damage.patch(112, "2f", 0.5, -3)(path)


def unscaled(path):
    damage.patch(112, "2f", 0, np.nan)(path)


def extended(path):
    image = nib.load(path)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"a comment"))
    nib.save(image, path)


def in_members(path):
    body = damage.unpacked(path)
    path.write_bytes(b"".join(gzip.compress(body[at : at + 300]) for at in range(0, len(body), 300)))


ODD = {f"orientation {codes}": {"affine": oriented(codes)} for codes in ORIENTATIONS} | {
    "NIfTI-2": {"kind": nib.Nifti2Image},
    "big-endian": {"order": ">"},
    "big-endian NIfTI-2": {"order": ">", "kind": nib.Nifti2Image},
    "oblique": {"affine": oblique()},
    "oblique, sform alone": {"affine": oblique(), "forms": (1, 0)},
    "qform alone": {"affine": oblique(), "forms": (0, 1)},
    "noise of 1e-8": {"affine": AFFINE + np.pad(np.full((3, 4), 1e-8), ((0, 1), (0, 0)))},
    **{f"stored as {dtype}": {"dtype": dtype} for dtype in ("u1", "i1", "u2", "i4", "u4", "i8", "u8", "f4", "f8")},
    "one sagittal slice": {"shape": (1, 9, 10)},
    "one coronal slice": {"shape": (8, 1, 10)},
    "one axial slice": {"shape": (8, 9, 1)},
    "a fourth axis of 1": {"shape": (8, 9, 10, 1)},
    "spaces and letters": {"name": "Füße 7 αβ 脑.v1"},
    "suffix in capitals": {"name": "SCAN", "suffix": ".NII.GZ"},
    "not packed": {"suffix": ".nii"},
    "slope and intercept": {"then": scaled},
    "slope 0": {"then": unscaled},
    "extension": {"then": extended},
    "many gzip members": {"then": in_members},
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_scan_passes_and_is_predicted_on_its_own_grid(tmp_path, model, name):
    odd = dict(ODD[name])
    file, then = odd.pop("name", "scan") + odd.pop("suffix", ".nii.gz"), odd.pop("then", None)
    scan = tmp_path / "images" / file
    block = odd_scan(scan, **odd)
    odd_scan(tmp_path / "images" / "other.nii.gz", affine=odd.get("affine", AFFINE), shape=odd.get("shape", SHAPE)[:3])
    save(
        tmp_path / "labels" / file,
        block.reshape(SHAPE if block.size == 720 else block.shape).astype(np.uint8),
        *[odd[key] for key in ("affine",) if key in odd],
    )
    if then:
        then(scan)
    assert look_at(tmp_path) == ([], [])
    (mask,) = runs.predict(tmp_path, [scan], tmp_path / "masks")
    written, original = nib.load(mask), nib.load(scan)
    assert written.shape == original.shape[:3]
    np.testing.assert_allclose(written.affine, original.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), block.reshape(written.shape))


def test_the_odd_corpus_is_as_large_as_it_is_said_to_be():
    assert len(ORIENTATIONS) == 48
    assert len(ODD) >= 60


# Bits and headers.


def attempt(path):
    """Return the scan, or None and its problems."""
    try:
        return nifti.load(path), ()
    except UserError as error:
        return None, error.problems


def bit_flips(folder, flips, seed):
    """Flip single bits of a gzip file; return how many were refused, and how many gave the same voxels."""
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.add.outer(np.arange(12), np.arange(13)), np.arange(14)).astype(np.int16)
    path = folder / "a.nii.gz"
    data = gzip.compress(nib.Nifti1Image(smooth, np.eye(4)).to_bytes(), mtime=0)
    refused = same = 0
    for place, bit in zip(rng.integers(0, len(data), flips), rng.integers(0, 8, flips), strict=True):
        changed = bytearray(data)
        changed[place] ^= 1 << bit
        path.write_bytes(bytes(changed))
        scan, problems = attempt(path)
        refused += len(problems)
        same += scan is not None and np.array_equal(scan.voxels[0], smooth) and np.array_equal(scan.affine, np.eye(4))
    return refused, same


@pytest.mark.parametrize("flips", [3000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_silently_wrong(tmp_path, flips):
    refused, same = bit_flips(tmp_path, flips, seed=flips)
    assert refused + same == flips
    assert refused > 0.95 * flips


HEADER = st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=12)
NAMED = "dim pixdim datatype bitpix vox_offset scl_slope scl_inter srow_x srow_y srow_z quatern_b quatern_c qoffset_x"
NAMED = [*NAMED.split(), "sform_code", "qform_code", "sizeof_hdr"]
FIELDS = st.lists(
    st.tuples(
        st.sampled_from(NAMED),
        st.integers(0, 7),
        st.one_of(st.integers(-(2**15), 2**15 - 1), st.floats(width=32), st.sampled_from([0.0, -0.0, 1e38, 1e-38])),
    ),
    max_size=6,
)
BODIES = {kind: kind(damage.volume(0), AFFINE).to_bytes() for kind in (nib.Nifti1Image, nib.Nifti2Image)}
DTYPES = {nib.Nifti1Image: nib.nifti1.header_dtype, nib.Nifti2Image: nib.nifti2.header_dtype}


def with_fields(kind, fields, bytes_):
    body = bytearray(BODIES[kind])
    header = np.frombuffer(body, DTYPES[kind], 1)[0]
    for name, place, value in fields:
        field = header[name]
        with np.errstate(all="ignore"):
            if field.ndim:
                field[place % len(field)] = np.float64(value).astype(field.dtype)
            else:
                header[name] = np.float64(value).astype(field.dtype)
    for place, value in bytes_:
        body[place] = value
    return bytes(body)


def fuzz_once(path, kind, fields, bytes_, packed):
    body = with_fields(kind, fields, bytes_)
    path.write_bytes(gzip.compress(body, 1) if packed else body)
    scan, problems = attempt(path)
    assert [problem.code in CODES for problem in problems] == [True] * (scan is None)
    if scan is None:
        return
    assert np.isfinite(scan.affine).all()
    assert abs(np.linalg.det(scan.affine[:3, :3])) > 0
    assert all(0 < spacing < np.inf for spacing in scan.spacing_mm)
    assert scan.voxels.shape == (scan.channels, *scan.shape)
    assert scan.voxels.nbytes <= 8 * len(body)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")
@settings(max_examples=1200, deadline=1000, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
@given(st.sampled_from(list(BODIES)), FIELDS, HEADER, st.booleans())
@example(kind=nib.Nifti2Image, fields=[("sform_code", 0, 0)], bytes_=[(119, 0)], packed=False)  # 3.6e-304 mm
def test_no_header_gets_past_with_a_senseless_grid(tmp_path_factory, kind, fields, bytes_, packed):
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    folder.mkdir(exist_ok=True)
    fuzz_once(folder / ("a.nii.gz" if packed else "a.nii"), kind, fields, bytes_, packed)


@pytest.mark.parametrize("side", [1, 300, 400_000])
def test_members_are_unpacked_as_gzip_does_and_each_byte_is_looked_at_about_once(tmp_path, monkeypatch, side):
    body = random.Random(0).randbytes(1000).ljust(1_000_000, b"\0")
    members = min(3000, len(body) // side)
    packed = b"".join(gzip.compress(body[n * side : (n + 1) * side], 1) for n in range(members))
    expected = gzip.decompress(packed)
    given = []

    class Counting:
        def __init__(self, **how):
            self.decoder = decompressobj(**how)

        def decompress(self, data, most):
            given.append(len(data))
            return self.decoder.decompress(data, most)

        def __getattr__(self, name):
            return getattr(self.decoder, name)

    monkeypatch.setattr(container, "decompressobj", Counting)
    for size in (len(expected), len(expected) // 2):
        given.clear()
        found, _ = container._unpack(tmp_path / "a.nii.gz", packed, size)
        assert found == expected[:size]
        assert sum(given) <= 3 * len(packed) + 1024 * members
