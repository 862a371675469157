from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.data.annotation import FIRST_CLASS, UNANNOTATED, class_locations
from pipeline.data.augmentation import AugmentationChain, Patch, standard
from pipeline.data.loaders import StepBatches, StepLoader, Stream
from pipeline.data.resident import Resident
from pipeline.errors import UserError
from pipeline.types import VIEWS, Case

SPATIAL = {"flip_axes": (0,), "rotation_degrees": 20, "scaling": 0.1}
MILLIMETRE = Patch((1.0, 1.0, 1.0))
STRONG = AugmentationChain(standard(**SPATIAL, noise=0.1, brightness=0.2, gamma=0.2), MILLIMETRE)


def cases(count, prefix="c"):
    return tuple(
        Case(id=f"{prefix}{n}", images=(Path(f"{prefix}{n}.nii"),), label=None, patient=f"{prefix}{n}")
        for n in range(count)
    )


def read(case):
    """A case's arrays, different for each case and the same each time."""
    rng = np.random.default_rng(list(case.id.encode()))
    annotation = np.full((1, 9, 9, 9), UNANNOTATED if case.id.startswith("u") else FIRST_CLASS, dtype=np.uint8)
    if case.id.startswith("c"):
        annotation[0, :3] = FIRST_CLASS + 1
    image = rng.normal(size=(1, 9, 9, 9)).astype(np.float32)
    return {"image": image, "annotation": annotation, "locations": class_locations(annotation, 2)}


def batches(seed=0, labelled=5, unlabelled=7, sizes=(2, 3), read=read, views=()):
    streams = {"labelled": Stream(cases(labelled), sizes[0], 0)}
    if unlabelled:
        streams["unlabelled"] = Stream(cases(unlabelled, "u"), sizes[1], 1)
    return StepBatches(streams, read, (6, 6, 6), STRONG, seed, views)


def same(first, second):
    """Tell whether two steps hold the same streams, cases and tensors, to the last bit."""
    if first.keys() != second.keys():
        return False
    return all(
        first[stream].keys() == second[stream].keys()
        and all(
            torch.equal(value, second[stream][key]) if isinstance(value, torch.Tensor) else value == second[stream][key]
            for key, value in first[stream].items()
        )
        for stream in first
    )


def test_an_epoch_is_one_pass_over_the_first_stream():
    assert batches(labelled=5, sizes=(2, 3)).epoch_length == 3
    assert batches(labelled=4, sizes=(2, 3)).epoch_length == 2
    alone = StepBatches({"unlabelled": Stream(cases(7, "u"), 3, 1)}, read, (6, 6, 6), STRONG, 0)
    assert alone.epoch_length == 3


def test_a_step_holds_one_batch_of_each_stream():
    step = batches()[0]
    assert set(step) == {"labelled", "unlabelled"}
    for name, size in (("labelled", 2), ("unlabelled", 3)):
        batch = step[name]
        assert len(batch["case"]) == size
        assert batch["image"].shape == batch["annotation"].shape == (size, 1, 6, 6, 6)
        assert (batch["image"].dtype, batch["annotation"].dtype) == (torch.float32, torch.uint8)
    assert (step["unlabelled"]["annotation"] <= UNANNOTATED).all()
    assert (step["labelled"]["annotation"] >= FIRST_CLASS).any()


def test_without_unlabelled_scans_there_is_one_stream():
    assert set(batches(unlabelled=0)[0]) == {"labelled"}


def test_a_step_is_a_function_of_seed_and_step_alone():
    straight, jumping = batches(), batches()
    expected = [straight[step] for step in range(6)]
    for step in (5, 2, 2, 0, 4):
        assert same(jumping[step], expected[step])
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state that must not matter
    assert same(batches()[3], expected[3])


def test_steps_and_seeds_differ():
    assert not same(batches()[0], batches()[1])
    assert not same(batches(seed=0)[0], batches(seed=1)[0])


def test_one_case_twice_in_a_step_is_cut_twice_differently():
    step = batches(labelled=1)[0]["labelled"]
    assert step["case"] == ["c0", "c0"]
    assert not torch.equal(step["image"][0], step["image"][1])


