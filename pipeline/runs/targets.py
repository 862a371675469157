"""Choose the scans to predict, and the names of their masks."""

from __future__ import annotations

import os
import re
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import nifti
from pipeline.data.layouts import open_dataset
from pipeline.data.layouts.channels import CHANNEL, numbers_channels
from pipeline.errors import Problem, UserError, nearest
from pipeline.files import LONGEST_WRITTEN
from pipeline.runs.checking import tell_warnings
from pipeline.runs.folder import is_run
from pipeline.runs.stored import CONFIG, read_config
from pipeline.terminal import note
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


# What a setting of a recipe looks like where scans are named: max_steps=3, data.workers=2.
SETTING = re.compile(r"[a-z_]+(\.\w+)*=")
# Warnings that are about who trains and who validates.
OF_PATIENTS = ("shared-stems", "one-patient")
# Root, layout and options of a dataset.
OpenAs = tuple[Path | None, str, dict[str, Any]]
AS_FOUND: OpenAs = (None, "auto", {})


def chosen_cases(cases: list[Case], only: Sequence[str], *, unlabelled: bool) -> list[Case]:
    """Return the cases to predict.

    Args:
        cases: The cases that were found.
        only: Ids of the cases to predict; empty for all.
        unlabelled: Leave out cases with a mask.

    Raises:
        UserError: An id is that of no case, or no case is left.
    """
    known = dict.fromkeys(case.id for case in cases)
    if unknown := [name for name in only if name not in known]:
        problems = [Problem(name, "no-case", "is the id of no scan there", nearest(name, known)) for name in unknown]
        raise UserError("Nothing was predicted.", problems)
    wanted = [case for case in cases if not only or case.id in only]
    chosen = [case for case in wanted if not (unlabelled and case.label)]
    if wanted and not chosen:
        problem = Problem("--unlabelled", "no-scans", "every scan there has a mask", "leave it out to predict them")
        raise UserError("Nothing was predicted.", [problem])
    return chosen


def targets_of(
    cases: Sequence[Case], scans: Sequence[Path], output: Path, foreign: Callable[[Iterable[str]], list[str]]
) -> dict[Path, Case]:
    """Map each mask's path to its scan, of those that were found where scans were named.

    Args:
        cases: The scans.
        scans: What was named.
        output: The masks' folder.
        foreign: Returns those of some names under which something is there that may not be replaced.

    Raises:
        UserError: There are none, or a mask cannot have its name, or something else has it.
    """
    named = [(output / _mask_name(case), case) for case in cases]
    counts = Counter(nifti.stem(path) for path, _ in named)
    problems = [
        Problem(
            str(case.images[0]),
            "name-twice",
            f"{counts[nifti.stem(path)]} scans would be written to {path}",
            f"predict them in separate calls; of channels of one scan name the folder, and --only {nifti.stem(path)}",
        )
        for path, case in named
        if counts[nifti.stem(path)] > 1
    ]
    problems += [_too_long(case, path) for path, case in named if len(os.fsencode(path.name)) > LONGEST_WRITTEN]
    problems += [present_mask(output / name) for name in foreign(path.name for path, _ in named)]
    if not named:
        problems = [
            Problem(
                ", ".join(map(str, scans)) or "scans",
                "no-scans",
                "no .nii or .nii.gz file is there",
                "name scans or a folder of them",
            )
        ]
    if problems:
        raise UserError("Nothing was predicted.", problems)
    return dict(named)


def target_of(cases: Sequence[Case], mask: Path) -> dict[Path, Case]:
    """Map the path of a mask that was named to its scan.

    Raises:
        UserError: There are more scans than one, or something is there already, or the name is too long.
    """
    problems = [_too_long(cases[0], mask)] if len(os.fsencode(mask.name)) > LONGEST_WRITTEN else []
    if len(cases) != 1:
        message = f"is the name of one mask, and there are {len(cases)} scans"
        problems.append(Problem(str(mask), "one-mask", message, "name a folder, or one scan with --only"))
    if mask.is_symlink() or mask.exists():
        problems.append(present_mask(mask))
    if problems:
        raise UserError("Nothing was predicted.", problems)
    return {mask: cases[0]}


def _too_long(case: Case, mask: Path) -> Problem:
    message = (
        f"its mask would be called {mask.name}, and a name that can be written has {LONGEST_WRITTEN} bytes at most"
    )
    remedy = "rename the scan, or predict it through a link of a shorter name"
    return Problem(str(case.images[0]), "name-too-long", message, remedy)


