"""What every registered loss keeps, whatever it computes."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from monai.data import MetaTensor
from torch.autograd import gradgradcheck

from pipeline.losses import LOSSES, DiceLoss, ImageLoss, LabelLoss, NCutLoss

OPTIONS = {"ncut": {"radius": 2.5}, "class_mean_ncut": {"radius": 2, "sigma_2": 2.0}}
LABEL_LOSSES = [name for name in LOSSES.names if LOSSES[name].against == ("label",)]
IMAGE_LOSSES = [name for name in LOSSES.names if LOSSES[name].against == ("image", "mask")]
# Without a reduction, these have a value for each voxel; all others have one for each case.
VOXELWISE = ("balanced_ce", "cross_entropy", "focal", "top_k_ce")
VARIANTS = [
    *((name, {}) for name in LOSSES.names),
    ("dice", {"average": "micro"}),
    ("dice", {"include_background": False}),
    ("generalized_dice", {"include_background": False, "weights": "simple"}),
    ("tversky", {"include_background": False, "beta": 0.8}),
    ("ncut", {"offsets": 3}),
    ("ncut", {"sigma_intensity": 1.0}),
    ("ncut", {"radius": 0.5}),
    ("class_mean_ncut", {"spatial": False}),
    ("class_mean_ncut", {"batch": True}),
]
REDUCTIONS = ["mean", "sum", "none"]
NAN = math.nan


def build(name, **options):
    return LOSSES.build(name, {**OPTIONS.get(name, {}), **options})


def softmax_of(name):
    """The ways to read what the network gives."""
    return [{}] if name == "reconstruction" else [{"softmax": True}, {"softmax": False}]


def draw(name, size=(4, 5), classes=3, batch=2, dtype=torch.float64, softmax=True):
    """A network's answer, and what the loss compares it with: labels with some ignored, an image, a teacher, a mask."""
    generator = torch.Generator().manual_seed(0)
    answer = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    if not softmax:
        answer = answer.softmax(dim=1) if classes > 1 else answer.sigmoid()
    if name in LABEL_LOSSES:
        return answer.to(dtype), torch.randint(-1, max(2, classes), (batch, 1, *size), generator=generator)
    if name == "consistency":
        teacher = 2 * torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
        if not softmax:
            teacher = teacher.softmax(dim=1) if classes > 1 else teacher.sigmoid()
        return answer.to(dtype), teacher.to(dtype)
    if name == "entropy":
        return answer.to(dtype), torch.rand(batch, 1, *size, generator=generator) < 0.7
    channels = classes if name == "reconstruction" else 2
    image = torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)
    return answer.to(dtype), image.to(dtype)


def compared(name, other, mask):
    """What a loss takes beside the answer, with a mask where it takes one."""
    return {"label": [other], "image": [other, mask], "teacher": [other, mask], "mask": [mask]}[LOSSES[name].against[0]]


def gradient_of(loss, answer, *others):
    """The value and its gradient."""
    answer = answer.detach().requires_grad_()
    value = loss(answer, *others)
    value.sum().backward()
    return value.detach(), answer.grad


# Labels in any type


@pytest.mark.parametrize("name", LABEL_LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_labels_are_read_as_the_whole_numbers_that_they_are(name, dtype):
    logits, labels = draw(name)
    for given in (labels, labels.where(labels >= 0, 7)):
        loss = build(name, ignore=7)
        expected = gradient_of(loss, logits, given)
        for one in (given.to(dtype), given[:, 0].to(dtype)):
            assert all(map(torch.equal, gradient_of(loss, logits, one), expected))


@pytest.mark.parametrize("name", LABEL_LOSSES)
@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5"), (NAN, "nan"), (math.inf, "inf"), (-1.5, "-1.5")])
def test_labels_with_a_fraction_are_refused(name, value, shown):
    logits, labels = draw(name)
    labels = labels.float()
    labels[1, 0, 2, 3] = value
    with pytest.raises(ValueError, match=f"a label is {shown}; expected whole numbers, one class index a voxel"):
        build(name)(logits, labels)


@pytest.mark.parametrize("value", [3.0, 1e12, 1e30])
def test_float_labels_beyond_the_classes_are_refused(value):
    with pytest.raises(ValueError, match="a label is"):
        DiceLoss()(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), value))


