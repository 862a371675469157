"""Ways to spoil a dataset: small sound datasets in every layout, and a table of what can be wrong with one.

Each damage names the code that has to be reported for it, so the table is also the list of promises. ``E`` is a
problem, ``W`` a warning; a damage of the list or the folders says which layouts it fits.
"""

import csv
import gzip
import json
import os
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE, AFFINE = (8, 9, 10), np.diag([1.0, 1.0, 2.0, 1.0])
CASES = 4
LAYOUTS = ("decathlon", "datalist", "folder", "nnunet", "bids", "table")
LISTS = ("decathlon", "datalist")


@dataclass
class Sound:
    """A sound dataset of four labelled scans, the third of them not gzipped."""

    layout: str
    folder: Path
    source: Path
    images: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)

    def moved(self, folder):
        """Return a copy in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True)
        images, labels = (
            [folder / path.relative_to(self.folder) for path in side] for side in (self.images, self.labels)
        )
        return Sound(self.layout, folder, folder / self.source.relative_to(self.folder), images, labels)


def volume(number):
    rng = np.random.default_rng(number)
    return rng.integers(1, 1000, SHAPE, dtype=np.int16)


def mask(number):
    array = np.zeros(SHAPE, np.uint8)
    array[2:5, 2:5, 2 : 6 + number % 3] = 1
    array[5:7, 5:8, 3:6] = 2
    return array


def save(path, array, affine=AFFINE, kind=nib.Nifti1Image, forms=(1, 1)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(np.asarray(array), affine, dtype=np.asarray(array).dtype)
    image.set_sform(affine, forms[0])
    image.set_qform(affine, forms[1])
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def names_of(layout, number):
    end, subject = ".nii" if number == 2 else ".nii.gz", f"sub-{number}/anat/sub-{number}"
    return {
        "folder": (f"images/c{number}{end}", f"labels/c{number}{end}"),
        "nnunet": (f"imagesTr/c{number}_0000{end}", f"labelsTr/c{number}{end}"),
        "bids": (f"{subject}_T1w{end}", f"derivatives/seg/{subject}_dseg{end}"),
    }.get(layout, (f"imagesTr/c{number}{end}", f"labelsTr/c{number}{end}"))


def write_sound(layout, folder):
    """Write a sound dataset."""
    made = Sound(layout, folder, folder)
    for number in range(CASES):
        image, label = (folder / name for name in names_of(layout, number))
        save(image, volume(number))
        save(label, mask(number))
        made.images.append(image)
        made.labels.append(label)
    pairs = [
        {"image": str(image.relative_to(folder)), "label": str(label.relative_to(folder))}
        for image, label in zip(made.images, made.labels, strict=True)
    ]
    labels = {"0": "background", "1": "organ", "2": "nodule"}
    if layout == "decathlon":
        made.source = write_json(
            folder / "dataset.json", {"modality": {"0": "MRI"}, "labels": labels, "training": pairs}
        )
    elif layout == "datalist":
        made.source = write_json(folder / "list.json", {"training": pairs[:3], "validation": pairs[3:]})
    elif layout == "nnunet":
        about = {"channel_names": {"0": "MRI"}, "labels": {n: int(v) for v, n in labels.items()}, "numTraining": CASES}
        write_json(folder / "dataset.json", about | {"file_ending": ".nii.gz"})
    elif layout == "table":
        made.source = folder / "cases.csv"
        with made.source.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["image", "label"])
            writer.writeheader()
            writer.writerows(pairs)
    return made


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


# What the damages are made of.


def unpacked(path):
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def repack(path, body):
    path.write_bytes(gzip.compress(body, mtime=0) if path.name.endswith(".gz") else body)


def patch(offset, form, *values):
    def damage(path):
        body = bytearray(unpacked(path))
        struct.pack_into("<" + form, body, offset, *values)
        repack(path, bytes(body))

    return damage


def bytes_of(function):
    return lambda path: path.write_bytes(function(path.read_bytes()))


def body_of(function):
    return lambda path: repack(path, function(unpacked(path)))


def array_of(function, dtype=None, affine=None):
    """Rewrite a file with other voxels."""

    def damage(path):
        image = nib.load(path)
        array = function(np.asanyarray(image.dataobj).copy())
        save(path, array.astype(dtype) if dtype else array, image.affine if affine is None else affine)

    return damage


def affine_of(function, forms=(1, 1)):
    def damage(path):
        image = nib.load(path)
        save(path, np.asanyarray(image.dataobj), function(image.affine.copy()), forms=forms)

    return damage


def instead(text):
    return lambda path: path.write_bytes(text)


def flip_bit(data):
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def put(value, *place, dtype=np.float32):
    def change(array):
        array = array.astype(dtype)
        array[place or (1, 2, 3)] = value
        return array

    return array_of(change)


def extended(body, size):
    """Put one extension that claims to have ``size`` bytes before the voxels."""
    body = bytearray(body[:348] + b"\1\0\0\0" + struct.pack("<2i", size, 6) + b"\0" * 8 + body[352:])
    struct.pack_into("<f", body, 108, 368)
    return bytes(body)


def shifted(affine):
    affine[0, 3] += 0.5
    return affine


def two_forms(path):
    image = nib.load(path)
    image.set_qform(image.affine, 1)
    moved = image.affine.copy()
    moved[0, 3] += 3
    image.set_sform(moved, 2)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header), path)


def turned_round(path):
    """The same points, with the first axis stored backwards: the array stays as it was."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:, 0] *= -1
    affine[0, 3] = (SHAPE[0] - 1) * 1.0
    save(path, np.asanyarray(image.dataobj), affine)


