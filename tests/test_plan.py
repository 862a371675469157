import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipeline.data.index import Index
from pipeline.data.inspection import CaseFacts
from pipeline.data.layouts import Dataset
from pipeline.data.statistics import channel_statistics
from pipeline.data_section import ZScore
from pipeline.planning.augmentation import choose_augmentation, choose_flips
from pipeline.planning.delivery import prepared_bytes
from pipeline.planning.hardware import Hardware
from pipeline.planning.patch import choose_channels, choose_kernels, choose_patch, choose_strides, granularity
from pipeline.planning.plan import (
    DEFAULT_STEPS,
    DEFAULT_STEPS_CUDA,
    DEFAULT_STEPS_SMALL,
    choose_precision,
    make_plan,
)
from pipeline.planning.reach import REACH
from pipeline.planning.spacing import choose_orientation, choose_spacing, median_shape
from pipeline.recipe import BATCHES, Recipe
from pipeline.sections import StepChoice

CPU, GPU = Hardware(device="cpu", bfloat16=True, cores=4), Hardware(device="cuda:1", bfloat16=True, cores=16)


def facts(shape, spacing, code="RAS", name="a"):
    """What the check says of a scan whose shape and spacing are given along R, A and S, but which is stored as code."""
    orientation = nib.orientations.axcodes2ornt(code)
    order = [int(axis) for axis in orientation[:, 0]]
    linear = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(zip(order, orientation[:, 1], strict=True)):
        linear[axis, column] = sign * spacing[axis]
    affine = nib.affines.from_matvec(linear, (1, 2, 3))
    assert "".join(nib.aff2axcodes(affine)) == code
    stored_shape, stored_spacing = (tuple(values[axis] for axis in order) for values in (shape, spacing))
    return CaseFacts(
        case=name,
        sha256=("0",),
        shape=stored_shape,
        spacing_mm=stored_spacing,
        affine=tuple(map(tuple, affine)),
        channels=1,
        label_voxels=None,
    )


def index(*scans, labels=("background", "organ")):
    named = {f"c{n}": scan for n, scan in enumerate(scans)}
    return Index(
        dataset=Dataset(source=Path("data"), layout="folder", cases=()),
        facts=named,
        labels=dict(enumerate(labels)),
        channels=("image",),
    )


def recipe(on=("labelled",), augmentation=None, data=None, **more):
    raw = {"dataset": Path("data"), "objective": tuple({"loss": "dice", "on": scans} for scans in on), **more}
    return Recipe.model_validate(raw | {"data": data or {}, "augmentation": augmentation or {}})


def resolve(*arguments):
    return make_plan(*arguments).recipe


MANY = index(
    facts((36, 50, 35), (1.0, 1.0, 2.0), "RAS"),
    facts((30, 60, 30), (1.2, 0.8, 2.5), "PIR"),
    facts((40, 40, 45), (0.9, 1.1, 1.5), "SLA"),
)


def values_in(model):
    for value in model.values() if isinstance(model, dict) else model:
        if isinstance(value, dict | list | tuple):
            yield from values_in(value)
        else:
            yield value


@pytest.mark.parametrize("hardware", [CPU, GPU])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_nothing_is_left_to_choose(hardware, dimensions):
    plan = resolve(recipe(data={"dimensions": dimensions}, on=("labelled", "all")), MANY, hardware)
    assert "auto" not in list(values_in(plan.model_dump()))
    assert len(plan.data.spacing_mm) == len(plan.data.patch_size) == dimensions
    assert type(plan).model_validate(Recipe.model_validate(plan.model_dump()).model_dump()) == plan


