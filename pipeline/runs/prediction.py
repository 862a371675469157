"""Predict: what is asked for, what can be done, and what came of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import nifti
from pipeline.errors import IncompleteError, Problem, UserError
from pipeline.files import to_write
from pipeline.runs.annotation import ANNOTATE_NEXT, annotate_next
from pipeline.runs.checked_scans import checked_scans
from pipeline.runs.mask_folder import RECORD, MaskFile, MaskFolder
from pipeline.runs.masks import Masks
from pipeline.runs.models import load_model
from pipeline.runs.targets import OpenAs, chosen_cases, scans_of, target_of, targets_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.checkpoints import Which


def predict(
    run: Path,
    scans: Sequence[Path],
    output: Path,
    which: Which = "last",
    plugins: Sequence[Path] = (),
    *,
    rank: bool = False,
    open_as: OpenAs = (None, "auto", {}),
    only: Sequence[str] = (),
    unlabelled: bool = False,
    device: str = "auto",
    mirror: bool = True,
    overwrite: bool = False,
) -> list[Path]:
    """Write a label map for each scan, named as the scan and on exactly its grid.

    Masks that are there already, of the same scan and made as they would be now, are left as they are.

    Args:
        run: The run's folder.
        scans: Scans, folders of scans, or datasets in any layout.
        output: Where the masks go; made where it is not there. Of one scan it may be the name of its mask.
        which: The checkpoint.
        plugins: As for :func:`load_model`.
        rank: Also write ``annotate_next.csv``: the scans by their predicted Dice, the worst first.
        open_as: Root, layout and options of those of the scans that are datasets, as for :func:`open_dataset`.
        only: Ids of the cases that are predicted; none is all.
        unlabelled: Leaves out cases that have a mask.
        device: As for :func:`load_model`.
        mirror: Whether the mean over mirror images is taken, where the run was trained for that.
        overwrite: Whether masks that were made of another scan, or otherwise, are made again.

    Returns:
        The masks' paths.

    Raises:
        UserError: An id is not there, or scans have one name, or a mask is there already that was made otherwise or by
            somebody else, or no scan could be predicted. All but the last is found before anything is written.
        IncompleteError: Some scans were predicted, and others are unsound or have the wrong number of channels, or
            something went wrong with them on the way.
    """
    alone = nifti.is_nifti(output) and not output.is_dir()
    folder = MaskFolder(output.parent if alone else output)
    to_write(folder.folder)
    if alone:
        _refuse_beside(output, {"--annotate-next": rank, "--overwrite": overwrite})
    else:
        folder.listing.refuse_foreign([RECORD, *([ANNOTATE_NEXT] if rank else [])])
    cases = chosen_cases([case for place in scans for case in scans_of(place, open_as)], only, unlabelled=unlabelled)
    targets = target_of(cases, output) if alone else targets_of(cases, scans, output, folder.foreign)
    model = load_model(run, which, plugins, device)
    if not mirror:
        model = replace(model, predictor=model.predictor.without_mirrors())
    facts, problems = checked_scans(targets, model)
    masks = Masks(model, targets, facts, MaskFile(output.parent) if alone else folder)
    there, otherwise = masks.there(expected=rank)
    if not facts or (otherwise and not overwrite):
        raise _nothing([*problems, *otherwise])
    ranking = annotate_next(run, which, model) if rank else None
    done = masks.make(there, problems, expected=rank)
    if ranking is not None and done:
        for path, mask in done.items():
            ranking.add(targets[path].images[0], path, mask.expected)
        with folder.listing.writing([ANNOTATE_NEXT]) as stage:
            ranking.write(stage / ANNOTATE_NEXT)
    if not done:
        raise _nothing(problems)
    if problems:
        raise IncompleteError(f"{len(done)} of {len(targets)} masks are in {output}.", problems, list(done))
    return list(done)


def _refuse_beside(output: Path, asked: Mapping[str, bool]) -> None:
    """Refuse what needs a folder where one mask is named."""
    message = f"needs a folder, and --output is the file {output}"
    problems = [
        Problem(option, "one-mask", message, "name a folder, or leave it out") for option, on in asked.items() if on
    ]
    if problems:
        raise UserError("Nothing was predicted.", problems)


def _nothing(problems: Sequence[Problem]) -> UserError:
    return UserError(f"Nothing was predicted: {len(problems)} problem(s).", problems)