def permuted(path):
    image = nib.load(path)
    save(path, np.asanyarray(image.dataobj).transpose(2, 0, 1), image.affine[:, [2, 0, 1, 3]])


def becomes(kind):
    def damage(path):
        data = path.read_bytes()
        path.unlink()
        if kind == "link":
            path.symlink_to(path.with_name("gone.nii.gz"))
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "nothing":
            return
        else:
            raise AssertionError(data)

    return damage


def bomb(path):
    """A header that promises 5 GiB, before as many packed bytes as could hold them."""
    body = bytearray(unpacked(path)[:352])
    struct.pack_into("<4h", body, 40, 3, 1350, 1350, 1350)
    path.write_bytes(gzip.compress(bytes(body) + os.urandom(5_500_000), 1))


def colours(path):
    save(path, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")]))


@dataclass(frozen=True)
class Damage:
    """One way to spoil a file."""

    item: int
    on: str
    spoil: object
    codes: tuple[str, ...]
    warning: bool = False


def image(item, spoil, *codes):
    return Damage(item, "image", spoil, codes)


def label(item, spoil, *codes):
    return Damage(item, "label", spoil, codes)


def note(item, on, spoil, *codes):
    return Damage(item, on, spoil, codes, warning=True)


TRUNCATED = ("truncated-gzip", "truncated")
# Of a gzipped file: case 0, 1 or 3.
PACKED = {
    "gzip cut in half": image(1, bytes_of(lambda d: d[: len(d) // 2]), *TRUNCATED),
    "label cut in half": label(1, bytes_of(lambda d: d[: len(d) // 2]), *TRUNCATED),
    "last 4 bytes gone": image(2, bytes_of(lambda d: d[:-4]), *TRUNCATED),
    "last 8 bytes gone": image(2, bytes_of(lambda d: d[:-8]), *TRUNCATED),
    "last 8 bytes of a label gone": label(2, bytes_of(lambda d: d[:-8]), *TRUNCATED),
    "checksum wrong": image(3, bytes_of(lambda d: d[:-6] + bytes([d[-6] ^ 1]) + d[-5:]), "corrupt-gzip"),
    "length wrong": label(3, bytes_of(lambda d: d[:-2] + bytes([d[-2] ^ 1]) + d[-1:]), "corrupt-gzip"),
    "bit flipped": image(4, bytes_of(flip_bit), "corrupt-gzip", "truncated-gzip", "truncated", "trailing-bytes"),
    "garbage behind": image(5, bytes_of(lambda d: d + b"garbage"), "corrupt-gzip"),
    "web page": image(8, instead(b"<!DOCTYPE html><html>Sign in</html>"), "web-page"),
    "git-lfs pointer": label(8, instead(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "lfs-pointer"),
    "plain named .gz": image(9, lambda path: path.write_bytes(unpacked(path)), "misnamed"),
    "54 terabytes": image(14, patch(40, "4h", 3, 30000, 30000, 30000), "truncated"),
    "bomb": image(15, bomb, "too-large"),
    "zeros behind the stream": note(6, "image", bytes_of(lambda d: d + b"\0" * 64), "padding"),
}
# Of any file.
FILES = {
    "garbage inside": image(5, body_of(lambda d: d + b"garbage"), "trailing-bytes"),
    "zeros inside": note(6, "label", body_of(lambda d: d + b"\0" * 64), "padding"),
    "empty file": image(7, instead(b""), "empty-file"),
    "empty label file": label(7, instead(b""), "empty-file"),
    "negative dim": image(11, patch(42, "h", -8), "bad-dimensions"),
    "zero dim": label(12, patch(44, "h", 0), "bad-dimensions"),
    "nine axes": image(13, patch(40, "h", 9), "bad-dimensions"),
    "unknown datatype": image(16, patch(70, "h", 999), "bad-datatype"),
    "datatype against bitpix": label(17, patch(72, "h", 64), "bad-datatype"),
    "offset NaN": image(18, patch(108, "f", np.nan), "bad-offset"),
    "offset negative": image(18, patch(108, "f", -352), "bad-offset"),
    "offset 0": image(19, patch(108, "f", 0), "bad-offset"),
    "extension of 7 bytes": image(20, body_of(lambda d: extended(d, 7)), "bad-extension"),
    "extension of a gigabyte": label(20, body_of(lambda d: extended(d, 1 << 30)), "bad-extension"),
    "wrong sizeof_hdr": note(21, "image", patch(0, "i", 1234), "header-size"),
    "slope NaN": image(22, patch(112, "2f", np.nan, 0), "bad-scaling"),
    "slope infinite": image(22, patch(112, "2f", np.inf, 0), "bad-scaling"),
    "intercept NaN": image(23, patch(112, "2f", 1, np.nan), "bad-scaling"),
    "label missing a slice": label(29, array_of(lambda a: a[:-1]), "shapes-differ"),
    "label stored backwards": label(30, turned_round, "axes-differ"),
    "label flipped about the origin": label(30, affine_of(lambda m: np.diag([-1.0, 1, 1, 1]) @ m), "affines-differ"),
    "label shifted": label(31, affine_of(shifted), "affines-differ"),
    "label permuted": label(32, permuted, "axes-differ"),
    "qform against sform": image(34, two_forms, "forms-differ"),
    "affine singular": image(37, patch(280, "12f", 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0), "bad-affine"),
    "affine NaN": image(38, patch(280, "f", np.nan), "bad-affine"),
    "affine zero": image(38, patch(280, "12f", *[0] * 12), "bad-affine"),
    "origin 1e17 mm away": image(
        38, affine_of(lambda m: m + np.outer([1e17, 0, 0, 0], [0, 0, 0, 1]), (1, 0)), "bad-affine"
    ),
    "spacing zero": image(39, patch(296, "4f", 0, 0, 0, 0), "bad-affine"),
    "voxel NaN": image(42, put(np.nan), "not-finite"),
    "voxel infinite": image(43, put(np.inf), "not-finite"),
    "constant image": image(44, array_of(lambda a: np.full_like(a, 7)), "constant-image"),
    "integers from 2**63 on": image(
        44, array_of(lambda a: np.rint(a).astype(np.uint64) + np.uint64(2**63)), "lost-precision"
    ),
    "complex": image(45, array_of(lambda a: a.astype(np.complex64)), "bad-datatype"),
    "colours": image(46, colours, "bad-datatype"),
    "time series": image(47, array_of(lambda a: np.stack([a, a + 1], -1)), "undeclared-channels", "channel-count"),
    "five axes": image(48, array_of(lambda a: np.stack([a, a], -1)[..., None, :]), "too-many-axes"),
    "one axis": image(49, array_of(lambda a: a.ravel()), "too-few-axes"),
    "label over 2**24": label(51, put(2**24 + 1, dtype=np.int32), "label-too-large"),
    "label 1.99998": label(53, put(1.99998), "label-rounding"),
    "label 0.7": label(54, put(0.7), "label-not-integer"),
    "label negative": label(56, put(-1, dtype=np.int16), "label-negative", "label-out-of-range"),
    "label NaN": label(57, put(np.nan), "label-not-finite"),
    "label of two volumes": label(47, array_of(lambda a: np.stack([a, a], -1)), "label-channels"),
    "empty mask": note(58, "label", array_of(np.zeros_like), "empty-mask"),
}
# Of the files of a whole case.


def both(function):
    def damage(case):
        for path in case:
            function(path)

    return damage


def swap(case):
    first, second = (path.read_bytes() for path in case)
    for path, data in zip(case, (second, first), strict=True):
        repack(path, gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)


def crop(path):
    image = nib.load(path)
    save(path, np.asanyarray(image.dataobj)[:5, :, :], image.affine)


def flat(path):
    image = nib.load(path)
    save(path, np.asanyarray(image.dataobj)[:, :, 4], image.affine)


def short(path):
    image = nib.load(path)
    save(path, np.asanyarray(image.dataobj)[2:5], image.affine)


WHOLE = {
    "voxels of 40 mm": Damage(40, "case", both(affine_of(lambda m: np.diag([40.0, 40, 40, 1]) @ m)), ("voxel-size",)),
    "voxels in metres": Damage(
        40, "case", both(affine_of(lambda m: np.diag([1e-3, 1e-3, 1e-3, 1]) @ m)), ("voxel-size",)
    ),
    "voxels a million times as long as wide": Damage(
        40, "case", both(affine_of(lambda m: m @ np.diag([1e-3, 1e3, 1, 1]))), ("voxel-size",)
    ),
    "header in metres": Damage(40, "case", both(patch(123, "B", 1)), ("units",), warning=True),
    "header in micrometres": Damage(40, "case", both(patch(123, "B", 3 | 8)), ("units",), warning=True),
    "image and label swapped": Damage(61, "case", swap, ("swapped", "label-out-of-range", "label-too-many")),
    "image smaller than label": Damage(60, "case", lambda case: crop(case[0]), ("shapes-differ",)),
    "slice among volumes": Damage(49, "case", both(flat), ("mixed-dimensions",)),
    "no forms": Damage(35, "case", both(affine_of(lambda m: m, forms=(0, 0))), ("no-orientation",), warning=True),
    "sheared": Damage(
        36,
        "case",
        both(affine_of(lambda m: m @ [[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], forms=(1, 0))),
        ("sheared",),
        warning=True,
    ),
    "small": Damage(59, "case", both(short), ("small-scan",), warning=True),
}
# Of the image and label files as such, where a layout finds files by name.
NAMES = {
    "link to nothing": image(27, becomes("link"), "missing-file"),
    "folder as image": image(27, becomes("folder"), "not-a-file"),
    "pipe as image": image(27, becomes("pipe"), "not-a-file"),
    "pipe as label": label(27, becomes("pipe"), "not-a-file"),
    "image gone": image(66, becomes("nothing"), "missing-file", "label-without-image"),
}


def edit(function):
    """Change a JSON list."""

    def damage(made):
        content = json.loads(made.source.read_text())
        text = function(content)
        made.source.write_text(text if isinstance(text, str) else json.dumps(content))

    return damage


def entry(**changes):
    return edit(lambda content: content["training"][0].update(changes))


def other_suffix(made):
    path = made.images[0]
    shutil.copy(path, path.with_name(path.name.replace(".nii.gz", ".img")))


def both_suffixes(made):
    path = made.images[0]
    path.with_name(path.name.removesuffix(".gz")).write_bytes(unpacked(path))


def orphan(made):
    made.labels[0].rename(made.labels[0].with_name("x" + made.labels[0].name))


def copied(first, second):
    """The voxels of one scan under another name, packed otherwise."""

    def damage(made):
        made.images[second].write_bytes(gzip.compress(unpacked(made.images[first]), 1, mtime=9))
        if made.images[second].suffix == ".nii":
            made.images[second].write_bytes(unpacked(made.images[first]))

    return damage


def drop_columns(made):
    made.source.write_text("picture,label\n" + "\n".join(made.source.read_text().splitlines()[1:]))


def cut_row(made):
    made.source.write_text(made.source.read_text() + "one,two,three\n")


def second_channel(made):
    about = json.loads((made.folder / "dataset.json").read_text())
    write_json(made.folder / "dataset.json", about | {"channel_names": {"0": "T1", "1": "T2"}})
    for path in made.images[:3]:
        shutil.copy(path, path.with_name(path.name.replace("_0000", "_0001")))


def replace_key(key, value):
    def damage(made):
        about = json.loads((made.folder / "dataset.json").read_text())
        write_json(made.folder / "dataset.json", about | {key: value})

    return damage


def lose_pair(made):
    made.images[3].unlink()
    made.labels[3].unlink()


def strange_participants(made):
    (made.folder / "participants.tsv").write_text("participant_id\tage\nsub-0\t3\nsub-1\t4\nsub-2\t5\n")


def two_suffixes(made):
    save(made.images[0].with_name("sub-0_T2w.nii.gz"), volume(9))


# name -> layouts, item, how, codes: what is wrong with a list, a table or the names of files.
DATASETS = {
    "path with ..": (LISTS, 62, entry(image="../../etc/passwd"), ("outside-root",)),
    "absolute path": (LISTS, 62, entry(image="/etc/passwd"), ("outside-root",)),
    "label with ..": (LISTS, 62, entry(label="x/../../m.nii"), ("outside-root",)),
    "equal keys": (LISTS, 64, edit(lambda c: '{"training": [], ' + json.dumps(c)[1:]), ("bad-json",)),
    "no label in the list": (LISTS, 66, edit(lambda c: c["training"][0].pop("label") and None), ("missing-label",)),
    "misspelt label": (LISTS, 66, entry(label="labelsTr/cO.nii.gz"), ("missing-file",)),
    "misspelt image": (LISTS, 66, entry(image="imagesTr/cO.nii.gz"), ("missing-file",)),
    "an .img in the list": (LISTS, 26, entry(image="imagesTr/c0.img"), ("missing-file",)),
    "scan twice": (LISTS, 67, edit(lambda c: c["training"].append(c["training"][0])), ("scan-twice",)),
    "image as label": (LISTS, 61, entry(label="imagesTr/c0.nii.gz"), ("label-is-image",)),
    "id twice": (LISTS, 65, entry(id="c1"), ("id-twice",)),
    "one scan in training and validation": (("datalist",), 67, copied(0, 3), ("scan-leaks",)),
    "one scan of two patients": (("decathlon", "folder", "nnunet", "bids", "table"), 67, copied(0, 1), ("scan-leaks",)),
    "labels without a value": (LISTS, 55, edit(lambda c: c.update(labels={"organ": None})), ("bad-labels",)),
    "label out of range": (LISTS, 55, edit(lambda c: c.update(labels={"organ": 1})), ("label-out-of-range",)),
    "an .img among the images": (("folder", "nnunet"), 26, other_suffix, ("unsupported-file",)),
    "both suffixes": (("folder", "nnunet"), 65, both_suffixes, ("name-twice",)),
    "label of another name": (("folder", "nnunet", "bids"), 66, orphan, ("label-without-image", "missing-label")),
    "channel missing": (("nnunet",), 66, second_channel, ("missing-channel",)),
    "fewer pairs than were declared": (("nnunet",), 66, lose_pair, ("case-count",)),
    "file ending of another format": (("nnunet",), 26, replace_key("file_ending", ".nrrd"), ("unsupported-file",)),
    "label not declared": (
        ("nnunet",),
        55,
        replace_key("labels", {"background": 0, "organ": 1}),
        ("label-out-of-range",),
    ),
    "two layouts": (
        ("nnunet",),
        66,
        replace_key("training", [{"image": "a.nii", "label": "b.nii"}]),
        ("ambiguous-layout",),
    ),
    "no column image": (("table",), 66, drop_columns, ("bad-table",)),
    "row too long": (("table",), 66, cut_row, ("bad-table",)),
    "unknown participant": (("bids",), 66, strange_participants, ("bad-table",)),
    "two suffixes of images": (("bids",), 66, two_suffixes, ("ambiguous-layout",)),
}
