"""Write a copy of a dataset whose training masks are partial, as if there had been little time to annotate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

import numpy as np

from pipeline import nifti
from pipeline.data.checked import read_label
from pipeline.data.repairs import declarations, occupied, suffix
from pipeline.data.simulated import KINDS, shared_out
from pipeline.data.splits import split_cases
from pipeline.errors import Problem, UserError
from pipeline.runs.checking import check
from pipeline.strict_json import write_json
from pipeline.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.data.index import Index
    from pipeline.data.splits import Split
    from pipeline.nifti.volume import Scan
    from pipeline.types import Case

Kind = Literal["scribbles", "slices", "boxes", "points", "classes"]
# Of a dataset without a validation list, this share of the patients keeps whole masks and validates.
FRACTION = 0.2
SECTIONS = ("training", "unlabeled", "validation", "test")
AMOUNTS: dict[str, int] = {"scribbles": 1, "slices": 3, "boxes": 3, "points": 20, "classes": 1}


@dataclass(frozen=True, kw_only=True)
class Sparing:
    """How much of each mask is kept.

    Attributes:
        kind: ``classes`` keeps some classes of each case, and says which; the others keep some voxels, and give the
            rest the value to ignore.
        amount: Strokes of a structure in a slice; slices or boxes of a mask; points of a structure; or classes of a
            case.
        seed: Of the draws.
    """

    kind: Kind
    amount: int
    seed: int


def simulate_labels(
    source: Path,
    folder: Path,
    kind: Kind,
    *,
    amount: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    layout: str = "auto",
    options: Mapping[str, Any] | None = None,
) -> dict[str, int]:
    """Write a copy of a dataset in which the masks that are trained on are partial.

    Masks that validate stay whole: those of the dataset's ``validation`` list, or else of a fifth of the patients with
    masks. Voxels that are kept depend on the seed, on the id of the case and on its mask alone.

    Args:
        source: The dataset.
        folder: Empty or new; gets ``labels/`` with the partial masks, links to all other files, and ``dataset.json``.
        kind: As for :class:`Sparing`.
        amount: As there; None for 1, 3, 3, 20 and 1.
        seed: As there.
        root: As for :func:`pipeline.runs.checking.check`.
        layout: As there.
        options: As there.

    Returns:
        The number of cases in each section of ``dataset.json``.

    Raises:
        UserError: The dataset has problems or too few masks, the folder is not empty, or there are not as many classes.
    """
    if problems := occupied(folder):
        raise UserError("Nothing was written.", problems)
    index = check(source, root, layout, options)
    how = Sparing(kind=kind, amount=AMOUNTS[kind] if amount is None else amount, seed=seed)
    split = split_cases(index.dataset, FRACTION, seed)
    annotated = _annotated(how, index, split)
    content = declarations(index.dataset)
    content["labels"] = {str(value): name for value, name in index.labels.items()}
    ignore = _ignored(index, kind)
    if ignore is not None:
        content["ignore"] = ignore
    for side in ("images", "labels"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    for case in progress(split.labelled, "writing", len(split.labelled)):
        entry = _linked(case, folder, written=True)
        mask = read_label(case, index.facts[case.id])
        kept = _spared(mask, case, how, annotated[case.id], ignore)
        nifti.save_volume(folder / entry["label"], kept, mask.header)
        content.setdefault("training", []).append(_named(entry, annotated[case.id], index))
    content |= _others(index, split, folder)
    write_json(folder / "dataset.json", content)
    return {section: len(content[section]) for section in SECTIONS if section in content}


def _others(index: Index, split: Split, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Link the cases that are not trained on with a mask into the copy, and return their entries by section."""
    tests = [case for case in index.dataset.cases if case.role == "test"]
    content: dict[str, list[dict[str, Any]]] = {}
    for section, cases in zip(SECTIONS[1:], (split.unlabelled, split.validation, tests), strict=True):
        for case in cases:
            # A mask that is read with other values than its file has is written with these.
            written = case.label is not None and index.dataset.relabelling is not None
            entry = _linked(case, folder, written=written)
            if written:
                mask = read_label(case, index.facts[case.id])
                nifti.save_volume(folder / entry["label"], mask.labels, mask.header)
            content.setdefault(section, []).append(_named(entry, case.annotated, index))
    return content


def _annotated(how: Sparing, index: Index, split: Split) -> dict[str, tuple[int, ...] | None]:
    """Return the annotated classes of each case that is trained on; None for all of them.

    Raises:
        UserError: So many classes cannot be kept of each case.
    """
    found = {case.id: case.annotated for case in split.labelled}
    if how.kind != "classes":
        return found
    values = [value for value in index.labels if value != 0]
    if how.amount >= len(values) or any(case.annotated for case in split.labelled):
        message = f"is {how.amount}, and not every case has more classes annotated"
        raise UserError("Nothing was written.", [Problem("--amount", "bad-options", message, "keep fewer of them")])
    rng = np.random.default_rng([how.seed, 0x5C1B])
    drawn = shared_out(values, len(split.labelled), how.amount, rng)
    return found | {case.id: chosen for case, chosen in zip(split.labelled, drawn, strict=True)}


def _ignored(index: Index, kind: Kind) -> int | None:
    """Return the value to ignore: the dataset's own, or where voxels are left out 255, or another that is no label."""
    if index.ignore is not None or kind == "classes":
        return index.ignore
    if 255 in index.labels:
        return max(index.labels) + 1
    return 255


def _named(entry: dict[str, Any], annotated: tuple[int, ...] | None, index: Index) -> dict[str, Any]:
    """Return an entry with the names of its annotated classes, where these are not all."""
    if annotated is None:
        return entry
    return entry | {"annotated": [index.labels[value] for value in annotated]}


def _linked(case: Case, folder: Path, *, written: bool) -> dict[str, Any]:
    """Link the files of a case into the copy, unless its mask is to be written, and return its entry."""
    # Two ids may become the same name; their hashes tell them apart.
    name = f"{re.sub(r'[^A-Za-z0-9-]', '_', case.id)[:100]}_{crc32(case.id.encode()):08x}"
    images = [f"images/{name}_{n:04d}{suffix(path)}" for n, path in enumerate(case.images)]
    for link, path in zip(images, case.images, strict=True):
        (folder / link).symlink_to(path.resolve())
    entry: dict[str, Any] = {"id": case.id, "patient": case.patient, "image": images}
    if case.label is not None:
        entry["label"] = f"labels/{name}{'.nii.gz' if written else suffix(case.label)}"
        if not written:
            (folder / entry["label"]).symlink_to(case.label.resolve())
    return entry


def _spared(
    mask: Scan, case: Case, how: Sparing, annotated: tuple[int, ...] | None, ignore: int | None
) -> NDArray[Any]:
    """Return the values of the partial mask of a case."""
    labels = mask.labels
    if how.kind == "classes":
        stay = [value for value in (*(annotated or ()), ignore) if value is not None]
        return np.where(np.isin(labels, stay), labels, 0).astype(labels.dtype)
    assert ignore is not None
    known = labels != ignore
    rng = np.random.default_rng([how.seed, crc32(case.id.encode()), list(KINDS).index(how.kind)])
    # Slices are those that are farthest apart; of axes that are alike, the last one, as scans are mostly stored.
    spacing = np.array(mask.spacing_mm)
    axis = int(np.flatnonzero(spacing >= 0.999 * spacing.max())[-1])
    kept = KINDS[how.kind](np.where(known, labels, 0), axis, how.amount, rng)
    dtype = np.promote_types(labels.dtype, np.min_scalar_type(ignore))
    return np.where(kept & known, labels, ignore).astype(dtype)
