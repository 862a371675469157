"""Segment scans with an exported model. It needs Python 3.11, NumPy, nibabel and onnxruntime, and nothing else.

    python predict.py SCAN... --output MASKS/         a mask for each scan, of the same name
    python predict.py SCAN... --output MASK.nii.gz    the mask of one scan, or of one whose channels are these files

It reads ``model.json``, which lies beside it, and the networks named there. Each mask is on its scan's own grid. Scans
that cannot be segmented are named in the end, and the exit status is 1.
"""

import argparse
import json
import sys
import zlib
from itertools import combinations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

Voxels = NDArray[np.float32]
Labels = NDArray[Any]
Mask = NDArray[np.bool_]
AXES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
# Sizes of voxels that differ by less are one: two that a header has, and a scan's and the network's, in mm.
SAME_SIZE = 1e-4
SAME_SPACING = 1e-3
# Windows that go through the network together.
WINDOWS = 2


class Grid:
    """Where a scan lies on a network's grid; everything is in the order of the network's axes.

    Args:
        image: The scan.
        orientation: Of the network, such as ``RAS``.
        target_mm: Its voxel size; 0 keeps the scan's own.
    """

    def __init__(self, image: Any, orientation: str, target_mm: list[float]) -> None:
        shape = (*image.shape, 1, 1)[:3]
        nearest = nearest_axes(image.affine)
        wanted = [AXES[letter] for letter in orientation]
        # The scan's axis that each axis is, and which of them run backwards there.
        self.axes = [next(n for n, (body, _) in enumerate(nearest) if body == axis) for axis, _ in wanted]
        self.turned = tuple(axis for axis in range(3) if nearest[self.axes[axis]][1] != wanted[axis][1])
        self.native = [shape[own] for own in self.axes]
        # A length of 28.5 voxels is rounded as it was in training, so its last bits are made in the same way.
        source = np.diag([0.0, 0.0, 0.0, 1.0])
        for axis, (body, sign) in enumerate(wanted):
            own = spacing_of(image)[self.axes[axis]]
            source[body, axis] = own * sign
            source[body, 3] = -own * sign * (self.native[axis] - 1) if axis in self.turned else 0.0
        size = np.linalg.norm(source[:3, :3], axis=0)
        size = np.where((np.abs(size - target_mm) <= SAME_SPACING) | (np.array(target_mm) <= 0), size, target_mm)
        root = np.linalg.cholesky(source[:3, :3].T @ source[:3, :3]).T
        target = np.eye(4)
        target[:3, :3] = source[:3, :3] @ np.linalg.inv(root) @ np.diag(size)
        corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in self.native))], np.float64).T
        lengths = np.round(np.ptp((np.linalg.solve(target, source) @ corners)[:3], axis=1) + 1)
        self.shape = [int(length) for length in lengths]
        kept = self.shape == self.native and np.allclose(source[:3, :3], target[:3, :3], atol=SAME_SPACING)
        steps = np.diag(np.linalg.solve(source, target))
        self.steps = [1.0] * 3 if kept else [float(step) for step in steps[:3]]


def spacing_of(image: Any) -> list[float]:
    """Return the size of a scan's voxels: what the header says, where its affine agrees, to six digits."""
    found = np.linalg.norm(image.affine[:3, :3], axis=0)
    told = [*map(abs, map(float, image.header.get_zooms()[:3])), 1.0, 1.0][:3]
    lengths = told if np.allclose(found, told, rtol=SAME_SIZE, atol=0) else found
    return [float(f"{length:.6g}") for length in lengths]


