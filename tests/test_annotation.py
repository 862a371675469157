import numpy as np
import torch
from monai.data import MetaTensor

from pipeline.data.annotation import FIRST_CLASS, OUTSIDE, UNANNOTATED, Annotated, class_locations, decode


def test_label_values_become_codes_in_the_order_of_the_classes():
    label = MetaTensor(torch.tensor([[0.0, 5.0, 300.0, 5.0]]))
    codes = Annotated("annotation", [0, 5, 300])({"annotation": label})["annotation"]
    assert codes.tolist() == [[2, 3, 4, 3]]
    assert codes.dtype == torch.uint8
    shuffled = Annotated("annotation", [0, 300, 5])({"annotation": label})["annotation"]
    assert shuffled.tolist() == [[2, 4, 3, 4]]


def test_a_scan_without_a_mask_is_inside_and_not_annotated():
    image = MetaTensor(torch.zeros(2, 3, 4, 5))
    codes = Annotated("annotation", [0, 1])({"image": image})["annotation"]
    assert codes.shape == (1, 3, 4, 5)
    assert (codes == UNANNOTATED).all()
    assert codes.dtype == torch.uint8


def test_codes_decode_to_labels_and_a_mask():
    codes = torch.tensor([OUTSIDE, UNANNOTATED, FIRST_CLASS, FIRST_CLASS + 1, 255], dtype=torch.uint8)
    label, mask = decode(codes)
    assert label.tolist() == [-1, -1, 0, 1, 253]
    assert mask.tolist() == [False, True, True, True, True]
    assert (label.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_locations_are_indices_of_each_class_spread_over_it():
    codes = np.full((1, 20, 20, 20), FIRST_CLASS, dtype=np.uint8)
    codes[0, 15:] = FIRST_CLASS + 2
    locations = class_locations(codes, 3, most=100)
    assert locations.shape == (3, 100)
    for k, low, high in ((0, 0, 6000), (2, 6000, 8000)):
        found = locations[k][locations[k] >= 0]
        assert (codes.ravel()[found] == FIRST_CLASS + k).all()
        assert len(found) == 100
        assert found.min() == low
        assert found.max() > high - 100
    assert (locations[1] == -1).all()
