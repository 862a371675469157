"""One folder for each case: ``X/X_flair.nii.gz`` beside ``X/X_seg.nii.gz``, or ``X/image.nii`` and ``X/label.nii``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.data.layouts.bids import Bids
from pipeline.data.layouts.case_folders import (
    CaseFolder,
    common_folder,
    find_places,
    has_own_name,
    holds_voxels,
    ids_of,
    patients_of,
    role_of,
)
from pipeline.data.layouts.dataset import LAYOUTS, BadEntryError, Dataset, Layout, no_dataset, say_which
from pipeline.data.layouts.folders import other_scans
from pipeline.data.layouts.lists import describes_folders, list_in, sections_of
from pipeline.data.layouts.names import SEPARATORS, counted, mask_endings, without_ending
from pipeline.data.layouts.synonyms import names_images, names_masks
from pipeline.errors import Problem, nearest
from pipeline.nifti.container import stem
from pipeline.types import Case

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pipeline.types import Role


@LAYOUTS.register("cases")
@dataclass(frozen=True, kw_only=True)
class Cases(Layout):
    """A folder a case: ``X/X_flair.nii.gz``, ``X/X_t1.nii.gz``, ``X/X_seg.nii.gz``, or ``X/image.nii.gz``, ``X/label.nii.gz``.

    Attributes:
        suffix: What the images' names end in, behind the case's own: ``flair``, or several, one a channel.
        label_suffix: What the mask's name ends in. Where one folder has several such masks, each is a case with the
            image that has its name without the ending.
    """  # noqa: E501 - one line, as every list of layouts shows it

    suffix: str | tuple[str, ...] | None = None
    label_suffix: str | None = None

    @classmethod
    def detect(cls, source: Path) -> str | None:
        """Look for folders whose files have the folder's name, or the same names in each."""
        _, content = list_in(source)
        listed = content is not None and (sections_of(content) or describes_folders(content))
        if not source.is_dir() or listed or Bids.detect(source) or any(map(holds_voxels, source.iterdir())):
            return None
        places = find_places(source)
        kinds = {kind for place in places for kind in place.kinds}
        own = any(has_own_name(stem(path), place.folder) for place in places for path in place.kinds.values())
        told = own or any(names_masks(kind) or names_images(kind) for kind in kinds)
        # Two folders of many names are those of images and of masks, whatever they are called.
        if not told and len(kinds) >= len(places) and any(len(place.kinds) > 1 for place in places):
            return None
        if not places:
            return None
        first = places[0]
        names = ", ".join(path.name for path in list(first.kinds.values())[:3])
        return f"it has a folder a case, such as {first.folder.name}/ with {names}"

    def read(self, source: Path, root: Path | None) -> Dataset:
        """Find each case's images and mask."""
        places = find_places(source)
        if not places:
            raise no_dataset(source, "no-scans", "has no folder that holds scans", "put each case into one")
        problems = [
            Problem(str(path), "name-twice", "has the name of another file beside it", "keep one")
            for place in places
            for path in place.twice
        ]
        problems += other_scans(path for place in places for path in place.folder.iterdir())
        masks = self._mask_kinds(source, places)
        base = common_folder(places)
        ids = ids_of(base, places)
        if self.label_suffix and any(len(masks & place.kinds.keys()) > 1 for place in places):
            cases, wrong = _pairs(places, ids, self.label_suffix, masks)
            return Dataset(
                source=source, layout="cases", cases=tuple(cases), problems=(*problems, *wrong), names_patients=True
            )
        channels = self._channels(source, places, masks)
        patients = patients_of(base, places, ids)
        cases = []
        for place in places:
            try:
                cases.append(_read_case(place, ids, patients, masks, channels, role_of(base, place.folder)))
            except BadEntryError as error:
                problems.append(replace(Problem(str(place.folder), *error.args), case=ids[place.folder]))
        named = None
        if len(channels) > 1:
            named = tuple(channels)
        return Dataset(
            source=source,
            layout="cases",
            cases=tuple(cases),
            channels=named,
            problems=tuple(problems),
            left_out=self._left_out(places, {*masks, *channels}),
            names_patients=any(case.patient != case.id for case in cases),
        )

    def _mask_kinds(self, source: Path, places: Sequence[CaseFolder]) -> set[str]:
        """Return the kinds that are masks: one, or all that have the ending which the option ``label_suffix`` gives."""
        seen = Counter(kind for place in places for kind in place.kinds)
        there = Counter({kind: count for kind, count in seen.items() if names_masks(kind)})
        if self.label_suffix is not None:
            found = _chosen(self.label_suffix, seen)
            if not found:
                message = f"has no file whose name ends in {self.label_suffix}; there are {_counted(seen)}"
                raise no_dataset(source, "bad-layout", message, nearest(self.label_suffix, seen))
            return set(found)
        if len(there) > 1:
            endings = Counter(end for place in places for end in mask_endings(place.kinds))
            example = next(iter(endings), None) or there.most_common(1)[0][0]
            message = f"has masks of several kinds: {_counted(there)}"
            remedy = say_which(f"label_suffix={example}") + "; one file a case is read, not one a structure"
            raise no_dataset(source, "ambiguous-layout", message, remedy)
        return set(there)

    def _channels(self, source: Path, places: Sequence[CaseFolder], masks: set[str]) -> list[str]:
        """Return the kinds that are channels; none if each case has a single image, whatever it is called."""
        seen = Counter(kind for place in places for kind in _images(place, masks))
        if self.suffix is not None:
            seen = Counter(kind for place in places for kind in place.kinds if kind not in masks)
            wanted = (self.suffix,) if isinstance(self.suffix, str) else self.suffix
            found = [_chosen(name, seen) for name in wanted]
            for name, kinds in zip(wanted, found, strict=True):
                if len(kinds) != 1:
                    message = f"has {'several files' if kinds else 'no file'} of the suffix {name}: {_counted(seen)}"
                    raise no_dataset(source, "bad-layout", message, nearest(name, seen))
            return [kinds[0] for kinds in found]
        counts = [len(_images(place, masks)) for place in places]
        if max(counts) <= 1:
            return []
        everywhere = [kind for kind in sorted(seen) if seen[kind] == sum(map(bool, counts))]
        known = all(map(names_images, seen))
        if len(everywhere) == len(seen) and known:
            return everywhere
        message = f"has images of several kinds: {_counted(seen)}"
        likely = [kind for kind in everywhere if names_images(kind)] or everywhere or list(seen)
        example = likely[0] if len(likely) == 1 else f"[{','.join(likely)}]"
        remedy = say_which(f"suffix={example}") + ", the channels"
        if not masks:
            remedy += "; and which is the mask, if there is one: label_suffix=NAME"
        raise no_dataset(source, "ambiguous-layout", message, remedy)

    def _left_out(self, places: Sequence[CaseFolder], used: set[str]) -> frozenset[Path]:
        """Return the files that options leave out: other masks, or other images."""
        return frozenset(
            path
            for place in places
            for kind, path in place.kinds.items()
            if kind not in used and (self.label_suffix if names_masks(kind) else self.suffix)
        )


