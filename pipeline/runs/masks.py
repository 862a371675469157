"""Make the masks of scans that can be predicted, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline import nifti
from pipeline.data.checked import read_images
from pipeline.errors import UserError
from pipeline.files import WriteError
from pipeline.memory import memory_for
from pipeline.metrics.calibration import Expectation
from pipeline.planning.limits import size
from pipeline.runs.identity import model_digest, scan_digest
from pipeline.runs.mask_folder import Making
from pipeline.terminal import note, progress

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.data.inspection import CaseFacts
    from pipeline.errors import Problem
    from pipeline.runs.mask_folder import MaskFile, MaskFolder, StoredMask
    from pipeline.runs.models import TrainedModel
    from pipeline.types import Case

# Less than this needs no word.
MUCH_BYTES = 10**9


@dataclass(frozen=True)
class Masks:
    """The masks of a call.

    Attributes:
        model: Makes them.
        targets: Each mask's scan.
        facts: What was found of the scans that can be predicted, by the mask's path.
        folder: Where they go.
    """

    model: TrainedModel
    targets: Mapping[Path, Case]
    facts: Mapping[str, CaseFacts]
    folder: MaskFolder | MaskFile

    @cached_property
    def makings(self) -> dict[Path, Making]:
        """What each of them is made of."""
        model = model_digest(self.model)
        mirrored = self.model.predictor.mirrored
        return {
            path: Making(scan=scan_digest(self.facts[str(path)]), model=model, mirrored=mirrored)
            for path in self.targets
            if str(path) in self.facts
        }

    def there(self, *, expected: bool) -> tuple[dict[Path, StoredMask], list[Problem]]:
        """Return those that are there already, and what of the others is there and was made otherwise.

        Args:
            expected: Whether the Dice is asked for that the network expects.
        """
        wanted = {path.name: making for path, making in self.makings.items()}
        found, problems = self.folder.finished(wanted, (), expected=expected)
        return {path: found[path.name] for path in self.makings if path.name in found}, problems

    def make(
        self, there: Mapping[Path, StoredMask], problems: list[Problem], *, expected: bool
    ) -> dict[Path, StoredMask]:
        """Make those that are not there, and return all; what goes wrong is added to the problems.

        Args:
            there: As :meth:`there` returns them.
            problems: Of other scans.
            expected: As for :meth:`there`.
        """
        if there:
            note(f"{len(there)} of {len(self.targets)} masks are there, made of the same scans by the same model")
        left = [path for path in self.makings if path not in there]
        self.folder.folder.mkdir(parents=True, exist_ok=True)
        self.folder.clear_up()
        _tell_memory([self.facts[str(path)] for path in left], self.model)
        made = dict(there)
        for path in progress(left, "predicting", len(left)):
            try:
                made[path] = self._make_one(path, expected=expected)
            except UserError as error:
                problems += error.problems
                if isinstance(error, WriteError):  # No other mask could be written either.
                    break
        return {path: made[path] for path in self.makings if path in made}

    def _make_one(self, path: Path, *, expected: bool) -> StoredMask:
        images = read_images(self.targets[path], self.facts[str(path)])
        expectation = Expectation(self.model.predictor.label_values) if expected else None
        with memory_for(str(images[0].path), "to predict it", None, "crop the scan, or predict it elsewhere"):
            labels = self.model.predictor.segment(images, expectation)
            return self.folder.save(
                path.name,
                self.makings[path],
                lambda stage: nifti.save_labels(stage / path.name, labels, images[0]),
                dice_expected=None if expectation is None else expectation.dice(),
            )


def _tell_memory(facts: Sequence[CaseFacts], model: TrainedModel) -> None:
    """Say what the largest scan takes, where that is much."""
    takes = max((model.predictor.footprint(each.forms, each.channels).total for each in facts), default=0)
    if takes >= MUCH_BYTES:
        note(f"the largest scan takes about {size(takes)} of memory beside itself and the network")
