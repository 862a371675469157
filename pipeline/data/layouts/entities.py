"""Parse names of BIDS: entities, a suffix, and the parts of a mask's name that name its scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.data.layouts.synonyms import names_masks
from pipeline.nifti.container import stem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Entities that describe the mask itself: what it shows, who drew it, how it was made. A scan may have them too.
DERIVED = ("desc", "label", "res", "den", "atlas", "seg", "scale", "hemi", "mod", "from", "to", "mode")
# Spaces of a mask that are the scan's own grid.
OWN_SPACES = ("orig", "individual", "native", "scanner", "scan", "subject")
# Masks of BIDS that no one means to train on: of a face that was cut away, and probabilities.
OTHER_MASKS = ("defacemask", "probseg")


@dataclass(frozen=True)
class Name:
    """The parts of a file's name.

    Attributes:
        path: The file.
        entities: Keys and values, in their order.
        suffix: The last part: ``T1w``, ``dseg``; ``seg-manual``, where a name ends in what looks like an entity.
    """

    path: Path
    entities: Mapping[str, str]
    suffix: str

    @property
    def case(self) -> str:
        """The name without its suffix, which is what a scan's channels share."""
        return stem(self.path).rpartition("_")[0]

    @property
    def is_mask(self) -> bool:
        """Whether the name is that of a mask."""
        return names_masks(self.suffix) or "label" in self.entities


def parse(path: Path) -> Name | None:
    """Parse a name of BIDS, which begins with ``sub-`` and ends in a suffix; None for any other.

    >>> from pathlib import Path
    >>> found = parse(Path("sub-1_ses-2_label-L_mask.nii.gz"))
    >>> found.case, found.suffix
    ('sub-1_ses-2_label-L', 'mask')
    """
    *parts, suffix = stem(path).split("_")
    if not parts or not parts[0].startswith("sub-"):
        return None
    return Name(path, dict(_split(part) for part in parts), suffix)


def _split(part: str) -> tuple[str, str]:
    key, _, value = part.partition("-")
    return key, value


@dataclass(frozen=True, kw_only=True)
class Mask:
    """A file whose name is a mask's.

    Attributes:
        path: The file.
        place: The folder under ``derivatives/`` that it lies in, or "" where it lies beside the scans.
        entities: The entities that name its scan.
        of: The suffix of its scan if the name has it, else "".
        about: The entities that describe the mask itself, such as ``label`` and ``desc``.
        suffix: The last part of the name.
    """

    path: Path
    place: str
    entities: Mapping[str, str]
    of: str
    about: Mapping[str, str]
    suffix: str

    @property
    def kind(self) -> str:
        """The end of its name that describes the mask: ``label-L_desc-T1lesion_mask``."""
        return "_".join([*(f"{key}-{value}" for key, value in self.about.items()), self.suffix])

    def belongs_to(self, scan: Name) -> bool:
        """Tell whether this can be a mask of a scan: all entities that name the scan are the scan's."""
        return self.of in ("", scan.suffix) and self._told(scan).items() <= scan.entities.items()

    def has_all_of(self, scan: Name) -> bool:
        """Tell whether the mask has every entity of a scan, but for those that describe masks."""
        return scan.entities.keys() - {*DERIVED} <= self._told(scan).keys()

    def _told(self, scan: Name) -> dict[str, str]:
        """Return the entities that name the scan; a ``space`` that means the scan's own grid names none."""
        own = (*OWN_SPACES, scan.suffix)
        return {key: value for key, value in self.entities.items() if key != "space" or value not in own}


def as_mask(name: Name, place: str, suffixes: tuple[str, ...]) -> Mask:
    """Separate the parts of a mask's name that name its scan from those that describe the mask.

    Args:
        name: The mask's name.
        place: As in :class:`Mask`.
        suffixes: The suffixes of scans: what stands behind one describes the mask, as in ``sub-1_T1w_seg-manual``.
    """
    of = next((key for key, value in name.entities.items() if not value and key in suffixes), "")
    keys = list(name.entities)
    behind = set(keys[keys.index(of) + 1 :]) if of else set()
    about = {key: value for key, value in name.entities.items() if key in DERIVED or key in behind}
    shared = {key: value for key, value in name.entities.items() if key not in about and key != of}
    return Mask(
        path=name.path,
        place=place,
        entities=shared,
        of=of,
        about={key: value for key, value in about.items() if value},
        suffix=name.suffix,
    )