def test_the_grid_is_the_median_of_oriented_scans():
    plan = resolve(recipe(), MANY, CPU)
    assert plan.data.orientation == "RAS"
    assert plan.data.spacing_mm == (1.0, 1.0, 2.0)
    # Sizes in voxels of that grid: 36, 36, 36 and 50, 48, 44 and 35, 37.5, 33.75.
    assert plan.data.patch_size == (40, 48, 40)


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR", "IRP", "PIL"])
def test_the_order_of_a_file_s_axes_does_not_matter(code):
    scan = facts((20, 40, 60), (0.5, 1.0, 3.0), code)
    assert choose_spacing([scan], "RAS") == (0.5, 1.0, 3.0)
    assert choose_spacing([scan], "LPI") == (0.5, 1.0, 3.0)
    assert choose_spacing([scan], "SAR") == (3.0, 1.0, 0.5)
    assert median_shape([scan], "RAS", (1.0, 1.0, 1.0)) == (10, 40, 180)
    assert median_shape([scan], "RAS", (1.0, 1.0)) == (10, 40, 180)


def test_what_the_user_chose_stays():
    chosen = {
        "dimensions": 3,
        "orientation": "LPS",
        "spacing_mm": (2.0, 2.0, 2.0),
        "normalization": (ZScore(scheme="zscore"),),
        "crop_to_body": False,
        "patch_size": (16, 24, 32),
        "batch_size": 7,
        "unlabelled_batch_size": 5,
        "accumulate": 1,
        "units": 2,
        "workers": 3,
        "resident": False,
    }
    options = {"channels": [4, 8], "strides": [[2, 2, 2]]}
    given = recipe(
        data=chosen,
        augmentation={"flip_axes": (), "rotation_degrees": 3.0, "scaling": 0.1, "elastic_mm": 2.0},
        max_steps=70,
        precision="float32",
        on=("all",),
        network={"name": "unet", "options": options, "memory_format": "contiguous", "recompute": True},
        layout="folder",
        regions=None,
        postprocessing=({"step": "fill_holes", "options": {"label": 1}},),
    )
    plan = resolve(given, MANY, GPU)
    assert {key: getattr(plan.data, key) for key in chosen} == chosen
    assert (plan.precision, plan.augmentation.flip_axes, plan.device) == ("float32", (), "cuda:1")
    assert plan.model_dump() | {"device": given.device} == given.model_dump()


def test_a_chosen_grid_decides_the_patch():
    coarse = resolve(recipe(data={"spacing_mm": (2.0, 2.0, 4.0)}), MANY, CPU)
    assert coarse.data.patch_size == (20, 24, 20)
    turned = resolve(recipe(data={"orientation": "SRA"}), index(facts((8, 16, 32), (1, 1, 1))), CPU)
    assert (turned.data.patch_size, turned.augmentation.flip_axes) == ((32, 8, 16), (1,))


def test_a_plan_is_its_own_plan():
    plan = resolve(recipe(on=("labelled", "unlabelled")), MANY, CPU)
    assert resolve(plan, MANY, CPU) == plan


@pytest.mark.parametrize(
    ("on", "hardware", "dimensions", "expected"),
    [
        (("labelled",), CPU, 3, 4),
        (("labelled", "unlabelled"), CPU, 3, 2),
        (("labelled", "all"), CPU, 3, 2),
        (("labelled",), GPU, 3, 16),
        (("labelled",), CPU, 2, 16),
        (("unlabelled",), GPU, 2, 16),
    ],
)
def test_a_step_s_samples_are_shared_where_unlabelled_scans_take_part(on, hardware, dimensions, expected):
    plan = resolve(recipe(on=on, data={"dimensions": dimensions}), MANY, hardware)
    assert (plan.data.batch_size, plan.data.unlabelled_batch_size) == (expected, expected)


def test_a_step_s_samples_are_all_unlabelled_where_there_are_segments_to_find():
    plan = resolve(recipe(on=("all",), data={"dimensions": 3}, segments=4), MANY, CPU)
    assert plan.data.unlabelled_batch_size == 4


@pytest.mark.parametrize(("hardware", "each"), [(CPU, DEFAULT_STEPS), (GPU, DEFAULT_STEPS_CUDA)])
@pytest.mark.parametrize("members", [1, 3])
def test_each_network_that_is_given_has_the_steps_of_one(hardware, each, members):
    network = {"name": "dynunet", "members": members}
    assert resolve(recipe(network=network), MANY, hardware).max_steps == members * each
    assert resolve(recipe(network=network, max_steps=7), MANY, hardware).max_steps == 7


