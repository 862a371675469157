"""nnU-Net's raw datasets, version 2: ``dataset.json`` beside files whose names end in the number of a channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.data.codes import is_warning
from pipeline.data.layouts.channels import case_and_number, gaps, group, without_number
from pipeline.data.layouts.dataset import LAYOUTS, Dataset, Layout, no_dataset
from pipeline.data.layouts.folders import list_scans, unlabelled_folder
from pipeline.data.layouts.lists import list_in, read_about, read_json
from pipeline.data.layouts.names import namesakes
from pipeline.errors import Problem
from pipeline.nifti.container import SUFFIXES, stem
from pipeline.types import Case

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.types import Role

ROLES: dict[str, Role] = {"Tr": "training", "Ts": "test"}
UNLABELLED = (
    "give it its label, or move it to a folder of its own: --layout-option unlabelled=FOLDER; for train: "
    "layout.options.unlabelled=FOLDER"
)


@LAYOUTS.register("nnunet")
@dataclass(frozen=True, kw_only=True)
class NnUNet(Layout):
    """nnU-Net v2 raw: ``imagesTr/NAME_0000.nii.gz``, ``labelsTr/NAME.nii.gz``; ``imagesTs`` is never trained on, unless ``unlabelled=imagesTs`` says so.

    Attributes:
        unlabelled: A folder of scans that train without masks.
    """  # noqa: E501 - one line, as every list of layouts shows it

    unlabelled: str | None = None

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for a ``dataset.json`` that has nnU-Net's keys and lists no scans."""
        path, content = list_in(source)
        if path is None or content is None or "file_ending" not in content:
            return None
        # A file with a list as well is recognised as both layouts, and the user has to choose.
        if (path.parent / "imagesTr").is_dir():
            return f"{path.name} has file_ending"
        return None

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Read ``dataset.json`` and list the folders beside it."""
        about = source / "dataset.json" if source.is_dir() else source
        content = read_json(about)
        folder = about.parent
        ending = content.get("file_ending", SUFFIXES[0])
        if ending not in SUFFIXES:
            message = f"has the file_ending {ending!r}, which is not read"
            raise no_dataset(about, "unsupported-file", message, f"convert the scans to {' or '.join(SUFFIXES)}")
        if not (folder / "imagesTr").is_dir():
            raise no_dataset(folder, "no-folder", "has no folder imagesTr/", "put the scans there")
        declared, problems = read_about(content, about)
        count = len(declared.get("channels") or ()) or None
        cases: list[Case] = []
        extra = unlabelled_folder(folder, self.unlabelled)
        for end, role in ROLES.items():
            if (images := folder / f"images{end}").is_dir() and images != extra:
                found, wrong = _read_side(images, folder / f"labels{end}", role, count)
                cases += found
                problems += wrong
        if extra is not None:
            found, wrong = _read_side(extra, None, "test", count)
            cases += [replace(case, role="training") for case in found]
            problems += wrong
        told = content.get("numTraining")
        pairs = sum(case.label is not None and case.role != "test" for case in cases)
        tested = sum(case.role == "test" for case in cases)
        if content.get("numTest") not in (None, tested) and extra is None:
            message = f"says numTest {content['numTest']}, and imagesTs/ holds {tested}"
            problems.append(Problem(str(about), "count-differs", message, "find the lost files, or correct it"))
        sound = all(map(is_warning, problems))
        if told not in (None, pairs) and sound:
            message = f"says numTraining {told}, and there are {pairs} pairs"
            problems.append(Problem(str(about), "case-count", message, "find the lost files, or correct it"))
        if not cases and sound:
            raise no_dataset(folder, "no-scans", "holds no scan under imagesTr/", "put the scans there")
        return Dataset(source=about, layout="nnunet", cases=tuple(cases), **declared, problems=tuple(problems))


def _read_side(images: Path, labels: Path | None, role: Role, channels: int | None) -> tuple[list[Case], list[Problem]]:
    """Return the cases of a folder of images and one of masks, and problems.

    Scans of a test set need no masks, unless the folder of masks is there.
    """
    paths, problems = list_scans(images)
    marks, wrong = list_scans(labels) if labels is not None and labels.is_dir() else ([], [])
    masks = {stem(path): path for path in marks}
    problems += wrong
    grouped, misnamed = group(paths)
    problems += without_number(misnamed, masks) + gaps(grouped, channels)
    known = grouped.keys() | {case_and_number(stem(path), masks)[0] for path in misnamed}
    lone = []
    if labels is not None and (labels.is_dir() or role != "test"):
        lone = sorted(grouped.keys() - masks.keys())
    for name, hint in namesakes(lone, masks.keys() - known).items():
        remedy = hint if hint.startswith("did") else UNLABELLED
        where = str(next(iter(grouped[name].values())))
        problems.append(Problem(where, "missing-label", f"has no label beside {images.name}/", remedy, case=name))
    for name, hint in namesakes(sorted(masks.keys() - known), grouped.keys() - masks.keys()).items():
        problems.append(Problem(str(masks[name]), "label-without-image", "no image has this name", hint))
    return [
        Case(id=name, images=tuple(files[n] for n in sorted(files)), label=masks.get(name), patient=name, role=role)
        for name, files in grouped.items()
        if name not in lone
    ], problems
