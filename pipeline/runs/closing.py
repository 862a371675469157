"""What there is one of in a folder of masks: tables and a report of all that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline import nifti
from pipeline.data.checked import read_file, read_images
from pipeline.errors import UserError
from pipeline.reports.label_tables import write_label_tables
from pipeline.reports.predictions import Structure, rank
from pipeline.reports.volumes import Gallery
from pipeline.runs.beside import REPORT, VOLUMES
from pipeline.runs.reporting import report_predictions
from pipeline.runs.volumes import volumes_in, write_volumes
from pipeline.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.runs.mask_folder import StoredMask
    from pipeline.runs.masks import Masks
    from pipeline.runs.volumes import Volume
    from pipeline.types import Which


def write_beside(stage: Path, masks: Masks, done: Mapping[Path, StoredMask], run: Path, which: Which) -> None:
    """Write what was asked for beside masks, and there is one of.

    Args:
        stage: Where it goes.
        masks: Of the call.
        done: Those of them that are there.
        run: The run's folder, or a file.
        which: The checkpoint.
    """
    if masks.beside.label_tables:
        write_label_tables(stage, masks.model.task.labels)
    if VOLUMES not in masks.beside.files():
        return
    read = (read_file(path, mask.files[path.name]) for path, mask in done.items())
    volumes = [volume for mask in read for volume in volumes_in(mask, masks.labels, masks.model.task)]
    write_volumes(stage / VOLUMES, volumes)
    if masks.beside.report:
        _report(stage, masks, done, volumes, (run, which))


def _report(
    stage: Path,
    masks: Masks,
    done: Mapping[Path, StoredMask],
    volumes: Sequence[Volume],
    model: tuple[Path, Which],
) -> None:
    paths = {nifti.stem(path): path for path in done}
    structures = [
        Structure(
            case=nifti.stem(masks.place.folder / each.mask),
            label=each.label,
            name=each.name,
            voxels=each.voxels,
            volume_ml=each.volume_ml,
            dice_expected=done[masks.place.folder / each.mask].expected.get(each.label, 0.0),
        )
        for each in volumes
    ]
    gallery = Gallery(n_cases=len(done), labels={0: "background", **masks.labels})
    shown = list(rank(structures))[: gallery.room]
    for case in progress(shown, "drawing", len(shown)):
        path = paths[case]
        try:
            scan = read_images(masks.targets[path], masks.facts[str(path)])[0]
            mask = read_file(path, done[path].files[path.name]).labels
        except UserError:  # It was changed since, and has numbers alone.
            continue
        gallery.add(case, scan.voxels[0], np.zeros(mask.shape, np.uint8), mask, scan.affine)
    report_predictions(stage / REPORT, masks.place.folder, *model, structures, gallery)