def test_views_show_the_same_places_and_change_no_bit_of_the_image():
    brighter = batches(views=VIEWS)
    brighter.augmentation = AugmentationChain(standard(**SPATIAL, brightness=0.9), MILLIMETRE)
    factors = []
    for step in range(20):
        for kind, batch in brighter[step].items():
            assert set(batch) == {"image", "annotation", "case", *VIEWS}, kind
            for image, plain, other in zip(batch["image"], batch["plain_image"], batch["other_image"], strict=True):
                inside = plain.abs() > 1e-3
                for view in (image, other):
                    ratio = view[inside] / plain[inside]
                    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
                factors.append((float((image / plain)[inside].mean()), float((other / plain)[inside].mean())))
    changes = np.array(factors)
    assert 0.1 < (abs(changes - 1) > 1e-3).mean() < 0.6
    assert abs(np.corrcoef(changes.T)[0, 1]) < 0.3, "drawn apart"
    for step in range(4):
        with_views = {
            kind: {key: value for key, value in batch.items() if key not in VIEWS}
            for kind, batch in batches(views=VIEWS)[step].items()
        }
        assert same(with_views, batches()[step])
        assert same(batches(views=VIEWS)[step], batches(views=VIEWS)[step])


def test_batches_of_resident_cases_are_the_same_and_each_case_is_read_once():
    asked = []

    def counted(case):
        asked.append(case.id)
        return read(case)

    resident = batches(read=Resident(counted, "cpu").get)
    for step in range(8):
        assert same(resident[step], batches()[step])
    assert sorted(asked) == sorted(case.id for case in (*cases(5), *cases(7, "u")))


def test_device_that_is_too_small_for_the_cases_is_no_samples_fault():
    def full(case):
        raise torch.OutOfMemoryError("no memory is left")

    with pytest.raises(UserError, match=r"batch_size: there is too little memory for the batch of step 1"):
        next(iter(StepLoader(batches(read=Resident(full, "cpu").get), range(1), 0, pin_memory=False)))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    reference = batches()
    loaded = list(StepLoader(batches(), range(0, 5), workers, pin_memory=False))
    assert len(loaded) == 5
    assert all(same(batch, reference[step]) for step, batch in enumerate(loaded))


def test_a_worker_makes_the_slots_that_its_parent_knew_of():
    """A worker that is spawned, as on macOS and from Python 3.14 on, is in no group of processes itself."""
    known = [1, 2]
    streams = {"labelled": Stream(cases(5), 4, 0)}
    made = StepBatches(streams, read, (6, 6, 6), STRONG, 0, slots=lambda _: known)
    known[:] = [0, 1, 2, 3]
    whole = StepBatches(streams, read, (6, 6, 6), STRONG, 0)[0]["labelled"]["image"]
    assert torch.equal(made[0]["labelled"]["image"], whole[1:3])


def test_a_resumed_loader_goes_on_as_if_it_had_never_stopped():
    whole = list(StepLoader(batches(), range(0, 8), 0, pin_memory=False))
    parts = [
        *StepLoader(batches(), range(0, 3), 0, pin_memory=False),
        *StepLoader(batches(), range(3, 8), 0, pin_memory=False),
    ]
    assert all(same(first, second) for first, second in zip(whole, parts, strict=True))


@pytest.mark.parametrize(("count", "size"), [(5, 2), (6, 3), (3, 7), (1, 2)])
def test_each_case_comes_once_an_epoch(count, size):
    stream = Stream(cases(count), size, 0)
    drawn = [stream.pick(0, step, slot).id for step in range(5 * count) for slot in range(size)]
    for epoch in range(5 * size):
        assert Counter(drawn[epoch * count : (epoch + 1) * count]) == Counter(case.id for case in stream.cases)


def test_every_epoch_has_its_own_order():
    stream = Stream(cases(8), 8, 0)
    orders = {tuple(stream.pick(0, step, slot).id for slot in range(8)) for step in range(20)}
    assert len(orders) == 20


def test_streams_of_one_run_draw_independently():
    first, second = Stream(cases(8), 8, 0), Stream(cases(8), 8, 1)
    orders = [tuple(stream.pick(0, 0, slot).id for slot in range(8)) for stream in (first, second)]
    assert orders[0] != orders[1]
    drawn = {
        stream.rng(0, step, slot).random() for stream in (first, second) for step in range(50) for slot in range(8)
    }
    assert len(drawn) == 800


def test_the_unlabelled_stream_does_not_change_the_labelled_one():
    for step in range(4):
        alone, beside = batches(unlabelled=0)[step], batches(unlabelled=7)[step]
        assert same({"labelled": alone["labelled"]}, {"labelled": beside["labelled"]})