def present_mask(path: Path) -> Problem:
    """Say that something is where a mask would be written."""
    return Problem(str(path), "mask-exists", "is there already", "name another --output, or remove it")


def _mask_name(case: Case) -> str:
    """Return the file name of a case's mask, which is NIfTI whatever the scan is."""
    name = _own_name(case)
    if nifti.is_nifti(Path(name)):
        return name
    return f"{nifti.stem(Path(name))}.nii.gz"


def _own_name(case: Case) -> str:
    """Return the file name that a case's mask shares with its scan.

    It is the name of the first image, without the number of a channel if each channel has a file. If the case is not
    named after its file, or has several files without such numbers, it is the case's id: every folder may have an
    ``image.nii.gz``, and ``X_flair.nii.gz`` is only one channel of ``X``.
    """
    first = case.images[0]
    name = nifti.stem(first)
    own = case.id
    channel = CHANNEL.fullmatch(name)
    if channel and (len(case.images) > 1 or own == channel[1]):
        return first.name.replace(name, channel[1], 1)
    ours = len(case.images) > 1 or not name.startswith(own)
    # An id is text of a list's, and not every text can be a file's name.
    usable = own == Path(own).name and own.isprintable() and not own.startswith(".")
    if ours and usable:
        return f"{own}{first.name.removeprefix(name)}"
    return first.name


def scans_of(run: Path, scans: Sequence[Path], open_as: OpenAs, *, unlabelled: bool) -> list[Case]:
    """Return the cases of scans, folders and lists.

    Args:
        run: The run that predicts them.
        scans: The scans, folders and lists.
        open_as: Root, layout and options of those that are datasets, as for :func:`open_dataset`; where nothing is
            said, the run's own dataset is opened as the training did.
        unlabelled: Whether only cases without a mask are asked for; where no mask can be known, it is said.

    Raises:
        UserError: One is a run's folder, or cannot be opened.
    """
    return [case for place in scans for case in _cases_in(place, _opened_as(run, place, open_as), unlabelled)]


def _opened_as(run: Path, place: Path, open_as: OpenAs) -> OpenAs:
    if open_as != AS_FOUND or not (run / CONFIG).is_file():
        return open_as
    with suppress(UserError):  # A damaged recipe is told by whoever needs it.
        recipe = read_config(run)
        if recipe.dataset.resolve() == place.resolve():
            return recipe.root, recipe.layout.name, recipe.layout.options
    return open_as


def _cases_in(place: Path, open_as: OpenAs, unlabelled: bool) -> tuple[Case, ...]:
    """Return the cases of a folder or a list, or the single case of a scan."""
    if is_run(place):
        problem = Problem(str(place), "run-as-scans", "is a run's folder", "the run comes first, and then the scans")
        raise UserError("Nothing was predicted.", [problem])
    if SETTING.match(str(place)) and not nifti.is_nifti(place) and not place.exists():
        remedy = "leave it out: a run predicts as it was trained, and `fewmask predict --help` lists what may differ"
        problem = Problem(str(place), "setting-as-scan", "is a setting, and those are for `train`", remedy)
        raise UserError("Nothing was predicted.", [problem])
    if nifti.is_series(place):
        return (_alone(place.resolve().name, place),)
    if found := nifti.itk_files_in(place):
        return tuple(_alone(nifti.stem(path), path) for path in found)
    if place.is_dir() or (place.is_file() and not nifti.is_nifti(place)):
        dataset = open_dataset(place, *open_as)
        tell_warnings([problem for problem in dataset.problems if problem.code not in OF_PATIENTS])
        if unlabelled and dataset.layout == "scans":
            what = f"{place} was read as a folder of scans, in which no file is a mask: --unlabelled leaves none out"
            note(f"{what}; --layout folder says where masks are (docs/datasets.md)")
        return dataset.cases
    return (_alone(_name_of(place), place),)


def _name_of(scan: Path) -> str:
    """Return a lone scan's name, without the number of a channel where the files of its folder are numbered so."""
    channel = CHANNEL.fullmatch(nifti.stem(scan))
    if channel and scan.is_file() and _has_channels(scan.parent, scan.parent.stat().st_mtime_ns):
        return channel[1]
    return nifti.stem(scan)


@lru_cache(maxsize=16)
def _has_channels(folder: Path, _: int) -> bool:
    """Tell whether a folder's files are numbered by channel; once for all of its scans while it stays as it is."""
    return numbers_channels([path for path in folder.iterdir() if nifti.is_nifti(path)])


def _alone(name: str, scan: Path) -> Case:
    return Case(id=name, images=(scan,), label=None, patient="", role="test")
