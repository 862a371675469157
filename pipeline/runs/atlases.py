"""The atlases of a run: choose labelled scans that vote in predictions, keep them in its folder, and read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.archives import FORMAT, read_archive
from pipeline.atlases.fusion import Atlases
from pipeline.checkpoints import output_of
from pipeline.data.annotation import ANNOTATION, FIRST_CLASS, IMAGE, decode
from pipeline.errors import Problem, UserError
from pipeline.prediction.predictor import Ensemble
from pipeline.runs.stored import ATLASES, refuse_altered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from torch import Tensor

    from pipeline.data.cache import Cache
    from pipeline.planning.settings import Settings
    from pipeline.prediction.predictor import Predictor
    from pipeline.types import Case, Task


# Atlases that agree less than this do not vote. On hippocampi, where atlases help, the agreement is 0.81 to 0.86; on
# hearts of three or seven patients it is 0.16 to 0.58.
LEAST_AGREEMENT = 0.75


@dataclass(frozen=True)
class AtlasVote:
    """The atlases of a run, and whether they may vote.

    Attributes:
        atlases: The labelled scans.
        weight: The share of their vote in a prediction, from the recipe.
        agreement: The mean Dice of each atlas' mask against the vote of the others.
    """

    atlases: Atlases
    weight: float
    agreement: float

    def beside(self, predictor: Predictor) -> Predictor | Ensemble:
        """Return an ensemble of a predictor and the atlases; the predictor itself if the atlases agree too little."""
        if self.agreement < LEAST_AGREEMENT:
            return predictor
        steps = predictor.postprocessing
        return Ensemble((predictor,), steps, atlases=self.atlases, atlas_weight=self.weight)

    @property
    def note(self) -> str:
        """A note for reports: whether the atlases vote, and how well they agree."""
        found = f"left out in turn, their masks are found with Dice {self.agreement:.2f}"
        if self.agreement < LEAST_AGREEMENT:
            return f"The {len(self.atlases)} atlases do not vote: {found}, and {LEAST_AGREEMENT} is asked for."
        return f"{len(self.atlases)} labelled scans vote with a share of {self.weight:g}; {found}."


def write_atlases(run: Path, settings: Settings, cases: Sequence[Case], cache: Cache, classes: int) -> None:
    """Write the prepared scans and masks of the atlases into a run: ``atlases.pt``, images in float16.

    The atlases are drawn by the recipe's seed, from as many different patients as possible. Their agreement is written
    with them.
    """
    order = np.random.default_rng([settings.seed, 0xA71A]).permutation(len(cases))
    drawn = [cases[place] for place in order]
    first = {case.patient: case for case in reversed(drawn)}
    chosen = sorted(drawn, key=lambda case: first[case.patient] is not case)[: settings.atlases.most]
    arrays = [cache.get(case) for case in chosen]
    images = [torch.from_numpy(np.array(each[IMAGE], dtype=np.float16)) for each in arrays]
    annotations = [torch.from_numpy(np.array(each[ANNOTATION])) for each in arrays]
    agreement = _atlases(images, annotations, classes, torch.device(settings.device)).agreement(
        [case.patient for case in chosen]
    )
    state = {"format": FORMAT, "images": images, "annotations": annotations, "agreement": agreement}
    with output_of(run).writing([ATLASES]) as stage:
        torch.save(state, stage / ATLASES)


def read_atlases(run: Path, settings: Settings, task: Task) -> AtlasVote:
    """Read the atlases of a run.

    Raises:
        UserError: The file is gone, damaged, or of another task.
    """
    path = run / ATLASES
    if not path.is_file():
        raise _damaged(path, "is not there")
    refuse_altered(path)
    state = read_archive(path)
    images = state.get("images")
    annotations = state.get("annotations")
    if not (isinstance(images, list) and isinstance(annotations, list) and len(images) == len(annotations) > 0):
        raise _damaged(path, "does not hold scans and masks")
    if not all(_fit(*pair, task) for pair in zip(images, annotations, strict=True)):
        raise _damaged(path, "holds scans or masks that are not of this run")
    agreement = state.get("agreement")
    if not isinstance(agreement, float) or not 0 <= agreement <= 1:
        raise _damaged(path, "does not hold how well its scans agree")
    atlases = _atlases(images, annotations, len(task.labels), torch.device(settings.device))
    return AtlasVote(atlases, settings.atlases.weight, agreement)


def _atlases(images: Sequence[Tensor], annotations: Sequence[Tensor], classes: int, device: torch.device) -> Atlases:
    labels = [decode(annotation)[0][0].to(device) for annotation in annotations]
    return Atlases([image.float().to(device) for image in images], labels, classes)


def _fit(image: Any, annotation: Any, task: Task) -> bool:
    """Tell whether a scan and its mask are as :func:`write_atlases` writes them."""

    def is_volume(value: Any, kind: torch.dtype, channels: int) -> bool:
        return isinstance(value, torch.Tensor) and value.dtype == kind and value.ndim == 4 and len(value) == channels

    if not (is_volume(image, torch.float16, len(task.channels)) and is_volume(annotation, torch.uint8, 1)):
        return False
    highest = FIRST_CLASS + len(task.labels) - 1
    return image.shape[1:] == annotation.shape[1:] and image.numel() > 0 and int(annotation.max()) <= highest


def _damaged(path: Path, message: str) -> UserError:
    problem = Problem(str(path), "damaged-run", message, "bring the file back as it was written, or train anew")
    return UserError("The run's folder is not whole.", [problem])
