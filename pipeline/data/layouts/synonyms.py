"""Synonyms of what a dataset is made of: sections and keys of lists, columns of tables, folders, endings of names."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, get_args

from pipeline.types import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# A table of words, in lower-case letters and digits alone, and what each means.
Words = dict[str, str]

# An unknown word at least this similar to a known one is taken for a misspelling: `trainning`, `lable`.
SLIP = 0.8
# More unknown keys than this are reported as one, and are not searched for misspellings.
MOST_UNKNOWN = 1000
TAKE_OUT = "nothing, if it is for people; or take it out"
# Endings of a key that say that it holds a path: `mask_path`.
PATH_ENDINGS = ("path", "filepath", "file", "filename", "fname", "nifti", "nii")


def _words(table: Mapping[str, str]) -> Words:
    return {word: meaning for meaning, words in table.items() for word in (simple(meaning), *words.split())}


def simple(word: str) -> str:
    """Return a word without what people write differently: capitals and separators.

    A word that begins with an underscore is not one of ours: it is a comment, or another program's.

    >>> simple("Patient-ID"), simple("_target_")
    ('patientid', '_target')
    """
    mark = "_" if word.startswith("_") else ""
    return mark + re.sub(r"[^a-z0-9]", "", word.lower())


SECTIONS = _words(
    {
        "training": "train trainingdata traindata trainingset trainset trainingfiles trainfiles labeled labelled "
        "labeleddata labelleddata",
        "validation": "val valid validationdata valdata validationset valset validationfiles valfiles",
        "unlabeled": "unlabelled unlabeleddata unlabelleddata unlabeledset unlabelledset unlabeledtraining "
        "unlabelledtraining trainingunlabeled trainunlabeled unannotated unsupervised",
        "test": "testing testdata testingdata testset testingset testfiles testingfiles",
    }
)
# Keys of an entry of a list, or columns of a table.
KEYS = _words(
    {
        "image": "images img imgs scan scans volume volumes vol input inputs path filepath file filename",
        "label": "labels mask masks seg segs segmentation segmentations annotation annotations groundtruth gt labelmap",
        "id": "case caseid name identifier uid imageid scanid",
        "patient": "patientid subject subjectid participant participantid pid person personid",
        "fold": "folds foldid foldindex foldnumber cvfold",
        "role": "split set subset partition",
    }
)
# Keys beside the sections of a list, which describe the dataset. Those under "about" are for people.
ABOUT = _words(
    {
        "labels": "labelnames classes classnames",
        "ignore": "ignorelabel ignoreindex ignorevalue",
        "regions_class_order": "regionsclassorder",
        "channel_names": "channels modality modalities",
        "about": "name description reference references citation licence license release relase version date created "
        "author authors contact comment comments note notes url doi homepage source dataset datasetname task "
        "tensorimagesize numtraining numtrain numtest numtesting numvalidation numval numunlabeled numunlabelled "
        "fileending overwriteimagereaderwriter imagereaderwriter convertedby",
    }
)
# Those of them that are read.
DECLARED = ("labels", "ignore", "regions_class_order", "channel_names")
UNLABELLED = ("unlabeled", "unlabelled")
ROLES: dict[str, Role] = {
    **{role: role for role in get_args(Role)},
    **{"train": "training", "tr": "training", "val": "validation", "valid": "validation"},
    **{"testing": "test", "ts": "test"},
    # Scans whose masks, if they have any, are not trained on.
    **dict.fromkeys(UNLABELLED, "training"),
}
# Ends of a folder's name that say which part of the dataset it holds, as in imagesTr.
PARTS: dict[str, Role] = {
    **{"tr": "training", "train": "training", "training": "training"},
    **{"val": "validation", "valid": "validation", "validation": "validation"},
    **{"ts": "test", "test": "test", "testing": "test"},
}
FOLDER = re.compile(
    r"(?:(?P<images>images?|imgs?|scans?|volumes?|vols|inputs?)|labels?|masks?|segs?|segmentations?|annotations?|gts?)"
    r"(?P<part>" + "|".join(PARTS) + ")?"
)
# Words in the names of masks that images do not have. Organs are not among them: images are named after them too.
MASK = re.compile(
    r"(?:[a-z]*seg(?:mentations?|m|s)?|[a-z]*masks?|msks?|d?label(?:s|led|maps?|ing)?|annot(?:ations?|ated)?|gts?|"
    r"(?:ground)?truths?|rois?|lesions?|contours?|delineations?|manual|scribbles?|parcellations?|aparc|consensus)"
    r"(?:tr|train|training|ts|test|testing|val|valid|validation)?\d*"
)
# Names of one sequence, or of a scan as such: files of these names in one folder are channels of one case.
IMAGE = re.compile(
    r"(?:t1(?:w|n|c|ce|gd|gad|post|pre|km|ir|rho|map)?|t2(?:w|f|s|star|starw|map)?|(?:t2)?flair|pdw?|dwi|adc|swi|asl|dti|fa|"
    r"md|cb[fv]|tmax|mtt|hbv|(?:ce|nc)?cta?|ctp|cect|ncct|pet|suv|mri?|dce|bold|epi|b\d+|"
    r"images?|img|imaging|scan|volume|vol|orig|pre|post|data|water|fat|in|opp(?:osed)?|inphase|outphase)\d*"
)


def meaning(word: str, table: Words) -> str | None:
    """Return what a word means; None where the table does not have it.

    >>> meaning("Mask_Path", KEYS), meaning("age", KEYS)
    ('label', None)
    """
    plain = simple(word)
    if plain in table:
        return table[plain]
    stems = (plain.removesuffix(ending) for ending in PATH_ENDINGS if table is KEYS and plain.endswith(ending))
    return next((table[stem] for stem in stems if stem in table), None)


def slip(word: str, tables: Iterable[Words]) -> str | None:
    """Return the known word that another one is a misspelling of; None if it is similar to none.

    >>> slip("trainning", [SECTIONS]), slip("mask2", [KEYS]), slip("age", [KEYS])
    ('training', 'mask', None)
    """
    known = {name: what for table in tables for name, what in table.items() if what != "about"}
    close = get_close_matches(simple(word), known, n=1, cutoff=SLIP)
    if not close:
        return None
    meant = known[close[0]]
    if get_close_matches(simple(word), [simple(meant)], cutoff=SLIP):
        return meant
    return close[0]


def tokens(name: str) -> list[str]:
    """Return the words of a name in lower case, divided at separators and before capitals inside a word.

    >>> tokens("labelsTr"), tokens("T1w_seg-manual"), tokens("case_007_mask")
    (['labels', 'tr'], ['t1w', 'seg', 'manual'], ['case', '007', 'mask'])
    """
    parted = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", name)
    return [token for token in re.split(r"[^A-Za-z0-9]+", parted.lower()) if token]


def names_masks(name: str) -> bool:
    """Tell whether a name, or the end of one, is one that masks have.

    >>> names_masks("labelsTr"), names_masks("gmseg-manual"), names_masks("T2starw")
    (True, True, False)
    """
    return any(MASK.fullmatch(token) for token in tokens(name))


def names_images(name: str) -> bool:
    """Tell whether all words of a name, numbers aside, are words for an image or a sequence.

    >>> names_images("t1ce"), names_images("T1_2"), names_images("wmh"), names_images("7")
    (True, True, False, False)
    """
    words = [word for word in tokens(name) if not word.isdigit()]
    return bool(words) and all(map(IMAGE.fullmatch, words))


def part_of(folder: str) -> Role | None:
    """Return the part of a dataset that a folder holds by its name; None if the name does not say.

    >>> part_of("imagesTs"), part_of("TEST_images"), part_of("labelsts"), part_of("images")
    ('test', 'test', 'test', None)
    """
    last = FOLDER.fullmatch(simple(folder))
    words = [*tokens(folder), last["part"] or ""] if last else tokens(folder)
    return next((PARTS[word] for word in reversed(words) if word in PARTS), None)


def holds_images(folder: str) -> bool:
    """Tell whether a folder's name says that it holds images to train on.

    >>> holds_images("Images"), holds_images("train_images"), holds_images("imagesTs"), holds_images("scans_old")
    (True, True, False, False)
    """
    words = [word for word in tokens(folder) if word not in PARTS]
    match = None
    if len(words) == 1:
        match = FOLDER.fullmatch(words[0])
    return match is not None and match["images"] is not None and part_of(folder) in (None, "training")


def holds_masks(folder: str) -> bool:
    """Tell whether a folder's name says that it holds masks to train on.

    >>> holds_masks("labelsTr"), holds_masks("Ground_Truth"), holds_masks("labelsTs"), holds_masks("scans")
    (True, True, False, False)
    """
    return (names_masks(folder) or names_masks(simple(folder))) and part_of(folder) in (None, "training")