def test_prepared_slices_keep_their_number():
    scans = index(facts((64, 48, 10), (1, 1, 5)))
    assert prepared_bytes(scans.facts.values(), (1.0, 1.0)) == 64 * 48 * 10 * 5
    assert prepared_bytes(scans.facts.values(), (1.0, 1.0, 5.0)) == 64 * 48 * 10 * 5
    assert prepared_bytes(scans.facts.values(), (1.0, 1.0, 1.0)) == 64 * 48 * 50 * 5


@pytest.mark.parametrize(
    ("hardware", "workers"),
    [
        (CPU, 0),
        (Hardware(device="cuda", bfloat16=True, cores=16), 8),
        (Hardware(device="cuda", bfloat16=True, cores=4), 3),
        (Hardware(device="cuda", bfloat16=True, cores=1), 0),
    ],
)
def test_workers_prepare_batches_beside_a_gpu_only(hardware, workers):
    assert resolve(recipe(data={"resident": False}), MANY, hardware).data.workers == workers


@pytest.mark.parametrize(
    ("hardware", "count", "workers", "expected"),
    [
        (replace(GPU, memory_bytes=2**30), 20, "auto", True),
        (replace(GPU, memory_bytes=2**30), 21, "auto", False),
        (replace(GPU, memory_bytes=2**30), 20, 0, True),
        (replace(GPU, memory_bytes=2**30), 20, 2, False),
        (replace(GPU, memory_bytes=None), 1, "auto", False),
        (replace(CPU, memory_bytes=2**40), 1, "auto", False),
    ],
)
def test_scans_that_take_little_of_a_gpus_memory_stay_there(hardware, count, workers, expected):
    # 2.5 MiB a scan: four bytes a voxel, and one of its annotation.
    scans = index(*[facts((64, 64, 128), (1, 1, 1))] * count)
    plan = resolve(recipe(data={"workers": workers}), scans, hardware)
    assert plan.data.resident is expected
    if expected:
        assert plan.data.workers == 0


@pytest.mark.parametrize(
    ("device", "bfloat16", "expected"),
    [("cpu", True, "bfloat16"), ("cpu", False, "float32"), ("cuda", True, "bfloat16"), ("cuda:0", False, "float16")],
)
def test_the_precision_is_the_narrowest_that_the_hardware_is_good_at(device, bfloat16, expected):
    assert choose_precision(Hardware(device=device, bfloat16=bfloat16, cores=4)) == expected


def test_a_cpu_whose_bfloat16_is_slow_computes_in_float32_and_says_why():
    plan = make_plan(recipe(), MANY, replace(CPU, float32_is_faster=True))
    assert plan.recipe.precision == "float32"
    assert "bfloat16 is slower" in {choice.key: choice.reason for choice in plan.choices}["precision"]


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (36, 50, 35), (7, 8, 9), (512, 512, 300), (1000, 20, 20), (3, 2000, 2000), (512, 512)]
)
def test_a_patch_is_within_its_budget_and_no_larger_than_needed(shape):
    limit = REACH[False, len(shape)].voxels
    patch = choose_patch(shape, limit)
    assert all(n % granularity(n) == 0 and n < full + granularity(full) for n, full in zip(patch, shape, strict=True))
    assert math.prod(patch) <= limit
    whole = [math.ceil(n / granularity(n)) * granularity(n) for n in shape]
    if math.prod(whole) <= limit:
        assert list(patch) == whole


def test_a_patch_loses_its_longest_sides_first():
    assert choose_patch((1000, 20, 20), 64**3) == (640, 20, 20)
    assert choose_patch((240, 240, 16), 64**3) == (128, 128, 16)
    # Longest in mm: 16 slices of 5 mm are longer than 150 voxels of 0.5 mm.
    assert choose_patch((240, 240, 16), 64**3, (0.5, 0.5, 5.0)) == (144, 144, 12)