def nearest_axes(affine: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return for each axis of a scan the nearest axis of the body (0 right, 1 anterior, 2 superior) and its sign."""
    cosines = np.round(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0), 3)
    left = [0, 1, 2]
    found = []
    for column in cosines.T:
        axis = max(left, key=lambda axis: abs(column[axis]))
        left.remove(axis)
        found.append((axis, -1 if column[axis] < 0 else 1))
    return found


def read(path: Path) -> tuple[Any, Voxels]:
    """Return a scan and its values, ``[C, X, Y, Z]``."""
    try:
        image: Any = nib.load(path)
        stored = np.asanyarray(image.dataobj.get_unscaled())
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise ImageFileError(f"{path}: cannot be read: {error}") from error
    slope, inter = (float(number) for number in (image.dataobj.slope, image.dataobj.inter))
    values = stored.astype(np.float32) if (slope, inter) == (1, 0) else (stored * slope + inter).astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageFileError(f"{path}: has voxels that are not finite")
    volume = values.reshape(*(*values.shape, 1, 1)[:3], -1)
    return image, np.moveaxis(volume, 3, 0)


def interpolated(voxels: Labels, axis: int, places: NDArray[Any]) -> Labels:
    """Return values between the voxels of an axis; beyond the last voxel lies its value."""
    last = voxels.shape[axis] - 1
    places = np.minimum(places, last)
    near = np.rint(places)
    places = np.where(np.abs(places - near) < 1e-9, near, places)
    low = np.floor(places).astype(np.int64)
    weight = (places - low).astype(voxels.dtype)
    before: Labels = np.take(voxels, low, axis=axis)
    if not weight.any():
        return before
    shape = [-1 if each == axis else 1 for each in range(voxels.ndim)]
    after = np.take(voxels, np.minimum(low + 1, last), axis=axis)
    return np.asarray(before + (after - before) * weight.reshape(shape))


def to_network(channel: Voxels, grid: Grid) -> Voxels:
    """Bring a channel ``[X, Y, Z]`` to the network's grid."""
    turned = np.flip(channel.transpose(grid.axes), grid.turned).astype(np.float64)
    for axis in range(3):
        turned = interpolated(turned, axis, np.arange(grid.shape[axis]) * grid.steps[axis])
    return turned.astype(np.float32)


def to_scan(logits: Voxels, grid: Grid) -> Voxels:
    """Bring logits ``[K, X, Y, Z]`` back to the scan's own grid."""
    for axis in range(3):
        logits = interpolated(logits, axis + 1, np.arange(grid.native[axis]) / grid.steps[axis])
    turned = np.flip(logits, tuple(axis + 1 for axis in grid.turned))
    order = [0, *(grid.axes.index(axis) + 1 for axis in range(3))]
    return np.ascontiguousarray(turned.transpose(order))


def find_outside(channel: Voxels) -> tuple[float, float]:
    """Return the constant outside the body, and which difference is none: all corners' and a quarter's, an extreme."""
    value = float(channel.flat[0])
    rounding = 1e-6 * abs(value)
    alike = np.abs(channel - value) <= rounding
    is_end = channel.min() >= value - rounding or channel.max() <= value + rounding
    found = alike[np.ix_(*((0, -1) for _ in channel.shape))].all() and is_end and alike.mean() >= 0.25
    return (value, rounding) if found else (0.0, 0.0)


def normalized(channel: Voxels, way: dict[str, Any]) -> Voxels:
    """Normalise a channel on the network's grid."""
    if way["scheme"] == "ct":
        clipped = np.clip(channel, np.float32(way["low"]), np.float32(way["high"]))
        return np.asarray((clipped - np.float32(way["mean"])) / np.float32(way["std"]))
    value, rounding = find_outside(channel)
    wide = channel.astype(np.float64)
    inside = wide[np.abs(wide - value) > rounding]
    if inside.size < 2 or inside.min() == inside.max():
        inside = wide
    if inside.min() == inside.max():
        return np.zeros_like(channel)
    return np.asarray((wide - inside.mean()) / inside.std(ddof=1), np.float32)


def starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where windows begin along an axis: the last one ends with the image."""
    last = max(length - side, 0)
    step = max(1, int(side * (1 - overlap))) if length > side else max(1, side)
    return [min(number * step, last) for number in range(-(-last // step) + 1)]


def importance(patch: list[int]) -> Voxels:
    """Return what each place in a window weighs: a Gaussian that does not fall to nothing."""
    weights = np.ones((), np.float32)
    for side in patch:
        places = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
        weights = weights[..., None] * np.exp(-(places**2) / np.float32(2 * (0.125 * side) ** 2))
    return np.maximum(weights, max(float(weights.min()), 1e-3)).astype(np.float32)


def answered(session: Any, windows: Voxels, mirrored: list[int]) -> Voxels:
    """Return the mean of a network's logits for windows ``[B, C, …]`` and all their mirror images."""
    name = session.get_inputs()[0].name
    images = [image for count in range(len(mirrored) + 1) for image in combinations(mirrored, count)]
    total = np.zeros(1, np.float32)
    for image in images:
        axes = tuple(axis + 2 for axis in image)
        (logits,) = session.run(None, {name: np.ascontiguousarray(np.flip(windows, axes))})
        total = total + np.flip(logits, axes)
    return total / np.float32(len(images))


def slide(session: Any, image: Voxels, told: dict[str, Any]) -> Voxels:
    """Return the logits ``[K, X, Y, Z]`` of an image ``[C, X, Y, Z]``, stitched from windows."""
    flat = len(told["patch_size"]) == 2
    patch = (*told["patch_size"], 1)[:3]
    shape = image.shape[1:]
    missing = [max(side - length, 0) for side, length in zip(patch, shape, strict=True)]
    margins = [(count // 2, count - count // 2) for count in missing]
    padded = np.pad(image, [(0, 0), *margins])
    overlaps = (told["overlap"], told["overlap"], 0.0 if flat else told["overlap"])
    places = list(product(*(starts(*axis) for axis in zip(shape, patch, overlaps, strict=True))))
    weights = importance(told["patch_size"]).reshape(patch)
    sums: Any = None
    total = np.zeros(padded.shape[1:], np.float32)
    for first in range(0, len(places), WINDOWS):
        some = [box_at(place, patch) for place in places[first : first + WINDOWS]]
        windows = np.stack([padded[(slice(None), *box)] for box in some])
        logits = answered(session, windows[..., 0] if flat else windows, told["mirrored_axes"])
        sums = np.zeros((logits.shape[1], *padded.shape[1:]), np.float32) if sums is None else sums
        for box, output in zip(some, logits, strict=True):
            sums[(slice(None), *box)] += output.reshape(-1, *patch) * weights
            total[box] += weights
    sums /= total
    return np.asarray(sums[(slice(None), *box_at(tuple(before for before, _ in margins), shape))])


def box_at(place: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the box of a shape that begins at a place."""
    return tuple(slice(start, start + side) for start, side in zip(place, shape, strict=True))


def segment(model: dict[str, Any], sessions: list[Any], paths: list[Path]) -> tuple[Any, Labels]:
    """Return a scan, of which a path has all channels or each has one, and its label map."""
    read_files = [read(path) for path in paths]
    image = read_files[0][0]
    channels = [channel for _, voxels in read_files for channel in voxels]
    if len(channels) != len(model["channels"]):
        raise ImageFileError(f"{paths[0]}: has {len(channels)} channel(s), expected {', '.join(model['channels'])}")
    for path, (other, voxels) in zip(paths, read_files, strict=True):
        if voxels.shape[1:] != channels[0].shape or not np.allclose(other.affine, image.affine, atol=SAME_SPACING):
            raise ImageFileError(f"{path}: is not on the grid of {paths[0]}")
    mean: Any = 0
    for session, told in zip(sessions, model["networks"], strict=True):
        grid = Grid(image, told["orientation"], told["spacing_mm"])
        ways = zip(channels, told["normalization"], strict=True)
        seen = np.stack([normalized(to_network(channel, grid), way) for channel, way in ways])
        logits = to_scan(slide(session, seen, told), grid)
        if not np.isfinite(logits).all():
            raise ImageFileError(f"{paths[0]}: the network's output is not finite")
        if len(sessions) > 1 and "regions" in model:
            logits = np.exp(-np.logaddexp(0, -logits))
        elif len(sessions) > 1:
            logits = np.exp(logits - logits.max(axis=0))
            logits /= logits.sum(axis=0)
        mean = logits + mean
    kind = np.min_scalar_type(max(map(int, model["labels"])))
    if painted := [region["label"] for region in model.get("regions", [])]:
        inside = mean >= (len(sessions) / 2 if len(sessions) > 1 else 0.0)
        labels = np.select(list(inside[::-1]), painted[::-1], 0).astype(kind)  # The last region that is there.
    else:
        labels = np.array([int(value) for value in model["labels"]], kind)[mean.argmax(axis=0)]
    for step in model["postprocessing"]:
        change(labels, step["step"], step["options"], float(np.prod(spacing_of(image))) / 1000)
    return image, labels


def components(mask: Mask, full: bool) -> NDArray[np.int64]:
    """Number a mask's components, by the first voxel of each; where `full`, voxels that share a corner touch."""
    numbers = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    steps = [step for step in product((-1, 0, 1), repeat=mask.ndim) if step > (0,) * mask.ndim]
    steps = [step for step in steps if full or sum(map(abs, step)) == 1]
    while True:
        before = numbers.copy()
        for step in steps:
            here = tuple(slice(max(0, -by), length - max(0, by)) for by, length in zip(step, mask.shape, strict=True))
            there = tuple(slice(max(0, by), length - max(0, -by)) for by, length in zip(step, mask.shape, strict=True))
            both = mask[here] & mask[there]
            for one, other in ((here, there), (there, here)):
                numbers[one] = np.where(both, np.minimum(numbers[one], numbers[other]), numbers[one])
        # Each component's numbers are places in it: what stands there is at least as small.
        flat = numbers.reshape(-1)
        flat[flat > 0] = flat[flat[flat > 0] - 1]
        if np.array_equal(before, numbers):
            return numbers


def change(labels: Labels, step: str, options: dict[str, Any], voxel_ml: float) -> None:
    """Apply one post-processing step to a label map, in place."""
    chosen = labels != 0 if step == "keep_largest_foreground" else labels == options["label"]
    if not chosen.any():
        return
    place = tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(chosen))
    box = labels[place]
    mask = chosen[place]
    if step == "fill_holes":
        flat = tuple(axis for axis in range(3) if labels.shape[axis] == 1)
        box[(box == 0) & ~enclosing(mask.squeeze(axis=flat)).reshape(mask.shape)] = options["label"]
        return
    numbers = components(mask, full=True)
    if step in ("keep_largest", "keep_largest_foreground"):
        kept = numbers == np.bincount(numbers[mask]).argmax()
        kept |= ~np.isin(box, box[kept])  # A label that is not in the largest component stays.
    elif step == "drop_small":
        kept = (np.bincount(numbers[mask]) * voxel_ml >= options["least_ml"])[numbers]
    else:
        sys.exit(f"error: model.json names the step {step!r}, which this program does not know")
    box[mask & ~kept] = 0


def enclosing(mask: Mask) -> Mask:
    """Return what of a box lies outside of a mask and of all that it encloses."""
    numbers = components(np.pad(~mask, 1, constant_values=True), full=False)
    return np.asarray((numbers == numbers.flat[0])[(slice(1, -1),) * mask.ndim])


def write(path: Path, image: Any, labels: Labels) -> None:
    """Write a label map on a scan's grid, with its forms."""
    kind = nib.Nifti2Image if isinstance(image, nib.Nifti2Image) else nib.Nifti1Image
    mask = kind(labels.reshape(image.shape[:3]), image.affine, dtype=labels.dtype)
    mask.header.set_xyzt_units(*image.header.get_xyzt_units())
    mask.set_sform(image.get_sform(coded=True)[0], int(image.header["sform_code"]))
    mask.set_qform(image.get_qform(coded=True)[0], int(image.header["qform_code"]))
    partial = path.with_name(f".partial-{path.name}")
    nib.save(mask, partial)
    partial.replace(path)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path, metavar="SCAN")
    parser.add_argument("--output", required=True, type=Path, help="a folder, or one file that ends in .nii or .nii.gz")
    arguments = parser.parse_args()
    import onnxruntime

    here = Path(__file__).resolve().parent
    model = json.loads((here / "model.json").read_text(encoding="utf-8"))
    cases = {arguments.output / scan.name: [scan] for scan in arguments.scans}
    if folders := [scan for scan in arguments.scans if scan.is_dir()]:
        sys.exit(f"error: {folders[0]} is a folder; name its scans, such as {folders[0]}/*.nii.gz")
    if arguments.output.name.endswith((".nii", ".nii.gz")):
        cases = {arguments.output: arguments.scans}
    elif len(cases) < len(arguments.scans):
        sys.exit("error: two scans have one name; segment them in separate calls")
    if there := [str(mask) for mask in cases if mask.exists()]:
        sys.exit(f"error: is there already: {', '.join(there)}")
    sessions = [onnxruntime.InferenceSession(here / told["file"]) for told in model["networks"]]
    failed = []
    for mask, scans in cases.items():
        mask.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(mask, *segment(model, sessions, scans))
        except ImageFileError as error:
            failed.append(f"error: {error}")
    sys.exit("\n".join(failed) or 0)


if __name__ == "__main__":
    main()
