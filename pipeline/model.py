"""A trained model in memory: scans from files, images or arrays in, label maps out."""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - typed reads the annotations
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import nifti
from pipeline.data.codes import is_warning
from pipeline.data.inspection import Declared, examine_scans
from pipeline.errors import Problem, UserError
from pipeline.plugins import blamed
from pipeline.signatures import typed
from pipeline.terminal import listening
from pipeline.types import Case, Which

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pipeline.nifti.volume import Scan
    from pipeline.runs.models import TrainedModel


GIVE_AFFINE = "give affine=, 4x4, voxel indices to mm"


@dataclass(frozen=True)
class Model:
    """A trained network, ready to predict; :func:`load` makes it."""

    _trained: TrainedModel

    def __repr__(self) -> str:
        return f"Model(labels={self.labels}, channels={self.channels})"

    @property
    def labels(self) -> dict[int, str]:
        """The name of each label value; 0 is the background."""
        return dict(self._trained.task.labels)

    @property
    def regions(self) -> dict[str, tuple[int, ...]]:
        """The label values of each region, in the order of probabilities; ``{}`` where labels exclude each other."""
        task = self._trained.task
        return {task.labels[region.label]: region.values for region in task.regions}

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels that a scan must have, in their order."""
        return self._trained.task.channels

    def predict(self, image: Any, affine: ArrayLike | None = None) -> NDArray[np.integer[Any]]:
        """Segment one scan.

        Args:
            image: The path of a NIfTI file, a nibabel image, or an array ``[X, Y]``, ``[X, Y, Z]`` or
                ``[X, Y, Z, C]``; a list of these if each channel is a scan of its own.
            affine: Maps voxel indices to mm, 4x4; required for arrays, refused where a file or image says otherwise.

        Returns:
            The label values, on the scan's own grid: the mask that the command ``predict`` writes.

        Raises:
            UserError: The scan is unsound, or the model was not trained on such scans.
        """
        scans = self._scans(image, affine)
        with blamed(), listening(lambda _: None):
            return self._trained.predictor.segment(scans).reshape(scans[0].header.dims[:3])

    def probabilities(self, image: Any, affine: ArrayLike | None = None) -> NDArray[np.float32]:
        """Return the probability of every label, ``[K, …]`` in the order of :attr:`labels`, on the scan's own grid.

        Of a model of regions, return that of each of :attr:`regions`, which do not add up to 1.

        They take 4 bytes per voxel and label, and are not post-processed.

        Args:
            image: As for :meth:`predict`.
            affine: As for :meth:`predict`.

        Raises:
            UserError: As :meth:`predict`.
        """
        scans = self._scans(image, affine)
        with blamed(), listening(lambda _: None):
            return self._trained.predictor.probabilities(scans).reshape(-1, *scans[0].header.dims[:3])

    def _scans(self, image: Any, affine: ArrayLike | None) -> list[Scan]:
        """Read a scan, and refuse one that is unsound or that the model was not trained for."""
        from pipeline.runs.fitting import misfits

        parts = list(image) if isinstance(image, list | tuple) else [image]
        names = ["image"]
        if isinstance(image, list | tuple):
            names = [f"channel {n}" for n in range(len(parts))]
        if not parts:
            raise _unusable("image", "no-scans", "is an empty list", "give a scan for each channel")
        scans = [_read(part, affine, name) for part, name in zip(parts, names, strict=True)]
        case = Case(id="image", images=tuple(Path(name) for name in names), label=None, patient="")
        scans_by_path = dict(zip(case.images, scans, strict=True))
        facts, problems = examine_scans(case, scans_by_path, Declared(channels=len(self.channels)))
        if facts is not None:
            problems += misfits("image", facts, self._trained)
        if wrong := [problem for problem in problems if not is_warning(problem)]:
            raise UserError("The scan cannot be used.", wrong)
        return scans


@typed
def load(
    run: str | PathLike[str],
    *,
    checkpoint: Which = "last",
    plugins: Sequence[str | PathLike[str]] = (),
    device: str = "auto",
) -> Model:
    """Load a run's network, or those of a cross-validation, to predict from memory.

    Args:
        run: The run's folder, a model file or a checkpoint.
        checkpoint: ``last`` or ``best``.
        plugins: As for :func:`pipeline.api.validate`.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: There is no such checkpoint or device, or it cannot be used.
    """
    from pipeline.runs.models import load_model

    with blamed(), listening(lambda _: None):
        return Model(load_model(Path(run), checkpoint, list(map(Path, plugins)), device))


def _read(image: Any, affine: ArrayLike | None, name: str) -> Scan:
    """Read one scan, whose name in messages is given for those without a path."""
    matrix = None if affine is None else _matrix(affine)
    if isinstance(image, str | PathLike) or hasattr(image, "dataobj"):
        scan = _file_or_image(image, name)
        if matrix is not None and not np.allclose(matrix, scan.affine, atol=1e-3):
            raise _unusable(
                "affine", "no-affine", f"is not that of {name}", "leave it out: it says itself where it lies"
            )
        return scan
    array = np.asanyarray(image)
    if array.dtype.kind not in "biuf" or array.ndim < 2:
        remedy = "give a path, a nibabel image, or an array of 2 or more axes"
        raise _unusable(name, "not-nifti", f"is {type(image).__name__} of {array.dtype}, and no scan", remedy)
    if not array.size:
        raise _unusable(name, "not-nifti", f"has no voxels: its shape is {array.shape}", "give a scan")
    if matrix is None:
        raise _unusable("affine", "no-affine", "is not given, and an array does not say where it lies", GIVE_AFFINE)
    return nifti.scan_of(array, matrix, name)


def _file_or_image(image: Any, name: str) -> Scan:
    if isinstance(image, str | PathLike):
        return nifti.load(Path(image))
    return nifti.scan_of(image.dataobj, image.affine, name, image.header)


def _matrix(affine: ArrayLike) -> NDArray[np.float64]:
    try:
        matrix = np.asarray(affine, np.float64)
    except (TypeError, ValueError):
        raise _unusable("affine", "no-affine", "is no matrix of numbers", GIVE_AFFINE) from None
    if matrix.shape != (4, 4):
        raise _unusable("affine", "no-affine", f"has shape {matrix.shape}", GIVE_AFFINE)
    if not np.isfinite(matrix).all():
        raise _unusable("affine", "no-affine", "is not finite", GIVE_AFFINE)
    if not np.array_equal(matrix[3], (0, 0, 0, 1)):
        turned = "is it transposed? " if np.array_equal(matrix[:, 3], (0, 0, 0, 1)) else ""
        message = f"has the last row {matrix[3].tolist()}, and not [0, 0, 0, 1]"
        raise _unusable("affine", "no-affine", message, f"{turned}{GIVE_AFFINE}")
    if np.linalg.matrix_rank(matrix) < 4:
        raise _unusable("affine", "no-affine", "maps different voxels to one place", GIVE_AFFINE)
    return matrix


def _unusable(where: str, code: str, message: str, remedy: str) -> UserError:
    return UserError("The scan cannot be used.", [Problem(where, code, message, remedy)])