def _images(place: CaseFolder, masks: set[str]) -> dict[str, Path]:
    return {kind: path for kind, path in place.kinds.items() if kind not in masks and not names_masks(kind)}


def _read_case(
    place: CaseFolder,
    ids: Mapping[Path, str],
    patients: Mapping[str, str],
    masks: set[str],
    channels: Sequence[str],
    role: Role | None,
) -> Case:
    """Return the case of a folder.

    Raises:
        BadEntryError: It lacks an image, or a mask to validate with.
    """
    images = _images(place, masks)
    gone = ["image"]
    if images:
        gone = [kind for kind in channels if kind not in place.kinds]
    if gone:
        raise BadEntryError("missing-channel", f"has no {gone[0]}", "add the file, or say which images: suffix=NAME")
    label = next((place.kinds[kind] for kind in masks if kind in place.kinds), None)
    if role == "validation" and label is None:
        raise BadEntryError("missing-label", "is there to validate with, and has no mask", "add it, or move the folder")
    found = [place.kinds[kind] for kind in channels] if channels else list(images.values())
    name = ids[place.folder]
    return Case(id=name, images=tuple(found), label=label, patient=patients[name], role=role)


def _chosen(name: str, kinds: Iterable[str]) -> list[str]:
    """Return the kind that a name is, or else those that end in it."""
    there = list(kinds)
    bare = name.strip(SEPARATORS)
    exact = [kind for kind in there if kind.lower() == bare.lower()]
    return exact or [kind for kind in there if without_ending(kind, f"_{bare}") or without_ending(kind, f"-{bare}")]


def _counted(kinds: Mapping[str, int]) -> str:
    """Return kinds with their numbers of cases as text; of many kinds, the eight most frequent."""
    shown = dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:8])
    more = len(kinds) - len(shown)
    text = counted({kind or "the case's own name": count for kind, count in shown.items()})
    if more:
        text += f" and {more} more"
    return text


def _pairs(
    places: Sequence[CaseFolder], ids: Mapping[Path, str], ending: str, masks: set[str]
) -> tuple[list[Case], list[Problem]]:
    """Make one case of each mask in a folder; the folder is the patient."""
    cases = []
    problems = []
    for place in places:
        patient = ids[place.folder]
        for kind, path in place.kinds.items():
            if kind not in masks:
                continue
            base = without_ending(kind, ending.lstrip(SEPARATORS)) or ""
            if base not in place.kinds:
                message = "no image has this name"
                remedy = "rename it after what it belongs to, or take it away"
                problems.append(Problem(str(path), "label-without-image", message, remedy, case=patient))
                continue
            image = place.kinds[base]
            name = stem(image) if stem(image).startswith(place.folder.name) else f"{patient}_{base}".rstrip("_")
            cases.append(Case(id=name, images=(image,), label=path, patient=patient))
    return cases, problems