def test_a_network_s_own_divisors_count():
    assert choose_patch((30, 30, 30), 64**3, divisors=(16, 16, 4)) == (32, 32, 32)
    assert choose_patch((200, 200, 20), 64**3, divisors=(32, 32, 1)) == (96, 128, 20)


def test_a_gpu_takes_larger_patches():
    big = index(facts((300, 300, 300), (1, 1, 1)))
    assert resolve(recipe(), big, CPU).data.patch_size == (64, 64, 64)
    assert resolve(recipe(), big, GPU).data.patch_size == (128, 128, 128)


@pytest.mark.parametrize(
    ("labels", "orientation", "expected"),
    [
        (("background", "liver"), "RAS", (0,)),
        (("background", "liver"), "LPS", (0,)),
        (("background", "liver"), "SAR", (2,)),
        (("background", "Left kidney", "Right kidney"), "RAS", ()),
        (("background", "kidney_l"), "RAS", ()),
        (("background", "lh-cortex"), "RAS", ()),
        (("background", "lesion", "bright spot", "cleft"), "RAS", (0,)),
        (("background", "LeftLung", "RightLung"), "RAS", ()),
        (("background", "lt lung"), "RAS", ()),
        (("background", "label 1"), "RAS", (0,)),
        (("background", "label 1", "label 2"), "RAS", ()),
    ],
)
def test_sides_are_swapped_unless_a_label_names_one(labels, orientation, expected):
    assert choose_flips(labels, orientation) == expected
    given = recipe(data={"orientation": orientation})
    plan = resolve(given, index(facts((32, 32, 32), (1, 1, 1)), labels=labels), CPU)
    assert plan.augmentation.flip_axes == expected


@pytest.mark.parametrize(
    ("labels", "orientation", "words"),
    [
        (("background", "label 1", "label 2"), "RAS", "give augmentation.flip_axes=[0]"),
        (("background", "label 1", "label 2"), "SAR", "give augmentation.flip_axes=[2]"),
        (("background", "label 1", "label 2"), "RAS", "name them (layout.options.labels)"),
        (("background", "liver", "left kidney"), "RAS", "'left kidney' tells left from right"),
    ],
)
def test_the_plan_says_why_nothing_is_mirrored_and_how_to_have_it(labels, orientation, words):
    named = dict(enumerate(labels))
    flips, reason = choose_augmentation(named, orientation, (1.0, 1.0, 1.0), "flip_axes")
    assert flips == ()
    assert words in reason


# Slices.


@pytest.mark.parametrize(
    ("shape", "spacing", "expected"),
    [
        ((64, 64, 64), (1.0, 1.0, 1.0), "RAS"),
        ((64, 64, 20), (1.0, 1.0, 5.0), "RAS"),
        ((64, 20, 64), (1.0, 5.0, 1.0), "RSA"),
        ((20, 64, 64), (5.0, 1.0, 1.0), "ASR"),
        ((64, 1, 64), (1.0, 1.0, 3.0), "RSA"),
        ((64, 64, 64), (1.0, 1.001, 1.0), "RAS"),
    ],
)
@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR"])
def test_slices_are_cut_across_the_thickest_axis(shape, spacing, expected, code):
    scan = facts(shape, spacing, code)
    assert choose_orientation([scan], 2) == expected
    assert choose_orientation([scan], 3) == "RAS"


def test_most_scans_decide_the_slice_axis():
    thick = facts((64, 20, 64), (1.0, 5.0, 1.0))
    flat = facts((64, 64, 20), (1.0, 1.0, 5.0))
    assert choose_orientation([thick, flat, thick], 2) == "RSA"
    assert choose_orientation([thick, flat, flat], 2) == "RAS"


