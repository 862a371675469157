"""Datasets as people have them: other words for the same things, and things beside them that nobody asked for.

Each input says what has to become of it: it is read as meant (``facts``), or a finding of a code names it (``code`` and
``word``). Whatever holds voxels has to be used by a case or to be named: ``python tests/untidy.py`` counts what is
neither.
"""

import csv
import json
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from damage import mask, save, volume

from pipeline.data.layouts import read_dataset
from pipeline.errors import UserError
from pipeline.runs.checking import survey

VOXELS = (".nii", ".nii.gz", ".mha", ".nrrd", ".png", ".zip")


@dataclass(frozen=True)
class Input:
    """One dataset, and what has to become of it.

    ``write`` is given an empty folder and returns what a user would name; ``sound`` says whether nothing may stand in
    the way of using it.
    """

    name: str
    write: Callable[[Path], Path]
    facts: Mapping[str, object] = field(default_factory=dict)
    code: str = ""
    word: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    layout: str = "auto"
    sound: bool = True


@dataclass
class Outcome:
    """What became of an input: its cases, and what was found."""

    dataset: object
    findings: list
    problems: list

    @property
    def text(self):
        return "\n".join(f"{f.where} {f.message} {f.remedy}" for f in self.findings)

    def facts(self):
        cases = self.dataset.cases if self.dataset else ()
        return {
            "masks": sum(case.label is not None for case in cases),
            "cases": len(cases),
            "ids": sorted(case.id for case in cases),
            "patients": len({case.patient for case in cases}),
            "roles": dict(Counter(str(case.role) for case in cases)),
            "channels": len(cases[0].images) if cases else 0,
            "names": self.dataset.channels if self.dataset else None,
            "labels": dict(self.dataset.labels or {}) if self.dataset else None,
            "ignore": self.dataset.ignore if self.dataset else None,
        }


def look_at(source, layout="auto", options=None):
    try:
        look = survey(read_dataset(source, None, layout, options or {}))
    except UserError as error:
        return Outcome(None, list(error.problems), list(error.problems))
    return Outcome(look.dataset, look.findings, look.problems)


def files_unsaid(folder, outcome):
    """Return the files with voxels that no case uses and no finding names, by their name or their folder's.

    A dataset that is asked about drops nothing: nobody goes on with it.
    """
    if outcome.dataset is None:
        return []
    used = {path.resolve() for case in outcome.dataset.cases for path in (*case.images, case.label) if path}
    unsaid = []
    for path in sorted(folder.rglob("*")):
        if not path.name.lower().endswith(VOXELS) or path.name.startswith(".") or "__MACOSX" in path.parts:
            continue
        inside = path.relative_to(folder)
        stem = path.name.partition(".")[0]
        ends = {stem[n + 1 :] for n, letter in enumerate(stem) if letter in "_-"}
        said = {path.name, *map(str, inside.parents), stem} - {"."} | {end for end in ends if len(end) > 2}
        if path.resolve() not in used and not any(name in outcome.text for name in said):
            unsaid.append(str(inside))
    return unsaid


def silence(item, folder):
    """Return what of an input is neither used as it was meant nor named, though the dataset is read."""
    outcome = look_at(item.write(folder), item.layout, item.options)
    unsaid = files_unsaid(folder, outcome) if not item.options else []  # what an option leaves out, the user has said
    facts = outcome.facts()
    missed = [f"{key} {facts[key]}, not {value}" for key, value in item.facts.items() if facts[key] != value]
    if outcome.dataset is None:
        return [], outcome
    if missed and not outcome.findings:
        unsaid += missed
    if item.word and item.word not in outcome.text:
        unsaid.append(item.word)
    return unsaid, outcome


# What the inputs are made of.


def scan(path, seed=None, masked=False):
    """Write a small scan or mask; scans of different names hold different voxels."""
    number = zlib.crc32(path.name.encode()) % 10_000 if seed is None else seed
    save(path, mask(0) if masked else volume(number))
    return path


def pairs(folder, images="images", labels="labels", names=("c1", "c2", "c3"), image="{}", label="{}"):
    for name in names:
        scan(folder / images / f"{image.format(name)}.nii.gz")
        if labels:
            scan(folder / labels / f"{label.format(name)}.nii.gz", masked=True)
    return folder


def folders(**how):
    return lambda folder: pairs(folder, **how)


def and_also(write, *paths, masked=False):
    """Write more files beside what another one writes."""

    def made(folder):
        source = write(folder)
        for name in paths:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith((".nii", ".nii.gz")):
                scan(path, masked=masked)
            elif not path.exists():
                path.write_bytes(b"not a scan")
        return source

    return made


def json_file(content, name="list.json", files=()):
    def made(folder):
        pairs(folder, "im", "la", ("a", "b", "c", "d"))
        for path in files:
            scan(folder / path)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return folder / name

    return made


