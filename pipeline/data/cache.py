"""Keep prepared cases on disk, memory-mapped, so that they are prepared once and never all in memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.transforms import ANNOTATION, IMAGE, Grid, case_files, case_transforms, class_locations
from pipeline.files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.data.check import Index
    from pipeline.types import Case

# Part of every key: raise it when a change of the transforms changes what they make.
VERSION = 2
PARTS = (IMAGE, ANNOTATION, "locations")


@dataclass(frozen=True)
class Cache:
    """Prepared cases in a folder, keyed by the content of their files and by how they were prepared.

    Attributes:
        folder: Where the arrays lie; made when first needed.
        index: The checked dataset.
        grid: The grid that cases are brought to.
    """

    folder: Path
    index: Index
    grid: Grid

    def fill(self, cases: Sequence[Case]) -> Iterator[str]:
        """Prepare the cases that are not in the cache yet, and yield each case's id once it is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        values = list(self.index.labels)
        transforms = case_transforms(self.grid, values)
        for case in cases:
            if not all(path.exists() for path in self._paths(case).values()):
                prepared = transforms(case_files(case))
                image, annotation = prepared[IMAGE].numpy(), prepared[ANNOTATION].numpy()
                locations = class_locations(annotation, len(values))
                for part, array in zip(PARTS, (image, annotation, locations), strict=True):
                    with atomic_write(self._paths(case)[part]) as temporary:
                        np.save(temporary, array)
            yield case.id

    def get(self, case: Case) -> dict[str, NDArray[Any]]:
        """Return a prepared case's arrays: ``image`` and ``annotation`` ``[C, X, Y, Z]``, ``locations``."""
        return {part: np.load(path, mmap_mode="r") for part, path in self._paths(case).items()}

    def _paths(self, case: Case) -> dict[str, Path]:
        values = list(self.index.labels)
        how = {"version": VERSION, "grid": asdict(self.grid), "labels": values, "masked": case.label is not None}
        content = [*self.index.facts[case.id].sha256, json.dumps(how, sort_keys=True)]
        key = hashlib.sha256("\n".join(content).encode()).hexdigest()[:32]
        return {part: self.folder / f"{key}.{part}.npy" for part in PARTS}