def test_a_plan_for_slices_speaks_of_their_two_axes():
    plan = resolve(recipe(data={"dimensions": 2}), index(facts((200, 24, 180), (1.0, 5.0, 1.5))), GPU)
    assert plan.data.orientation == "RSA"
    assert plan.data.spacing_mm == (1.0, 1.5)
    assert plan.data.patch_size == (224, 192)
    assert plan.augmentation.flip_axes == (0,)


@pytest.mark.parametrize(
    ("shapes", "data", "expected"),
    [
        ([(30, 30, 30)], {}, 3),
        ([(30, 30, 1), (30, 30, 1), (30, 30, 30)], {}, 2),
        ([(30, 30, 1), (30, 30, 30)], {}, 3),
        ([(30, 30, 30)], {"patch_size": (16, 16)}, 2),
        ([(30, 30, 1)], {"spacing_mm": (1.0, 1.0, 1.0)}, 3),
        ([(30, 30, 1)], {"dimensions": 3}, 3),
    ],
)
def test_flat_scans_are_trained_on_in_two_dimensions_unless_told_otherwise(shapes, data, expected):
    plan = resolve(recipe(data=data), index(*(facts(shape, (1, 1, 1)) for shape in shapes)), CPU)
    assert plan.data.dimensions == len(plan.data.spacing_mm) == len(plan.data.patch_size) == expected


# What a CPU makes of thick slices

HEARTS = index(*(facts((216, 256, 9), (1.5, 1.5, 10.0), name=f"c{n}") for n in range(3)))


def test_thick_slices_are_trained_on_one_by_one_on_a_cpu_and_on_a_coarser_grid():
    plan = resolve(recipe(), HEARTS, CPU)
    assert (plan.data.dimensions, plan.data.orientation) == (2, "RAS")
    assert plan.data.spacing_mm == (2.7557, 2.7557)
    voxels = math.prod(median_shape(list(HEARTS.facts.values()), "RAS", (*plan.data.spacing_mm, 10.0))[:2])
    assert voxels == pytest.approx(128**2, rel=0.01)
    assert (plan.augmentation.rotation_degrees, plan.augmentation.scaling) == (45, 0.3)
    assert plan.augmentation.elastic_mm == pytest.approx(3.5 * 2.7557, abs=1e-4)
    assert (math.prod(plan.data.patch_size), plan.data.batch_size) == (64**2, 16)
    with_others = resolve(recipe(on=("labelled", "unlabelled")), HEARTS, CPU).data
    assert (with_others.batch_size, with_others.unlabelled_batch_size) == (8, 8)


@pytest.mark.parametrize(
    ("scan", "hardware", "more", "dimensions", "spacing"),
    [
        (facts((216, 256, 9), (1.5, 1.5, 10.0)), GPU, {}, 3, (1.5, 1.5, 10.0)),
        # Atlases are registered volumes.
        (facts((216, 256, 9), (1.5, 1.5, 10.0)), CPU, {"atlases": {"weight": 0.3}}, 3, (1.5, 1.5, 10.0)),
        (facts((216, 256, 200), (1.5, 1.5, 10.0)), CPU, {}, 3, (1.5, 1.5, 10.0)),
        (facts((100, 100, 9), (1.5, 1.5, 10.0)), CPU, {}, 2, (1.5, 1.5)),
        # Never more than twice as long.
        (facts((512, 512, 24), (0.5, 0.5, 5.0)), CPU, {}, 2, (1.0, 1.0)),
        (facts((512, 512, 24), (0.5, 0.5, 5.0)), CPU, {"data": {"spacing_mm": (0.7, 0.7)}}, 2, (0.7, 0.7)),
        # Photographs keep their voxels.
        (facts((512, 512, 1), (1.0, 1.0, 1.0)), CPU, {}, 2, (1.0, 1.0)),
    ],
)
def test_other_scans_keep_what_they_have(scan, hardware, more, dimensions, spacing):
    plan = resolve(recipe(**more), index(scan), hardware)
    assert math.prod(plan.data.patch_size) > 64**2 or (hardware is CPU and scan.shape[2] > 1)
    assert (plan.data.dimensions, plan.data.spacing_mm) == (dimensions, spacing)
    wild = dimensions == 2
    assert plan.augmentation.rotation_degrees == (45 if wild else 15)
    assert (plan.augmentation.elastic_mm > 0) == wild