@pytest.mark.parametrize("dtype", [torch.long, torch.float32])
def test_off_the_cpu_no_label_is_looked_at(dtype):
    # To look at a value of the meta device is an error, as it would be a wait on a GPU.
    labels, logits = torch.zeros(2, 1, 4, 5, dtype=dtype, device="meta"), torch.zeros(2, 3, 4, 5, device="meta")
    assert DiceLoss().indices(labels, logits).shape == (2, 4, 5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_on_a_gpu_a_label_with_a_fraction_counts_nowhere(name):
    logits, labels = (tensor.cuda() for tensor in draw(name))
    labels[0, 0, 1] = -1
    expected = build(name)(logits, labels)
    for value in (0.5, NAN, math.inf, 1e12, 1e30):
        spoilt = labels.float()
        spoilt[0, 0, 1] = value
        assert build(name)(logits, spoilt) == expected


def test_complex_labels_are_refused():
    with pytest.raises(ValueError, match=r"labels are torch\.complex64; expected whole numbers"):
        DiceLoss()(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, dtype=torch.complex64))


# MONAI's tensors


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("wrapped", ["logits", "others", "all"])
def test_meta_tensors_give_what_plain_tensors_give_and_a_plain_loss(name, options, wrapped):
    logits, other = draw(name, dtype=torch.float32)
    others = compared(name, other, torch.ones(2, 1, 4, 5))
    loss = build(name, **options)
    torch.manual_seed(0)
    expected = gradient_of(loss, logits, *others)
    given = logits.clone().requires_grad_()
    wrap = [wrapped != "others", *[wrapped != "logits"] * len(others)]
    torch.manual_seed(0)
    value = loss(*(MetaTensor(one) if meta else one for one, meta in zip([given, *others], wrap, strict=True)))
    value.backward()
    assert type(value) is torch.Tensor
    assert torch.equal(value, expected[0])
    assert torch.equal(given.grad, expected[1])


def test_tensors_are_taken_by_name_too():
    logits, image = draw("ncut")
    mask = torch.ones(2, 1, 4, 5)
    loss = build("ncut")
    assert loss(logits=MetaTensor(logits), image=image, mask=MetaTensor(mask)) == loss(logits, image, mask)


# Nothing to look at


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize(
    ("batch", "size"), [(0, (4, 5)), (2, (0, 5)), (2, (4, 0)), (0, (0, 5)), (0, (3, 4, 2)), (2, (3, 0, 2))]
)
def test_empty_batches_and_empty_axes_give_zero_with_a_zero_gradient(name, options, reduction, classes, batch, size):
    for how in softmax_of(name):
        loss = build(name, **options, **how, reduction=reduction)
        answer, other = draw(name, size, classes, batch)
        value, gradient = gradient_of(loss, answer, other)
        shape = {"mean": (), "sum": (), "none": (batch,)}[reduction]
        if reduction == "none" and name in VOXELWISE:
            shape = (batch, *size)
        if reduction == "none" and options.get("batch"):
            shape = (1,)
        assert value.shape == shape
        assert not value.any()
        assert gradient.shape == answer.shape


# NaN


