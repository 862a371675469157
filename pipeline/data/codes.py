"""Every code that a check can report: stable names, since scripts and papers refer to them.

``docs/checks.md`` holds the same table; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.errors import Problem


@dataclass(frozen=True, slots=True)
class Code:
    """What a code stands for.

    Attributes:
        meaning: What is wrong.
        warning: Whether the dataset can be used all the same; ``--strict`` makes an error of it.
        fixes: Names of the repairs that ``--fix`` knows for it.
    """

    meaning: str
    warning: bool = False
    fixes: tuple[str, ...] = ()


CODES: dict[str, Code] = {
    # The dataset and its list.
    "missing-dataset": Code("The dataset's path leads nowhere."),
    "no-dataset": Code("The folder or file has none of the known layouts."),
    "ambiguous-layout": Code("The folder or file could be read as more than one layout."),
    "bad-layout": Code("The layout that was asked for does not exist, or has no such option."),
    "bad-json": Code("The list is no JSON object, or holds a key twice."),
    "bad-table": Code("The table has no column `image`, a misspelt or a repeated one, or a row of another length."),
    "bad-entry": Code("An entry of the list names no image, or a label that is no path."),
    "misspelt-key": Code("A key or a section of the list is nearly one that is known."),
    "same-meaning": Code("Two keys or columns mean the same."),
    "unknown-key": Code("Nothing reads a key, a section or a column.", warning=True),
    "fold-unused": Code("Entries have folds, and no option says which of them validates.", warning=True),
    "bad-split": Code("The file of a split cannot be read, or has no fold of the name or number that is asked for."),
    "split-unknown": Code("The file of a split names a case that is not in the dataset, or is in its test set."),
    "split-missing": Code("The file of a split leaves out a case with a mask, or one side."),
    "split-both-sides": Code("The file of a split has a case or a patient on both sides, or in two folds."),
    "split-without-mask": Code("The file of a split validates on a case without a mask."),
    "count-differs": Code("`numTraining` or `numTest` is not the number of entries or scans.", warning=True),
    "bad-labels": Code("The declared or chosen labels are no values and names, or no mask has them."),
    "bad-regions": Code("The regions are no labels of the dataset, or no mask could tell them apart."),
    "regions-not-asked": Code(
        "Labels are regions of several values, and no `regions_class_order` asks for them: their parts are trained.",
        warning=True,
    ),
    "bad-pattern": Code("The pattern for patients is no regular expression, does not fit a case, or takes too long."),
    "outside-root": Code("A path leads out of the dataset's folder."),
    "no-cases": Code("The list has no entries."),
    "no-scans": Code("The folder holds no scan."),
    "unused-files": Code("Files that are or could be scans or masks are there, and no case uses them.", warning=True),
    "unused-list": Code("A list or table names the cases, and is not read.", warning=True),
    "mask-as-image": Code("A folder of images holds what is named like their masks."),
    "looks-like-mask": Code("A scan holds a few whole numbers alone.", warning=True),
    "mask-among-scans": Code("Some of the scans are named like masks.", warning=True),
    "one-patient": Code("All masks are of one patient, and one must be held out to validate on.", warning=True),
    "shared-stems": Code("Ids look like several scans of one patient, and nothing says whose they are.", warning=True),
    "class-unseen": Code("A class has no voxel in any mask that is trained on.", warning=True),
    "class-unvalidated": Code("A class has no voxel in any mask that validates.", warning=True),
    "no-folder": Code("A folder is expected and there is none."),
    "missing-label": Code("A training or validation scan has no label."),
    "unwanted-label": Code("A scan that trains without a label has one."),
    "label-without-image": Code("No image has the label's name."),
    "case-count": Code("nnU-Net's `numTraining` is not the number of pairs in its folders."),
    "missing-channel": Code("A scan has no file for one of the channels."),
    "label-is-image": Code("One file is image and label of a case."),
    "scan-twice": Code("One file is in two entries."),
    "id-twice": Code("Two cases have one id."),
    "name-twice": Code("Two files differ in their suffix alone, or two predictions would have one name."),
    "scan-leaks": Code("Two files hold the same voxels, so that one scan could be trained on and tested."),
    "nothing-there": Code("No scan that a list names is there."),
    # The file.
    "missing-file": Code("There is no such file."),
    "not-a-file": Code("The path is a folder, a pipe or a device."),
    "unreadable": Code("The file cannot be read."),
    "empty-file": Code("The file has 0 bytes."),
    "unsupported-file": Code("The file is no `.nii` or `.nii.gz`."),
    "no-library": Code("The file's format needs a library that is not installed."),
    "bad-format": Code("A NRRD, MetaImage or DICOM file is damaged, or its header makes no sense."),
    "external-data": Code("The header of a NRRD or MetaImage file leads to other files."),
    "not-grey": Code("The image is in colour."),
    "several-series": Code("The folder holds several DICOM series."),
    "uneven-slices": Code("Slices of a DICOM series are missing, twice, unevenly spaced or of other pixels."),
    "gantry-tilt": Code("Slices of a DICOM series are displaced against each other, as by a tilted gantry."),
    "lfs-pointer": Code("The file is a git-LFS pointer."),
    "annex-pointer": Code("The file is a git-annex pointer."),
    "web-page": Code("The file is a web page or XML."),
    "misnamed": Code("A gzip file without `.gz` in its name, or the reverse."),
    "truncated-gzip": Code("The gzip stream ends too early."),
    "corrupt-gzip": Code("The gzip stream is damaged, or its checksum or length is wrong, or data follows it."),
    "truncated": Code("The file holds fewer bytes than its header promises."),
    "trailing-bytes": Code("Data other than zeros follows the voxels."),
    "padding": Code("Zeros follow the voxels.", warning=True),
    "too-large": Code("The volume takes over 4 GiB unpacked."),
    # The header.
    "not-nifti": Code("The content is no NIfTI file of one part."),
    "header-size": Code("The header names a wrong size for itself.", warning=True),
    "bad-dimensions": Code("The header has no sensible number of axes or voxels."),
    "too-many-axes": Code("The volume has a fifth axis."),
    "too-few-axes": Code("The volume has one axis."),
    "bad-datatype": Code("The voxels are complex, coloured, or of an unknown or inconsistent type."),
    "bad-offset": Code("The voxels begin inside the header, or nowhere."),
    "bad-extension": Code("A header extension has a senseless size."),
    "bad-scaling": Code("The slope or intercept is not finite."),
    # The grid.
    "bad-affine": Code(
        "The affine is not finite, or its voxels have no volume or lie farther than 1e9 mm away, or the qform is no "
        "rotation."
    ),
    "forms-differ": Code(
        "The qform and the sform lie over 0.1 voxel apart, beyond what float32 can hold.",
        fixes=("use-sform", "use-qform"),
    ),
    "no-orientation": Code("Neither qform nor sform is set, so left and right are a guess.", warning=True),
    "sheared": Code("The axes do not stand at right angles; ITK cannot open the file.", warning=True),
    "units": Code("The header says that lengths are in metres or micrometres; they are read as mm.", warning=True),
    "shapes-differ": Code("A label or a channel has another shape than its scan."),
    "axes-differ": Code("A label or channel has its scan's grid with axes renamed.", fixes=("reorient", "copy-affine")),
    "affines-differ": Code(
        "A label or a channel lies over 0.1 voxel from its scan, beyond what float32 can hold.", fixes=("copy-affine",)
    ),
    "voxel-size": Code(
        "A voxel is over 1000 times larger or smaller than the median voxel, or longer than wide, or is not between "
        "0.0001 and 10000 mm long."
    ),
    "mixed-dimensions": Code("A 2-D file stands among volumes."),
    "small-scan": Code("The scan is less than half as long as the median along an axis; it is padded.", warning=True),
    # The voxels.
    "not-finite": Code("The scan has voxels that are NaN or infinite.", fixes=("fill-nonfinite",)),
    "constant-image": Code("A scan with a label has one value everywhere."),
    "constant-scan": Code("A scan without a label has one value everywhere.", warning=True),
    "lost-precision": Code("The values of a scan differ by less than float32, which keeps 7 digits, can tell."),
    "undeclared-channels": Code("A file has a fourth axis, and nothing says that it holds channels."),
    "channel-count": Code("A scan has another number of channels than is declared, or than most."),
    "label-channels": Code("A label has a fourth axis."),
    "label-not-finite": Code("A label has values that are NaN or infinite."),
    "label-not-integer": Code("A label has values that are no integers."),
    "label-rounding": Code("A label has values within 0.001 of integers.", fixes=("round-labels",)),
    "label-too-large": Code("A label has a value above 16777216."),
    "label-too-many": Code("A label has over 250 different values."),
    "label-negative": Code("A label has a value below 0 that is not the declared ignore value."),
    "label-out-of-range": Code("A label has values that nobody declared."),
    "swapped": Code("The image looks like a mask and the label like a scan."),
    "unannotated-label": Code("A mask has voxels of a class that its entry does not name under `annotated`."),
    "looks-unannotated": Code(
        "A value fills most of many masks, as where nobody has annotated, and no `ignore` is declared.", warning=True
    ),
    "rare-label": Code("One of many masks has a value that no other has, and nothing declares it.", warning=True),
    "label-left-out": Code("A value of the masks is not among the labels that are chosen.", warning=True),
    "empty-mask": Code("A mask has no foreground.", warning=True),
    # Later on.
    "out-of-memory": Code("There is too little memory to look at the scan, or to bring it to the network's grid."),
    "too-few-labels": Code("There are too few masks to train on some and validate on others."),
    "file-changed": Code("A file is not the one that was checked."),
}


def is_warning(problem: Problem) -> bool:
    """Tell whether a dataset with this problem can be used all the same."""
    return problem.code in CODES and CODES[problem.code].warning