# Anisotropy


def test_slices_far_apart_keep_the_distance_of_the_finest_tenth():
    scans = [facts((320, 320, 24), (0.5, 0.5, z)) for z in (3.0, *(4.0,) * 5, *(5.0,) * 14)]
    assert choose_spacing(scans, "RAS") == (0.5, 0.5, 4.0)
    assert choose_spacing(scans, "SAR") == (4.0, 0.5, 0.5)
    thin = [facts((320, 320, 200), (0.5, 0.5, z)) for z in (3.0, *(4.0,) * 5, *(5.0,) * 14)]
    assert choose_spacing(thin, "RAS") == (0.5, 0.5, 5.0), "many slices are no coarse axis"
    near = [facts((320, 320, 24), (2.0, 2.0, z)) for z in (2.5, *(5.0,) * 9)]
    assert choose_spacing(near, "RAS") == (2.0, 2.0, 5.0), "within three times"


def test_the_coarse_axis_is_never_finer_than_the_plane():
    scans = [facts((320, 320, 24), (0.5, 0.5, z)) for z in (*(0.1,) * 3, *(5.0,) * 7)]
    assert choose_spacing(scans, "RAS") == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("patch", "spacing"),
    [
        ((64, 64, 64), (1, 1, 1)),
        ((144, 144, 12), (0.5, 0.5, 5.0)),
        ((40, 56, 40), (1, 1, 1)),
        ((7, 9, 5), (1, 1, 1)),
        ((512, 512), (1, 1)),
        ((256, 32), (0.1, 3.0)),
    ],
)
@pytest.mark.parametrize("levels", [None, 2, 5, 7])
def test_every_plan_of_strides_can_be_walked_down(patch, spacing, levels):
    strides = choose_strides(patch, spacing, levels)
    assert len(strides) == levels - 1 if levels else len(strides) >= 2
    sides = np.array(patch)
    for step in strides:
        assert (sides % step == 0).all()
        sides = sides // step
        assert ((sides >= 4) | (sides == patch)).all()
    kernels = choose_kernels(spacing, strides)
    assert len(kernels) == len(strides) + 1 == len(choose_channels(len(strides) + 1, 16, 64))