@pytest.mark.parametrize(("name", "options"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_nan_in_what_the_network_says_is_nan(name, options, dtype, classes, reduction):
    for how in softmax_of(name):
        answer, other = draw(name, classes=classes, dtype=dtype, softmax=how.get("softmax", True))
        if name in LABEL_LOSSES:
            other = other.clamp(min=0)
        loss = build(name, **options, **how, reduction=reduction)
        for voxel in [(0, 0), (3, 4)]:
            for channel in range(classes):
                spoilt = answer.clone()
                spoilt[(0, channel, *voxel)] = NAN
                value = loss(spoilt, other)
                alone = reduction == "none" and not options.get("batch")
                assert (value[0] if alone else value).isnan().any(), (how, voxel, channel)
                if alone and name not in VOXELWISE:
                    assert value[1].isfinite()


@pytest.mark.parametrize("name", LABEL_LOSSES)
@pytest.mark.parametrize("options", [{}, {"softmax": False}])
@pytest.mark.parametrize("classes", [1, 3])
def test_a_nan_where_nobody_annotated_changes_nothing(name, options, classes):
    answer, labels = draw(name, classes=classes, softmax=not options)
    labels[0, 0, 1, 3] = -1
    loss = build(name, **options)
    expected, slope = gradient_of(loss, answer, labels)
    spoilt = answer.clone()
    spoilt[0, 0, 1, 3] = NAN
    value, gradient = gradient_of(loss, spoilt, labels)
    assert value == expected
    elsewhere = torch.ones(4, 5, dtype=torch.bool)
    elsewhere[1, 3] = False
    assert torch.equal(gradient[..., elsewhere], slope[..., elsewhere])


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v[0] in IMAGE_LOSSES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [True, False])
def test_a_nan_of_the_image_is_nan_inside_the_mask_alone(name, options, dtype, masked):
    answer, image = draw(name, dtype=dtype)
    mask = torch.ones(2, 1, 4, 5)
    mask[0, 0, 2, 2] = 0
    loss = build(name, **options, reduction="none")
    for channel in range(image.shape[1]):
        for voxel in [(0, 0), (1, 3), (3, 4)]:
            spoilt = image.clone()
            spoilt[(0, channel, *voxel)] = NAN
            value, gradient = gradient_of(loss, answer, spoilt, mask if masked else None)
            assert value[0].isnan()
            assert gradient[0].isnan().any()
            assert options.get("batch") or value[1].isfinite()
        spoilt = image.clone()
        spoilt[0, channel, 2, 2] = NAN
        torch.manual_seed(0)
        expected = gradient_of(loss, answer, image, mask)
        torch.manual_seed(0)
        assert all(map(torch.equal, gradient_of(loss, answer, spoilt, mask), expected))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if v[0] in IMAGE_LOSSES and not v[1].get("batch")])
def test_on_a_gpu_a_nan_of_the_image_is_nan(name, options):
    answer, image = (tensor.cuda() for tensor in draw(name, dtype=torch.float32))
    image[0, 0, 1, 3] = NAN
    value = build(name, **options, reduction="none")(answer, image)
    assert value.isnan().tolist() == [True, False]


# Second derivatives


@pytest.mark.parametrize(("name", "options"), [v for v in VARIANTS if "offsets" not in v[1]])
@pytest.mark.parametrize(("classes", "reduction"), [(1, "mean"), (3, "none")])
def test_the_gradient_of_the_gradient_is_that_of_the_value(name, options, classes, reduction):
    for how in softmax_of(name):
        answer, other = draw(name, (2, 3), classes, softmax=how.get("softmax", True))
        others = compared(name, other, torch.tensor([[1, 1, 0], [1, 1, 1]]).expand(2, 2, 3))
        loss = build(name, **options, **how, reduction=reduction)
        assert gradgradcheck(lambda x, loss=loss, others=others: loss(x, *others), answer.requires_grad_())


@pytest.mark.parametrize("name", LOSSES.names)
def test_a_gradient_penalty_has_the_slope_of_its_own_differences(name):
    answer, other = draw(name, (4, 3, 2))
    loss, step = build(name), 1e-5

    def penalty(x):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(x, other), x, create_graph=True)
        return slope.square().sum(), x

    value, x = penalty(answer)
    (ours,) = torch.autograd.grad(value, x)
    direction = torch.randn(answer.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    high, low = (penalty(answer + sign * step * direction)[0].item() for sign in (1, -1))
    assert (ours * direction).sum().item() == pytest.approx((high - low) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"softmax": False}])