def table(rows, name="cases.csv"):
    def made(folder):
        pairs(folder, "im", "la", ("a", "b", "c", "d"))
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith("tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)
        return folder / name

    return made


def entries(image="image", label="label", **more):
    """Return four entries; ``more`` gives each of them a value under a key."""
    found = []
    for n, name in enumerate("abcd"):
        extra = {key: values[n] for key, values in more.items()}
        found.append({image: f"im/{name}.nii.gz", label: f"la/{name}.nii.gz", **extra})
    return found


def bids(folder, subjects=("01", "02", "03"), suffix="T1w", session="", space=""):
    for subject in subjects:
        ses = f"ses-{session}/" if session else ""
        name = f"sub-{subject}{f'_ses-{session}' if session else ''}{space}_{suffix}"
        scan(folder / f"sub-{subject}/{ses}anat/{name}.nii.gz")
    return folder


def bids_masks(where, name, subjects=("01", "02", "03"), **how):
    """BIDS with a mask a subject: ``where`` and ``name`` hold ``{}`` for the subject."""

    def made(folder):
        bids(folder, subjects, **how)
        for kind in [name] if isinstance(name, str) else name:
            for subject in subjects:
                place = where.format(subject)
                scan(folder / place / f"{kind.format(subject)}.nii.gz", masked=True)
        return folder

    return made


def case_folders(files, cases=("P1", "P2", "P3"), masks=()):
    """A folder a case; names hold ``{}`` for the case's own."""

    def made(folder):
        for case in cases:
            for name in files:
                scan(
                    folder / case / f"{name.format(case.rpartition('/')[2])}.nii.gz",
                    zlib.crc32(f"{case}{name}".encode()),
                )
            for name in masks:
                scan(folder / case / f"{name.format(case.rpartition('/')[2])}.nii.gz", masked=True)
        return folder

    return made


def nnunet(folder, channels=1, about=None, tests=2, names=("a", "b", "c")):
    declared = {"channel_names": {str(n): f"T{n + 1}" for n in range(channels)}, "file_ending": ".nii.gz"}
    declared |= {"labels": {"background": 0, "organ": 1, "nodule": 2}, "numTraining": len(names)}
    for side, cases in (("Tr", names), ("Ts", [f"t{n}" for n in range(tests)])):
        for name in cases:
            for channel in range(channels):
                scan(folder / f"images{side}" / f"{name}_{channel:04d}.nii.gz")
    for name in names:
        scan(folder / "labelsTr" / f"{name}.nii.gz", masked=True)
    (folder / "dataset.json").write_text(json.dumps(declared | (about or {})))
    return folder


# The inputs.

IMAGE_KEYS = ("img", "images", "scan", "Image", "image_path", "volume")
LABEL_KEYS = ("mask", "seg", "segmentation", "labels", "Label", "mask_path", "ground_truth")
PATIENT_KEYS = ("patient_id", "subject", "subject_id", "Patient-ID", "participant_id")
ID_KEYS = ("case", "case_id", "name", "ID")
ROLE_KEYS = ("split", "set", "Role")
TWO = ("p", "p", "q", "q")
SPLIT = ("train", "train", "train", "val")


def as_list(rows):
    return json_file({"training": rows})


def as_decathlon(rows):
    return json_file({"modality": {"0": "MRI"}, "training": rows, "test": []}, "dataset.json")


MADE_OF = {"datalist": as_list, "decathlon": as_decathlon, "table": table}
SECTIONS = {
    "training": ("train", "training_data", "TRAINING", "trainset", "labelled"),
    "validation": ("val", "valid", "Validation", "val_files"),
    "unlabeled": ("unlabelled", "Unlabeled", "unlabeled_data", "UNLABELLED"),
    "test": ("testing", "Test", "test_files"),
}


def section_input(section, key):
    rows = entries()
    bare = [{"image": row["image"]} for row in rows]
    content = {"training": rows[:3], key: rows[3:] if section == "validation" else bare[3:]}
    if section == "training":
        content = {key: rows}
    role = {"unlabeled": "training"}.get(section, section)
    roles = {"training": 4} if role == "training" else {"training": 3, role: 1}
    masks = 4 if section in ("training", "validation") else 3
    facts = {"masks": masks, "roles": roles, "cases": 4}
    # The mask of a scan that is listed without it lies there all the same.
    said = ("", "") if masks == 4 else ("unused-files", "d.nii.gz")
    return Input(f"section {key}", json_file(content), facts, *said)


def key_inputs():
    for layout, made in MADE_OF.items():
        for key in IMAGE_KEYS:
            yield Input(f"{layout}: {key} for image", made(entries(image=key)), {"masks": 4, "cases": 4})
        for key in LABEL_KEYS:
            yield Input(f"{layout}: {key} for label", made(entries(label=key)), {"masks": 4, "cases": 4})
        for key in PATIENT_KEYS:
            yield Input(f"{layout}: {key} for patient", made(entries(**{key: TWO})), {"masks": 4, "patients": 2})
        for key in ID_KEYS:
            facts = {"ids": ["w", "x", "y", "z"]}
            yield Input(f"{layout}: {key} for id", made(entries(**{key: tuple("wxyz")})), facts)
        named = ("lable", "imgae", "patients_id", "mask2")
        code = "bad-table" if layout == "table" else "misspelt-key"
        for key in named:
            item = made([row | {key: "1"} for row in entries()])
            yield Input(f"{layout}: {key}, a slip", item, code=code, word=key, sound=False)
        for key, value in (("age", "40"), ("weight_map", "la/a.nii.gz"), ("t2", "im/b.nii.gz"), ("site", "x")):
            item = made([row | {key: value} for row in entries()])
            yield Input(f"{layout}: {key}, not ours", item, {"masks": 4}, "unknown-key", repr(key))
        twice = made([row | {"mask": row["label"]} for row in entries()])
        yield Input(f"{layout}: label and mask", twice, code="same-meaning", word="'mask'", sound=False)
        facts = {"masks": 4, "roles": {"validation": 2, "training": 2}}
        folds = made(entries(fold=(0, 1, 0, 1)))
        yield Input(f"{layout}: folds", folds, {"masks": 4}, "fold-unused", "fold")
        yield Input(f"{layout}: fold 1 of them", folds, facts, options={"fold": 1})
        yield Input(f"{layout}: no such fold", folds, code="bad-layout", word="0, 1", options={"fold": 7}, sound=False)
        flat = made([{"image_1": "im/b.nii.gz", "image_0": "im/a.nii.gz", "label": "la/a.nii.gz"}])
        facts = {"channels": 2, "ids": ["a"]}
        if layout != "decathlon":  # which says that there is one channel
            yield Input(f"{layout}: image_0 and image_1", flat, facts, "unused-files", "c.nii.gz")
    for key in ROLE_KEYS:
        facts = {"roles": {"training": 3, "validation": 1}}
        yield Input(f"table: {key} for role", table(entries(**{key: SPLIT})), facts)
        other = as_list(entries(**{key: SPLIT}))
        yield Input(f"datalist: {key} against its section", other, code="bad-entry", word="validation", sound=False)
    bare = [
        row | ({"split": "", "label": row["label"]} if n < 2 else {"split": "unlabelled", "label": ""})
        for n, row in enumerate(entries())
    ]
    facts = {"masks": 2, "cases": 4, "roles": {"None": 2, "training": 2}}
    yield Input("table: a split of unlabelled", table(bare), facts, "unused-files", "d.nii.gz")
    rows = [row | {"split": "unlabeled"} for row in entries()]
    yield Input("table: labels of unlabelled", table(rows), code="unwanted-label", word="a.nii.gz", sound=False)
    floats = table(entries(fold=("0.0", "1.0", "", "0.0")))
    yield Input("table: folds as a spreadsheet has them", floats, {"masks": 4}, "fold-unused", "(0, 1)")
    index = [{"": str(n)} | row for n, row in enumerate(entries())]
    yield Input("table: the index of pandas", table(index), {"masks": 4}, "unknown-key", "''")
    yield Input("table: a tsv of synonyms", table(entries(image="img", label="mask"), "c.tsv"), {"masks": 4})


def list_inputs():
    for section, keys in SECTIONS.items():
        for key in keys:
            yield section_input(section, key)
    rows = entries()
    sections = ("trainning", "validaton", "unlabeld", "tesing")
    for key in (*sections, "lables", "chanel_names", "modallity"):
        value = rows[3:] if key in sections else {"0": "x"}
        content = json_file({"training": rows[:3], key: value})
        yield Input(f"list: {key}, a slip", content, code="misspelt-key", word=key, sound=False)
    for key, value in (
        ("holdout", rows[3:]),
        ("external", ["im/d.nii.gz"]),
        ("spacing", [1, 1, 1]),
        ("dataroot", "/d"),
    ):
        content = json_file({"training": rows[:3], key: value})
        yield Input(f"list: {key}, not ours", content, {"masks": 3}, "unknown-key", repr(key))
    parallel = json_file({"training": rows[:2], "train_images": ["im/c.nii.gz"], "train_labels": ["la/c.nii.gz"]})
    yield Input("list: images and masks apart", parallel, {"masks": 2}, "unknown-key", "'train_labels'")
    about = {"name": "n", "description": "d", "reference": "r", "licence": "l", "release": "1", "relase": "1"}
    about |= {"tensorImageSize": "3D", "numTraining": 4, "numTest": 0, "author": "me", "Version": 2}
    yield Input("list: what is for people", json_file(about | {"training": rows, "test": []}), {"masks": 4})
    for key in ("numTraining", "numTest", "numValidation"):
        content = json_file({key: 9, "training": rows[:3], "validation": rows[3:]})
        yield Input(f"list: {key} is wrong", content, {"masks": 4}, "count-differs", key)
    names = (("channel_names", ["cine"], "cine"), ("modality", "CT", "CT"), ("modalities", {"0": "MR"}, "MR"))
    for key, value, name in names:
        content = json_file({"training": rows, key: value})
        yield Input(f"list: {key} as {type(value).__name__}", content, {"names": (name,)})
    content = json_file({"training": rows, "classes": {"1": "organ", "2": "nodule"}, "ignore_index": 9})
    facts = {"labels": {0: "background", 1: "organ", 2: "nodule"}, "ignore": 9}
    yield Input("list: classes and ignore_index", content, facts)
    for key, value in (("label", ["la/a.nii.gz"]), ("label", 7), ("label", {}), ("id", [1]), ("patient", True)):
        content = json_file({"training": [rows[0] | {key: value}, *rows[1:]]})
        yield Input(f"list: {key} as {value!r}", content, code="bad-entry", word=repr(value), sound=False)
    content = json_file({"training": [row | {"id": n} for n, row in enumerate(rows)]})
    yield Input("list: numbers as ids", content, {"ids": ["0", "1", "2", "3"]})
    content = json_file({"training": rows[:2]}, "dataset.json")
    yield Input("list: half of a folder", content, {"masks": 2}, "unused-files", "c.nii.gz")
    content = json_file({"training": rows[:2]})
    yield Input("list: half of a folder, another name", content, {"masks": 2}, "unused-files", "c.nii.gz")
    for place in ("imagesTs", "predictions_seg", "masks_old"):
        content = json_file({"training": rows}, files=[f"{place}/x.nii.gz"])
        yield Input(f"list: {place} beside it", content, {"masks": 4}, "unused-files", place)


def folder_inputs():
    for name in ("images", "Images", "IMAGES", "img", "scans", "volumes", "imagesTr", "train_images"):
        yield Input(f"folder: {name}", folders(images=name), {"masks": 3, "cases": 3})
    masks = (
        "labels",
        "masks",
        "Masks",
        "segmentations",
        "seg",
        "gt",
        "annotations",
        "labelsTr",
        "ground_truth",
        "mask",
    )
    for name in (*masks, "GT", "lesion_masks", "manual_segmentation", "Labels", "rois", "train_labels"):
        yield Input(f"folder: masks in {name}", folders(labels=name), {"masks": 3, "cases": 3})
    for name in ("organ", "output", "tumour", "T2"):
        facts = {"masks": 0, "cases": 3}
        yield Input(f"folder: {name} beside it", folders(labels=name), facts, "unused-files", name)
        read = Input(f"folder: {name} by option", folders(labels=name), {"masks": 3}, options={"labels": name})
        yield read
    for other in ("masks", "labels_old", "segmentations", "masks_reader2"):
        write = and_also(folders(), f"{other}/c1.nii.gz", masked=True)
        yield Input(f"folder: labels and {other}", write, code="ambiguous-layout", word=other, sound=False)
        yield Input(f"folder: labels, not {other}", write, {"masks": 3}, "unused-files", other, {"labels": "labels"})
    write = and_also(folders(), "img/c9.nii.gz")
    yield Input("folder: images and img", write, code="ambiguous-layout", word="img", sound=False)
    yield Input("folder: images, not img", write, {"masks": 3}, "unused-files", "img", {"images": "images"})
    for other in (
        "imagesTs/t.nii.gz",
        "test/t.nii.gz",
        "unlabelled/u.nii.gz",
        "labelsTs/t.nii.gz",
        "images/old/o.nii.gz",
    ):
        facts = {"masks": 3}
        yield Input(f"folder: {other} beside it", and_also(folders(), other), facts, "unused-files", Path(other).name)
    for other in ("masks/c1.png", "labels.zip", "masks.tar.gz", "extra/x.nrrd"):
        write = and_also(folders(labels=None), other)
        yield Input(f"folder: {other} beside it", write, {"cases": 3}, "unused-files", Path(other).name)
    for other in ("labels/c9.mha", "images/c9.nrrd", "masks/c1.mgz"):
        write = and_also(folders(labels=None), other)
        yield Input(f"folder: {other} in it", write, code="unsupported-file", word=Path(other).name, sound=False)
    write = and_also(folders(), "unlabelled/u.nii.gz")
    yield Input("folder: unlabelled by option", write, {"cases": 4, "masks": 3}, options={"unlabelled": "unlabelled"})
    for ending in ("_seg", "_mask", "-label", "_gt", "_lesion", "_seg-manual", ".mask"):
        here = folders(labels="images", label="{}" + ending)
        yield Input(f"folder: {ending} among images", here, code="mask-as-image", word=ending, sound=False)
        facts = {"masks": 3, "ids": ["c1", "c2", "c3"]}
        yield Input(f"folder: {ending} by option", here, facts, options={"label_suffix": ending})
        yield Input(f"folder: {ending} in labels", folders(label="{}" + ending), facts)
        flat = folders(images=".", labels=".", label="{}" + ending)
        yield Input(f"flat: {ending}", flat, code="ambiguous-layout", word=ending, sound=False)
        yield Input(f"flat: {ending} as a folder", flat, facts, layout="folder")
    for image, label in (
        ("img{}", "label{}"),
        ("volume-{}", "segmentation-{}"),
        ("{}_T2", "{}_seg"),
        ("{}_image", "{}_label"),
    ):
        write = folders(names=("01", "02"), image=image, label=label)
        yield Input(f"folder: {image} and {label}", write, {"masks": 2, "cases": 2})
    words = folders(images=".", labels=".", image="{}_image", label="{}_label")
    yield Input("flat: words for both", words, code="ambiguous-layout", word="_label", sound=False)
    yield Input("flat: words for both, as a folder", words, {"masks": 3, "cases": 3}, layout="folder")
    beside = folders(images=".", labels="masks")
    yield Input("folder: scans, and masks in a folder", beside, {"cases": 3, "masks": 0}, "unused-files", "images=.")
    read = {"images": ".", "labels": "masks"}
    yield Input("folder: both by option", beside, {"masks": 3}, options=read, layout="folder")
    lone = and_also(folders(labels="images", label="{}_seg"), "images/c9_seg.nii.gz", masked=True)
    options = {"label_suffix": "_seg"}
    yield Input("folder: a mask alone", lone, code="label-without-image", word="c9_seg", options=options, sound=False)
    both = and_also(folders(labels="images", label="{}_seg"), "images/c1_mask.nii.gz", masked=True)
    yield Input("folder: two endings here", both, code="mask-as-image", word="_mask (1)", sound=False)
    yield Input("folder: one of two endings", both, {"masks": 3, "cases": 3}, options=options)
    sequence = folders(labels="images", image="{}_T1", label="{}_seg")
    yield Input("folder: a sequence and a mask", sequence, code="mask-as-image", word="_seg", sound=False)
    yield Input("folder: a sequence, by option", sequence, {"masks": 3, "cases": 3}, options=options)
    number = folders(labels="images", image="{}_0000", label="{}_seg")
    yield Input("folder: a channel and a mask", number, code="mask-as-image", word="_seg", sound=False)
    yield Input("folder: a channel, by option", number, {"masks": 3, "ids": ["c1", "c2", "c3"]}, options=options)
    organs = and_also(folders(label="{}_liver"), *(f"labels/c{n}_spleen.nii.gz" for n in (1, 2, 3)), masked=True)
    yield Input("folder: a mask an organ", organs, code="ambiguous-layout", word="_spleen (3)", sound=False)
    yield Input("folder: one organ", organs, {"masks": 3}, options={"label_suffix": "_spleen"})
    one = folders(label="{}_liver")
    yield Input("folder: an unknown ending", one, code="ambiguous-layout", word="_liver (3)", sound=False)
    other = folders(names=("c1", "c2"), labels=None)
    other = and_also(other, "labels/c1.nii.gz", "labels/c2_01.nii.gz", masked=True)
    yield Input("folder: a number more", other, code="label-without-image", word="c2_01", sound=False)
    visit = and_also(folders(names=("c1", "c2"), labels=None), "labels/c1_visit2.nii.gz", masked=True)
    yield Input("folder: another visit", visit, code="label-without-image", word="c1_visit2", sound=False)
    two = and_also(folders(label="{}_seg"), *(f"labels/c{n}_mask.nii.gz" for n in (1, 2, 3)), masked=True)
    yield Input("folder: two masks an image", two, code="ambiguous-layout", word="_mask", sound=False)
    yield Input("folder: one of two", two, {"masks": 3}, options={"label_suffix": "_mask"})
    for option, value in (("images", "imgs"), ("labels", "lables"), ("unlabelled", "more"), ("label_suffix", "_x")):
        code = {"code": "bad-layout", "word": value, "options": {option: value}, "sound": False}
        yield Input(f"folder: {option}={value}", folders(), **code)
    about = json.dumps({"labels": {"1": "organ", "2": "nodule"}, "note": "x", "vendor": "y"})

    def described(folder):
        pairs(folder)
        (folder / "dataset.json").write_text(about)
        return folder

    facts = {"masks": 3, "labels": {0: "background", 1: "organ", 2: "nodule"}}
    yield Input("folder: dataset.json declares", described, facts, "unknown-key", "vendor")


def channel_inputs():
    facts = {"masks": 3, "ids": ["c1", "c2", "c3"], "channels": 1}
    yield Input("channels: one, in images", folders(image="{}_0000"), facts)
    yield Input("channels: one, without masks", folders(image="{}_0000", labels=None), facts | {"masks": 0})
    two = and_also(folders(image="{}_0000"), *(f"images/c{n}_0001.nii.gz" for n in (1, 2, 3)))
    yield Input("channels: two, in images", two, facts | {"channels": 2})
    lack = and_also(folders(image="{}_0000"), "images/c1_0001.nii.gz", "images/c2_0001.nii.gz")
    yield Input("channels: one lacks", lack, code="channel-count", word="c3", sound=False)
    hole = and_also(folders(image="{}_0000"), "images/c1_0002.nii.gz")
    yield Input("channels: a hole", hole, code="missing-channel", word="_0001", sound=False)
    numbers = folders(names=("c_0001", "c_0002", "c_0003"))
    yield Input("channels: numbers of cases", numbers, {"masks": 3, "cases": 3, "channels": 1})
    from_zero = folders(names=("c_0000", "c_0001", "c_0002"))
    yield Input("channels: numbers of cases from 0", from_zero, {"masks": 3, "cases": 3, "channels": 1})
    ending = folders(names=("c_0000", "c_0001"), label="{}_seg")
    yield Input("channels: numbers of cases, masks _seg", ending, {"masks": 2, "cases": 2, "channels": 1})

    def version_1(folder):
        rows = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
        for name in "ab":
            scan(folder / "labelsTr" / f"{name}.nii.gz", masked=True)
            for channel in (0, 1):
                scan(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        about = {"modality": {"0": "T1", "1": "T2"}, "numTraining": 2, "numTest": 0, "training": rows, "test": []}
        (folder / "dataset.json").write_text(json.dumps(about))
        return folder

    yield Input("channels: nnU-Net's version 1", version_1, {"masks": 2, "channels": 2, "ids": ["a", "b"]})


def nnunet_inputs():
    facts = {"masks": 3, "roles": {"training": 3, "test": 2}}
    yield Input("nnunet: a test set", nnunet, facts)
    asked = {"roles": {"training": 5}, "masks": 3}
    yield Input("nnunet: unlabelled on request", nnunet, asked, options={"unlabelled": "imagesTs"})
    write = and_also(nnunet, "imagesUn/u_0000.nii.gz")
    yield Input("nnunet: another folder", write, facts, "unused-files", "imagesUn")
    yield Input("nnunet: it, on request", write, {"cases": 6}, options={"unlabelled": "imagesUn"})
    yield Input(
        "nnunet: no such folder",
        nnunet,
        code="bad-layout",
        word="imagesUn",
        options={"unlabelled": "imagesUn"},
        sound=False,
    )
    for other in ("labelsTr_old/a.nii.gz", "imagesVal/v_0000.nii.gz", "labelsTr/a.png", "extra/a.nii.gz"):
        yield Input(f"nnunet: {other}", and_also(nnunet, other), facts, "unused-files", Path(other).name)
    for key, code in (("vendor", "unknown-key"), ("lables", "misspelt-key"), ("channel_name", "misspelt-key")):
        write = lambda folder, key=key: nnunet(folder, about={key: {"x": 1}})  # noqa: E731
        yield Input(f"nnunet: {key}", write, code=code, word=key, sound=code == "unknown-key")
    told = {"dataset": {"a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}}
    with_list = lambda folder: nnunet(folder, about=told)  # noqa: E731
    yield Input("nnunet: its own list", with_list, facts, "unknown-key", "'dataset' of 1 scan(s)")
    counted = lambda folder: nnunet(folder, about={"numTest": 7})  # noqa: E731
    yield Input("nnunet: numTest is wrong", counted, facts, "count-differs", "numTest")

    def with_folds(folder):
        nnunet(folder)
        (folder / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))
        return folder

    yield Input("nnunet: its folds beside it", with_folds, facts, "unused-list", "splits_final.json")


def bids_inputs():
    derived = "derivatives/labels/sub-{}/anat"
    beside = "sub-{}/anat"
    facts = {"masks": 3, "cases": 3}
    kinds = ("_T1w_seg-manual", "_T1w_gmseg-manual", "_T1w_lesion_mask", "_T1w_seg", "_dseg", "_desc-manual_dseg")
    for kind in (
        *kinds,
        "_mask",
        "_label-WM_mask",
        "_label-lesion_seg",
        "_T1w_label-SC_mask",
        "_space-orig_dseg",
        "_roi",
    ):
        for where in (derived, beside):
            write = bids_masks(where, "sub-{}" + kind)
            yield Input(f"bids: {kind} in {where[:4]}", write, facts)
    for first, second, option in (
        ("_T1w_seg-manual", "_T1w_gmseg-manual", {"label_suffix": "gmseg-manual"}),
        ("_label-L_mask", "_label-R_mask", {"label": "R"}),
        ("_desc-a_dseg", "_desc-b_dseg", {"desc": "b"}),
        ("_dseg", "_mask", {"label_suffix": "mask"}),
        ("_label-L_desc-a_mask", "_label-L_desc-b_mask", {"label_suffix": "label-L_desc-b_mask"}),
    ):
        write = bids_masks(derived, ["sub-{}" + first, "sub-{}" + second])
        yield Input(
            f"bids: {first} and {second}",
            write,
            code="ambiguous-layout",
            word=second.removeprefix("_T1w")[1:],
            sound=False,
        )
        yield Input(f"bids: {option} of them", write, facts, options=option)

    def other(folder):
        return bids_masks("derivatives/auto/sub-{}", "sub-{}_dseg")(bids_masks(derived, "sub-{}_dseg")(folder))

    yield Input("bids: two derivatives", other, code="ambiguous-layout", word="derivative=auto", sound=False)
    yield Input("bids: one of two derivatives", other, facts, options={"derivative": "auto"})
    both = lambda folder: bids_masks(beside, "sub-{}_mask")(bids_masks(derived, "sub-{}_mask")(folder))  # noqa: E731
    yield Input("bids: beside and derived", both, code="ambiguous-layout", word="beside the scans", sound=False)
    yield Input("bids: beside, not derived", both, facts, options={"derivative": "."})
    write = bids_masks(derived, "sub-{}_T1w_seg-manual")
    for key, value, code, word in (
        ("derivative", "label", "no-folder", "labels"),
        ("label", "L", "bad-layout", "seg-manual"),
        ("desc", "x", "bad-layout", "seg-manual"),
        ("label_suffix", "dseg", "bad-layout", "seg-manual"),
        ("suffix", "T2w", "bad-layout", "T1w"),
    ):
        yield Input(
            f"bids: {key}={value} finds nothing", write, code=code, word=word, options={key: value}, sound=False
        )
    yield Input(
        "bids: suffix of a mask",
        write,
        code="bad-layout",
        word="label_suffix",
        options={"suffix": "seg-manual"},
        sound=False,
    )
    direct = bids_masks("derivatives/sub-{}/anat", "sub-{}_msk")
    yield Input("bids: subjects in derivatives", direct, facts)
    twice = bids_masks("derivatives/sub-{}", ["sub-{}_msk", "sub-{}_dseg"])
    yield Input("bids: two kinds there", twice, code="ambiguous-layout", word="msk in derivatives (3)", sound=False)
    tumour = bids_masks(beside, "sub-{}_T1w_tumour")
    yield Input("bids: an unknown suffix", tumour, code="ambiguous-layout", word="label_suffix", sound=False)
    yield Input("bids: it, by option", tumour, facts, options={"label_suffix": "tumour"})
    named = bids_masks(derived, "sub-{}_T1w_label-lesion")
    yield Input("bids: a label at the end", named, facts, options={"label": "lesion"})
    session = bids_masks("derivatives/l/sub-{}/ses-1/anat", "sub-{}_ses-1_dseg", session="1")
    yield Input("bids: sessions", session, facts)
    yield Input("bids: a mask that says less", bids_masks(derived, "sub-{}_dseg", session="1"), facts)

    def two_sessions(folder):
        bids(folder, session="1")
        return bids_masks(derived, "sub-{}_dseg", session="2")(folder)

    yield Input("bids: a mask of either", two_sessions, code="label-without-image", word="sub-01_dseg", sound=False)

    def runs_and_none(folder):
        for n in ("01", "02", "03"):
            scan(folder / f"sub-{n}/anat/sub-{n}_run-2_T1w.nii.gz")
        return bids_masks(derived, "sub-{}_dseg")(folder)

    yield Input("bids: the scan of the same name", runs_and_none, {"masks": 3, "cases": 6, "patients": 3})
    space = bids_masks(beside, "sub-{}_space-MNI_label-L_desc-T1lesion_mask", space="_space-MNI")
    yield Input("bids: one space", space, facts)
    elsewhere = bids_masks(derived, "sub-{}_space-MNI_dseg")
    yield Input("bids: another space", elsewhere, code="label-without-image", word="space MNI", sound=False)
    spare = and_also(write, *(f"derivatives/labels/sub-0{n}/anat/sub-0{n}_label-GM_probseg.nii.gz" for n in (1, 2, 3)))
    yield Input("bids: probabilities too", spare, facts, "unused-files", "probseg")
    spare = and_also(write, *(f"derivatives/fs/sub-0{n}/mri/aseg.mgz" for n in (1, 2, 3)))
    yield Input("bids: what other tools leave", spare, facts, "unused-files", "derivatives/fs")
    spare = and_also(write, "derivatives/other/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz", "sub-01/anat/note.nii.gz")
    yield Input("bids: other images", spare, facts, "unused-files", "preproc")

    def people(folder):
        write(folder)
        rows = "\n".join(f"sub-0{n}\ttrain" for n in (1, 2, 3))
        (folder / "participants.tsv").write_text(f"participant_id\tsplit\n{rows}\n")
        return folder

    yield Input("bids: a split of participants", people, facts, "unknown-key", "'split'")


def case_inputs():
    four = ("{}_flair", "{}_t1", "{}_t1ce", "{}_t2")
    facts = {"masks": 3, "cases": 3, "channels": 4}
    yield Input(
        "cases: four sequences", case_folders(four, masks=("{}_seg",)), facts | {"names": ("flair", "t1", "t1ce", "t2")}
    )
    dashes = case_folders(("{}-t1c", "{}-t1n", "{}-t2f", "{}-t2w"), ("G-1-000", "G-2-000"), ("{}-seg",))
    yield Input("cases: dashes", dashes, {"masks": 2, "channels": 4})
    yield Input(
        "cases: chosen channels",
        case_folders(four, masks=("{}_seg",)),
        facts | {"channels": 2},
        options={"suffix": ["t1", "flair"]},
    )
    yield Input(
        "cases: one chosen", case_folders(four, masks=("{}_seg",)), facts | {"channels": 1}, options={"suffix": "t2"}
    )
    for image, label in (
        ("image", "label"),
        ("imaging", "segmentation"),
        ("ct", "mask"),
        ("{}", "{}_seg"),
        ("{}_image", "{}_label"),
    ):
        yield Input(
            f"cases: {image} and {label}",
            case_folders((image,), masks=(label,)),
            {"masks": 3, "channels": 1, "ids": ["P1", "P2", "P3"]},
        )
    yield Input(
        "cases: a common beginning",
        case_folders(("x{}-FLAIR", "x{}-T1"), ("7", "8"), ("x{}-mask",)),
        {"masks": 2, "channels": 2},
    )
    yield Input("cases: no masks", case_folders(("image",)), {"masks": 0, "cases": 3})
    structures = case_folders(("ct",), masks=("segmentations/liver", "segmentations/spleen", "segmentations/kidney"))
    yield Input(
        "cases: a mask a structure", structures, code="ambiguous-layout", word="segmentations/liver", sound=False
    )
    yield Input(
        "cases: one structure", structures, {"masks": 3, "channels": 1}, options={"label_suffix": "segmentations/liver"}
    )
    readers = case_folders(("imaging",), masks=("segmentation", "instances/kidney_annotation-1"))
    yield Input("cases: instances too", readers, code="ambiguous-layout", word="instances", sound=False)
    yield Input("cases: not the instances", readers, {"masks": 3}, options={"label_suffix": "segmentation"})
    hearts = case_folders(("{}_4d", "{}_frame01", "{}_frame12"), masks=("{}_frame01_gt", "{}_frame12_gt"))
    yield Input("cases: pairs in each", hearts, code="ambiguous-layout", word="_gt", sound=False)
    yield Input(
        "cases: pairs by option", hearts, {"masks": 6, "patients": 3}, "unused-files", "4d", {"label_suffix": "_gt"}
    )
    odd = case_folders(("FLAIR", "T1"), masks=("wmh",))
    yield Input("cases: a mask of another name", odd, code="ambiguous-layout", word="wmh", sound=False)
    yield Input(
        "cases: it, by option",
        odd,
        {"masks": 3, "channels": 2},
        options={"label_suffix": "wmh", "suffix": ["FLAIR", "T1"]},
    )
    uneven = and_also(case_folders(("t1",), masks=("seg",)), "P1/t2.nii.gz")
    yield Input("cases: one has more", uneven, code="ambiguous-layout", word="t2 (1)", sound=False)
    yield Input(
        "cases: one lacks", uneven, code="missing-channel", word="t2", options={"suffix": ["t1", "t2"]}, sound=False
    )
    visits = case_folders(("flair", "t1"), ("P1/v1", "P1/v2", "P2/v1"), ("seg",))
    yield Input("cases: visits", visits, {"masks": 3, "patients": 2, "channels": 2})
    deep = case_folders(("{}_t1", "{}_t2"), ("data/A", "data/B", "data/C"), ("{}_seg",))
    yield Input("cases: one folder above", deep, {"masks": 3, "patients": 3, "ids": ["A", "B", "C"]})
    grades = case_folders(("{}_t1",), tuple(f"{'HL'[n % 2]}GG/X{n}" for n in range(20)), ("{}_seg",))
    yield Input("cases: two groups", grades, {"masks": 20, "patients": 20})
    raw = lambda folder: bids(folder / "rawdata").parent  # noqa: E731
    yield Input("cases: BIDS in a folder", raw, code="no-dataset", word="rawdata/ (bids)", sound=False)
    dataset = lambda folder: pairs(folder, "mine/images", "mine/masks") and folder  # noqa: E731
    yield Input("cases: a dataset in a folder", dataset, code="no-dataset", word="mine/ (folder)", sound=False)
    listed = lambda folder: nnunet(folder / "mine").parent  # noqa: E731
    yield Input("cases: nnU-Net in a folder", listed, code="no-dataset", word="mine/ (nnunet)", sound=False)
    foreign = and_also(case_folders((), ("P1",)), "P1/a.nrrd", "P2/a.nrrd")
    yield Input("cases: other formats alone", foreign, code="unsupported-file", word="a.nrrd", sound=False)
    split = case_folders(("image",), ("train/A", "train/B", "val/C"), ("label",))
    yield Input(
        "cases: train and val", split, {"masks": 3, "roles": {"training": 2, "validation": 1}, "ids": ["A", "B", "C"]}
    )
    inner = case_folders(("images/x",), masks=("masks/x",))
    yield Input("cases: folders in each", inner, {"masks": 3, "channels": 1})
    yield Input(
        "cases: another format",
        and_also(case_folders(("image",)), "P1/label.nrrd"),
        code="unsupported-file",
        word="label.nrrd",
        sound=False,
    )
    yield Input(
        "cases: unknown folders", folders(images="im", labels="la"), code="no-dataset", word="images=", sound=False
    )
    for key, value in (("suffix", "t9"), ("label_suffix", "manual")):
        write = case_folders(four, masks=("{}_seg",))
        yield Input(
            f"cases: {key}={value} finds nothing",
            write,
            code="bad-layout",
            word="flair",
            options={key: value},
            sound=False,
        )


STRAYS = ("README.txt", ".DS_Store", "Thumbs.db", "notes.md", "._c1.nii.gz", "__MACOSX/images/._c1.nii.gz")


def stray_inputs():
    def with_strays(write):
        def made(folder):
            source = and_also(write, *STRAYS)(folder)
            (folder / "extra.json").write_text('{"scanner": "x"}')
            (folder / "clinical.csv").write_text("age,sex\n40,f\n")
            (folder / "participants.tsv").write_text("participant_id\tage\nsub-01\t4\nsub-02\t4\nsub-03\t4\n")
            return source

        return made

    bids_one = bids_masks("derivatives/labels/sub-{}/anat", "sub-{}_dseg")
    for name, write in (
        ("folder", folders()),
        ("bids", bids_one),
        ("cases", case_folders(("image",), masks=("label",))),
        ("nnunet", nnunet),
    ):
        yield Input(f"strays: {name}", with_strays(write), {"masks": 3})
    rows = [{"image": f"images/c{n}.nii.gz", "label": f"labels/c{n}.nii.gz"} for n in (1, 2)]

    def beside(text, name):
        def made(folder):
            pairs(folder)
            (folder / name).write_text(text)
            return folder

        return made

    lines = "\n".join(["image,label", *(f"{row['image']},{row['label']}" for row in rows)])
    for text, name in (
        (json.dumps({"train": rows}), "fold0.json"),
        (lines, "cases.csv"),
        (lines.replace(",", "\t"), "c.tsv"),
    ):
        yield Input(f"strays: {name} that lists", beside(text, name), code="ambiguous-layout", word=name, sound=False)
        yield Input(f"strays: {name}, not asked for", beside(text, name), {"masks": 3}, layout="folder")
    patients = beside("case,patient\nc1,p\nc2,p\nc3,q\n", "patients.csv")
    yield Input("strays: a table of patients", patients, {"masks": 3}, "unused-list", "patients.csv")


def stem_inputs():
    for names in (
        ("p1_slice001", "p1_slice002", "p2_slice001"),
        ("p1_frame01", "p1_frame12", "p2_frame01"),
        ("p1_run-1", "p1_run-2", "p2_run-1"),
        ("p1_ses-1", "p1_ses-2", "p2_ses-1"),
        ("p1-slice-7", "p1-slice-8", "p2-slice-7"),
        ("p1_z012", "p1_z013", "p2_z012"),
        ("p1_t03", "p1_t04", "p2_t03"),
        ("p1_visit1", "p1_visit2", "p2_visit1"),
        ("p1_baseline", "p1_followup", "p2_baseline"),
        ("p1_timepoint_1", "p1_timepoint_2", "p2"),
        ("G-001-000", "G-001-001", "G-002-000", "G-003-000"),
        ("p1_left", "p1_right", "p2_left"),
        ("p1 2024-02-01 Visit 1", "p1 2024-03-01 Visit 2", "p2 2024-02-01 Visit 1"),
    ):
        yield Input(f"stems: {names[0]}", folders(names=names), {"masks": len(names)}, "shared-stems", "patient='")
    for names in (
        ("case_001", "case_002", "case_003"),
        ("heart_frame_1", "heart_frame_2"),
        ("A_s01", "A_s02", "B_s01"),
        ("BraTS20_Training_1", "BraTS20_Training_2"),
        ("site1_01", "site1_02", "site2_01", "site3_01"),
    ):
        yield Input(f"stems: none in {names[0]}", folders(names=names), {"masks": len(names), "patients": len(names)})


def inputs():
    """Return every input, each name once."""
    found = [
        *key_inputs(),
        *list_inputs(),
        *folder_inputs(),
        *channel_inputs(),
        *nnunet_inputs(),
        *bids_inputs(),
        *case_inputs(),
        *stray_inputs(),
        *stem_inputs(),
    ]
    assert len({item.name for item in found}) == len(found)
    return found


def main():
    silent = []
    for item in inputs():
        with tempfile.TemporaryDirectory() as place:
            try:
                unsaid, _ = silence(item, Path(place))
            except Exception as error:  # what ends in a traceback is not silent, and no better
                unsaid = [f"{type(error).__name__}: {error}"]
        if unsaid:
            silent.append(item.name)
            print(f"{item.name}: {', '.join(unsaid)}")
    print(f"{len(inputs())} inputs, of which something is neither used as meant nor named in {len(silent)}")
    sys.exit(bool(silent))


if __name__ == "__main__":
    main()