def test_coarse_axis_waits_until_the_others_have_caught_up():
    assert choose_strides((144, 144, 12), (0.5, 0.5, 5.0)) == ((2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert choose_kernels((1, 1, 1), ((2, 2, 2),)) == ((3, 3, 3), (3, 3, 3))


def test_depth_and_width_follow_the_patch_the_device_and_what_is_given():
    big = index(facts((300, 300, 300), (1, 1, 1)))
    dyn = {"name": "dynunet", "options": {"channels": "auto", "deep_supervision": False}}
    options = resolve(recipe(network=dyn), big, GPU).network.options
    assert options["channels"] == [32, 64, 128, 256, 320, 320]
    assert options["kernels"] == [[3, 3, 3]] * 6
    assert options["deep_supervision"] is False
    assert resolve(recipe(network=dyn), big, CPU).network.options["channels"] == [16, 32, 64, 128, 256]
    given = resolve(recipe(network={"name": "dynunet", "options": {"channels": [8, 8, 8]}}), big, CPU).network.options
    assert (given["channels"], given["strides"]) == ([8, 8, 8], [[2, 2, 2]] * 2)
    assert resolve(recipe(network="segresnet"), big, CPU).network.options == {}


def test_hippocampus_has_the_plan_that_its_figures_were_measured_with():
    scans = index(*(facts(shape, (1, 1, 1)) for shape in ((34, 52, 35), (36, 50, 35), (36, 50, 36))))
    plan = resolve(recipe(network={"name": "dynunet", "options": {"channels": "auto"}}), scans, CPU)
    assert (plan.data.patch_size, plan.data.batch_size) == ((40, 56, 40), 4)
    assert plan.network.options["channels"] == [16, 32, 64, 128]
    assert plan.network.options["strides"] == [[2, 2, 2]] * 3


# Memory


def with_memory(hardware, gigabytes):
    return replace(hardware, memory_bytes=int(gigabytes * 1e9))


def test_too_little_memory_is_met_by_what_costs_the_least_first():
    big = index(facts((300, 300, 300), (1, 1, 1)))
    dyn = {"name": "dynunet", "options": {"deep_supervision": False}}
    sizes = (80, 12, 8, 6, 4)
    plans = [make_plan(recipe(network=dyn), big, with_memory(GPU, size)) for size in sizes]
    found = []
    for plan, size in zip(plans, sizes, strict=True):
        assert 0 < plan.memory_bytes <= with_memory(GPU, size).budget_bytes
        made = plan.recipe
        found.append(
            (made.data.batch_size, made.data.accumulate, made.network.recompute, math.prod(made.data.patch_size))
        )
    whole = 128**3
    assert found[:4] == [(4, 1, False, whole), (2, 1, False, whole), (2, 2, False, whole), (2, 2, True, whole)]
    assert found[4][:3] == (2, 2, True)
    assert found[4][3] < whole
    reasons = {choice.key: choice.reason for choice in plans[-1].choices}
    assert "what the memory allows" in reasons["data.batch_size"]
    assert "what the memory allows" in reasons["data.patch_size"]
    assert "one part in 2" in reasons["data.accumulate"]
    assert "memory is short" in reasons["network.recompute"]


@pytest.mark.parametrize(
    ("data", "on", "expected"),
    [
        ({"batch_size": 6}, ("labelled",), 6),
        ({"batch_size": 6, "unlabelled_batch_size": 4}, ("labelled", "unlabelled"), 2),
        ({"batch_size": 6, "accumulate": 3}, ("labelled",), 3),
        ({"batch_size": 6, "unlabelled_batch_size": 5}, ("labelled", "unlabelled"), 1),
    ],
)
def test_parts_divide_what_is_given(data, on, expected):
    made = make_plan(recipe(on, data={"patch_size": (96, 96, 96)} | data), MANY, with_memory(CPU, 0.1)).recipe
    assert made.data.accumulate == expected
    assert made.network.recompute is True
    assert (made.data.patch_size, made.data.batch_size) == ((96, 96, 96), 6)


@pytest.mark.parametrize("data", [{"accumulate": 2}, {"batch_size": 8}, {"batch_size": 8, "accumulate": 4}])
def test_parts_divide_batches_that_are_chosen_to_the_end(data):
    for size in (64, 4, 2, 1, 0.5, 0.1):
        made = make_plan(recipe(("labelled", "unlabelled"), data=data), MANY, with_memory(CPU, size)).recipe.data
        assert made.batch_size % made.accumulate == made.unlabelled_batch_size % made.accumulate == 0
        assert made.unlabelled_batch_size <= max(2, made.accumulate)


@pytest.mark.parametrize(("accumulate", "told"), [(2, True), (1, False), ("auto", False)])
def test_parts_that_are_given_are_a_reason_for_the_batch(accumulate, told):
    plan = make_plan(recipe(data={"accumulate": accumulate}), MANY, CPU)
    (reason,) = (choice.reason for choice in plan.choices if choice.key == "data.batch_size")
    assert ("a multiple of data.accumulate" in reason) == told


def test_batches_that_nothing_looks_at_are_told_apart():
    for given, idle in ((recipe(), "unlabelled"), (recipe(("all",), segments=3), "labelled")):
        reasons = {choice.key: choice.reason for choice in make_plan(given, MANY, CPU).choices}
        unused = {key for key, reason in reasons.items() if f"no term looks at {idle} scans" in reason}
        assert unused == {"data." + BATCHES[idle]}


@pytest.mark.parametrize(
    "data",
    [
        {"unlabelled_batch_size": 9},
        {"unlabelled_batch_size": 9, "accumulate": 1},
        {"patch_size": (64, 64, 64), "unlabelled_batch_size": 9, "accumulate": 1},
    ],
)
def test_planning_ends_where_nothing_can_become_smaller(data):
    strides = [[4, 4, 4]] * 3
    network = {"name": "unet", "options": {"channels": [4, 4, 4, 4], "strides": strides}, "recompute": False}
    plan = make_plan(recipe(("labelled", "unlabelled"), network=network, data=data), MANY, with_memory(CPU, 0.001))
    assert plan.memory_bytes > with_memory(CPU, 0.001).budget_bytes


def test_what_is_given_for_the_sake_of_memory_stays():
    given = recipe(network={"name": "unet", "recompute": False}, data={"accumulate": 1})
    made = make_plan(given, MANY, with_memory(CPU, 0.1)).recipe
    assert (made.network.recompute, made.data.accumulate) == (False, 1)
    given = recipe(network={"name": "unet", "recompute": True}, data={"accumulate": 2})
    made = make_plan(given, MANY, with_memory(CPU, 64)).recipe
    assert (made.network.recompute, made.data.accumulate) == (True, 2)


def test_a_given_patch_and_batch_stay_whatever_the_memory():
    given = recipe(data={"patch_size": (96, 96, 96), "batch_size": 6})
    plan = make_plan(given, MANY, with_memory(CPU, 0.5))
    assert (plan.recipe.data.patch_size, plan.recipe.data.batch_size) == ((96, 96, 96), 6)
    assert plan.memory_bytes > 0.25e9


# Reasons


def test_every_choice_has_its_reason_and_stands_in_the_recipe():
    plan = make_plan(recipe(network="dynunet", data={"batch_size": 3}), MANY, GPU)
    named = {choice.key: choice for choice in plan.choices}
    for key, choice in named.items():
        place = plan.recipe.model_dump()
        for part in key.split("."):
            place = place[part]
        assert choice.reason
        if key != "data.normalization":
            assert place == choice.value, key
    assert named["data.batch_size"].reason == "given in the recipe"
    assert {"data.spacing_mm", "data.patch_size", "network.options.kernels", "precision"} <= set(named)


def test_a_dataset_that_forgot_to_say_ct_is_told():
    scan = replace(facts((20, 20, 20), (1, 1, 1)), intensities=channel_statistics([np.linspace(-1000, 900, 99)], None))
    named = {choice.key: choice.reason for choice in make_plan(recipe(), index(scan), CPU).choices}
    assert "image looks like CT" in named["data.normalization"]
    assert "data.normalization=[ct]" in named["data.normalization"]


def test_a_training_without_a_budget_has_a_length_and_one_with_it_waits_for_the_machine():
    assert resolve(recipe(), MANY, CPU).max_steps == DEFAULT_STEPS
    assert resolve(recipe(data={"dimensions": 2}), MANY, CPU).max_steps == DEFAULT_STEPS_SMALL
    assert resolve(recipe(), MANY, GPU).max_steps == DEFAULT_STEPS_CUDA
    assert resolve(recipe(time_budget="20m"), MANY, CPU).max_steps == "auto"


def with_pieces(count):
    scan = facts((32, 32, 32), (1, 1, 1))
    return [replace(scan, largest_pieces={1: 1.0, 2: 0.5})] * count


def test_the_largest_component_of_a_label_that_is_one_piece_is_kept():
    scans = index(*with_pieces(5), labels=("background", "organ", "lesions"))
    kept = (StepChoice(step="keep_largest", options={"label": 1}),)
    assert resolve(recipe(), scans, CPU).postprocessing == kept
    assert resolve(recipe(postprocessing=()), scans, CPU).postprocessing == ()
    assert resolve(recipe(), index(*with_pieces(4)), CPU).postprocessing == ()
    unsupervised = recipe(segments=3, objective=({"loss": "reconstruction", "on": "all"},), network="wnet")
    assert resolve(unsupervised, scans, CPU).postprocessing == ()