@pytest.mark.parametrize("name", ["dice", "ncut"])
def test_second_derivatives_in_single_precision_are_those_in_double(name, options):
    answer, other = draw(name, (6, 5, 7), softmax=not options)
    found = []
    for dtype in (torch.float32, torch.float64):
        x = answer.to(dtype).requires_grad_()
        other = other if name == "dice" else other.to(dtype)
        (slope,) = torch.autograd.grad(build(name, **options)(x, other), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), x)[0].double())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3 * found[1].abs().max().item())


def test_a_class_that_is_nowhere_has_no_slope_and_no_second_one():
    # D_k = 0: neither the gradient nor the gradient's gradient may divide by it.
    p = torch.zeros(1, 3, 3, 4, dtype=torch.float64)
    p[:, 0, :, :2], p[:, 1, :, 2:] = 1, 1
    image = draw("ncut", (3, 4), batch=1)[1]
    p.requires_grad_()
    (slope,) = torch.autograd.grad(NCutLoss(softmax=False)(p, image), p, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), p)
    assert slope.isfinite().all()
    assert second.isfinite().all()
    assert not slope[:, 2].any()
    assert not second[:, 2].any()


# PyTorch's compiler


@pytest.fixture
def compiler():
    """PyTorch's compiler without what it has compiled before."""
    import torch._dynamo

    torch._dynamo.reset()
    yield torch.compile
    torch._dynamo.reset()


# PyTorch's own: of its scripts, and of a look at .grad that it hides unless warnings are errors.
QUIET = ("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in LOSSES.names), ("ncut", {"offsets": 3})])
def test_a_compiled_loss_is_the_loss(compiler, backend, name, options):
    logits, other = draw(name, dtype=torch.float32)
    loss = build(name, **options)
    torch.manual_seed(0)
    value, gradient = gradient_of(loss, logits, other)
    torch.manual_seed(0)
    compiled = gradient_of(compiler(loss, backend=backend), logits, other)
    torch.testing.assert_close(compiled, (value, gradient), rtol=1e-6, atol=1e-7)
    torch.manual_seed(0)
    assert compiler(loss, backend=backend)(MetaTensor(logits), MetaTensor(other)).item() == pytest.approx(value.item())


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("name", LOSSES.names)
def test_a_compiled_step_trains_as_the_step_does(compiler, name):
    _, other = draw(name, classes=2, dtype=torch.float32)
    loss, image = build(name), draw("ncut", dtype=torch.float32)[1]

    def trained(compile):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(2, 2, 3, padding=1)
        optimizer = torch.optim.SGD(network.parameters(), 0.5)

        def step():
            optimizer.zero_grad()
            value = loss(network(image), other)
            value.backward()
            optimizer.step()
            return value.detach()

        run = compile(step)
        return [run().item() for _ in range(3)], network.weight.detach()

    (values, weights), (compiled, theirs) = trained(lambda step: step), trained(lambda s: compiler(s, backend="eager"))
    assert values[0] != values[2]
    assert compiled == pytest.approx(values)
    torch.testing.assert_close(theirs, weights)


def test_importing_the_losses_imports_no_compiler():
    code = "import sys, pipeline.losses; print(*{'torch._dynamo', 'llvmlite', 'triton', 'monai'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# A loss of one's own


@pytest.mark.parametrize("base", [LabelLoss, ImageLoss])
@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"against": "label"}, "Own judges 'logits' against 'label'; expected a name and a tuple of names"),
        ({"against": ("label", 1)}, "Own judges 'logits' against"),
        ({"judges": ("logits",)}, "Own judges"),
    ],
)
def test_names_that_are_none_are_refused_when_the_class_is_made(base, declared, message):
    with pytest.raises(TypeError, match=message):
        type("Own", (base,), declared)


def test_a_loss_must_say_what_it_is_compared_with():
    with pytest.raises(TypeError, match="Own judges 'logits' against None"):
        type("Own", (LabelLoss.__base__,), {})
