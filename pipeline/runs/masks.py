"""Make the masks of scans that can be predicted, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.checked import read_images
from pipeline.errors import UserError
from pipeline.files import WriteError
from pipeline.memory import memory_for
from pipeline.metrics.calibration import Expectation
from pipeline.metrics.region_calibration import RegionExpectation
from pipeline.nifti.dicom_segmentation import refuse_unsuited
from pipeline.planning.limits import size
from pipeline.plugins import PLUGIN_FAILED, blamed
from pipeline.prediction.maps import Maps
from pipeline.prediction.postprocessing import LabelStep, name_of
from pipeline.runs.identity import model_digest, scan_digest
from pipeline.runs.mask_files import MaskFiles
from pipeline.runs.mask_folder import Making, MaskFolder
from pipeline.terminal import note, progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pipeline.data.inspection import CaseFacts
    from pipeline.errors import Problem
    from pipeline.runs.beside import Beside
    from pipeline.runs.mask_folder import MaskFile, StoredMask
    from pipeline.runs.models import TrainedModel
    from pipeline.types import Case

# Less than this needs no word.
MUCH_BYTES = 10**9


@dataclass(frozen=True, kw_only=True)
class Masks:
    """The masks of a call.

    Attributes:
        model: Makes them.
        targets: Each mask's scan.
        facts: What was found of the scans that can be predicted, by the mask's path.
        place: Where they go.
        beside: What is asked for beside them.
        labels: Values and names of those that they may hold, without background.
        expected: Whether the Dice is asked for that the network expects.
    """

    model: TrainedModel
    targets: Mapping[Path, Case]
    facts: Mapping[str, CaseFacts]
    place: MaskFolder | MaskFile
    beside: Beside
    labels: Mapping[int, str]
    expected: bool

    @cached_property
    def makings(self) -> dict[Path, Making]:
        """What each of them is made of."""
        model = model_digest(self.model)
        mirrored = self.model.predictor.mirrored
        task = self.model.task
        regions = {region.label: region.values for region in task.regions if region.label in self.labels}
        return {
            path: Making(
                scan=scan_digest(self.facts[str(path)]),
                model=model,
                mirrored=mirrored,
                labels=self.labels,
                regions=regions,
            )
            for path in self.targets
            if str(path) in self.facts
        }

    def there(self) -> tuple[dict[Path, StoredMask], list[Problem]]:
        """Return those that are there already, and what of the others is there and was made otherwise.

        Raises:
            UserError: What is to be written beside a mask is there, and is not ours; or cannot be written of a scan.
        """
        if self.beside.dicom_seg:
            refuse_unsuited(self.targets[path].images[0] for path in self.makings)
        wanted = {path.name: making for path, making in self.makings.items()}
        if isinstance(self.place, MaskFolder):
            self.place.listing.refuse_foreign(file for name in wanted for file in self._files.beside_mask(name))
        found, problems = self.place.finished(wanted, self._files.beside_mask, expected=self.expected)
        return {path: found[path.name] for path in self.makings if path.name in found}, problems

    def make(self, there: Mapping[Path, StoredMask], problems: list[Problem]) -> dict[Path, StoredMask]:
        """Make those that are not there, and return all; what goes wrong is added to the problems.

        Args:
            there: As :meth:`there` returns them.
            problems: Of other scans.
        """
        if there:
            note(f"{len(there)} of {len(self.targets)} masks are there, made of the same scans by the same model")
        left = [path for path in self.makings if path not in there]
        self.place.folder.mkdir(parents=True, exist_ok=True)
        self.place.clear_up()
        self._tell_memory(left)
        self._tell_steps(left)
        made = dict(there)
        for path in progress(left, "predicting", len(left)):
            try:
                with blamed():
                    made[path] = self._make_one(path)
            except UserError as error:
                problems += self._named(path, error)
                if isinstance(error, WriteError):  # No other mask could be written either.
                    break
        return {path: made[path] for path in self.makings if path in made}

    def _make_one(self, path: Path) -> StoredMask:
        images = read_images(self.targets[path], self.facts[str(path)])
        predictor = self.model.predictor
        with memory_for(str(images[0].path), "to predict it", None, "crop the scan, or predict it elsewhere"):
            expectation = self._expectation() if self.expected else None
            maps = self._maps(images[0].shape) if self.beside.maps else None
            mask = predictor.segment(images, expectation, maps)
            if self.beside.labels:
                task = self.model.task
                mask = _with(mask, [value for label in self.labels for value in task.values_of(label)])
            return self.place.save(
                path.name,
                self.makings[path],
                lambda stage: self._files.write(stage / path.name, mask, images[0], maps, self.makings[path].told()),
                self._files.beside_mask(path.name),
                None if expectation is None else expectation.dice(),
            )

    def _expectation(self) -> Expectation | RegionExpectation:
        if self.model.task.regions:
            return RegionExpectation(self.model.task.regions)
        return Expectation(label_values=self.model.predictor.label_values)

    def _named(self, path: Path, error: UserError) -> list[Problem]:
        """Return what went wrong with one scan; of what fails in a plugin it is said with which scan it does."""
        scan = str(self.targets[path].images[0])
        return [
            replace(problem, where=scan, message=f"{problem.where}, {problem.message}")
            if problem.code == PLUGIN_FAILED
            else problem
            for problem in error.problems
        ]

    def _maps(self, shape: tuple[int, int, int]) -> Maps:
        asked = self.beside
        task = self.model.task
        return Maps(
            task.outputs if task.regions else self.model.predictor.label_values,
            shape,
            self.place.folder,
            probabilities=asked.probabilities,
            entropy=asked.entropy,
            regions=bool(task.regions),
        )

    @cached_property
    def _files(self) -> MaskFiles:
        return MaskFiles(beside=self.beside, task=self.model.task, labels=self.labels)

    def _tell_memory(self, left: Sequence[Path]) -> None:
        """Say what the largest scan takes, where that is much."""
        maps = self.beside.maps
        facts = [self.facts[str(path)] for path in left]
        takes = [self.model.predictor.footprint(each.forms, each.channels, maps=maps).total for each in facts]
        if max(takes, default=0) >= MUCH_BYTES:
            note(f"the largest scan takes about {size(max(takes))} of memory beside itself and the network")

    def _tell_steps(self, left: Sequence[Path]) -> None:
        """Say what is done to what the network predicts."""
        names = self.model.task.labels
        steps = self.model.predictor.postprocessing
        told = [
            f"{name_of(step)} ({names[step.label]})" if isinstance(step, LabelStep) else name_of(step) for step in steps
        ]
        if left and told:
            note(f"post-processing of the masks: {', '.join(told)}")


def _with(mask: NDArray[Any], labels: Iterable[int]) -> NDArray[Any]:
    """Return a mask after voxels of all other labels were made background, in place."""
    wanted = list(labels)
    for plane in mask:
        plane[~np.isin(plane, wanted)] = 0
    return mask
