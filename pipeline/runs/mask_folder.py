"""A folder of predicted masks, and the record of what each was made of, by which a prediction that ended goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from pipeline.errors import Problem, UserError
from pipeline.files import to_write
from pipeline.nifti import is_nifti
from pipeline.outputs import Output, digest_of
from pipeline.runs.stored import Stored
from pipeline.runs.targets import present_mask, target_of, targets_of
from pipeline.strict_json import read_json, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pipeline.types import Case

RECORD = "predictions.json"
OWNER = "predict"
# Of a hundred thousand masks.
MAX_RECORD_BYTES = 100_000_000
AGAIN = "give --overwrite to predict it again, or name another --output"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Label = Annotated[str, Field(pattern="^[0-9]{1,9}$")]


class StoredMask(Stored):
    """What a mask was made of.

    Attributes:
        scan: A hash of the scan's values and grid.
        model: A hash of the weights and of how they predict.
        mirrored: Whether mirror images were looked at.
        labels: Those that it may hold, beside background.
        dice_expected: What the network expects of each label; None where nobody asked for it.
        files: The SHA-256 of the mask, and of what was written beside it.
    """

    scan: Sha256
    model: Sha256
    mirrored: bool
    labels: list[int]
    dice_expected: dict[Label, float] | None
    files: Annotated[dict[str, Sha256], Field(min_length=1)]

    @property
    def expected(self) -> dict[int, float]:
        """The Dice that the network expects, by label."""
        return {int(label): dice for label, dice in (self.dice_expected or {}).items()}


class StoredPredictions(Stored):
    """The record.

    Attributes:
        format: Of the record.
        masks: What each mask of the folder was made of, by its name.
        names: Of the labels that the masks may hold, by value.
        regions: The values that a region consists of, by the label that stands for it; empty for a model of labels.
    """

    format: Literal[1]
    masks: dict[str, StoredMask]
    names: dict[Label, str] = Field(default_factory=dict)
    regions: dict[Label, list[int]] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Making:
    """What a mask is to be made of; fields as of :class:`StoredMask`, but that labels have their names.

    Attributes:
        regions: As of :class:`StoredPredictions`.
    """

    scan: str
    model: str
    mirrored: bool
    labels: Mapping[int, str]
    regions: Mapping[int, Sequence[int]]

    def told(self) -> dict[str, str]:
        """Return what a file may tell of the model and its settings."""
        return {"model": self.model, "mirrored": str(self.mirrored), "labels": " ".join(map(str, self.labels))}

    def mask(self, files: dict[str, str], dice_expected: Mapping[int, float] | None) -> StoredMask:
        """Return what the record tells of a mask that was made of this."""
        return StoredMask(
            scan=self.scan,
            model=self.model,
            mirrored=self.mirrored,
            labels=list(self.labels),
            dice_expected=None if dice_expected is None else {str(k): dice for k, dice in dice_expected.items()},
            files=files,
        )

    def differences(self, mask: StoredMask) -> list[str]:
        """Say in what a mask that is there was made otherwise."""
        found = []
        if mask.scan != self.scan:
            found.append("of another scan")
        if mask.model != self.model:
            found.append("with other weights, or other post-processing")
        if mask.mirrored != self.mirrored:
            found.append("with mirror images" if mask.mirrored else "without mirror images")
        if mask.labels != [*self.labels]:
            found.append("with other --labels")
        return found


@dataclass(frozen=True)
class MaskFolder:
    """A folder that masks are written to.

    Attributes:
        folder: It need not be there.
    """

    folder: Path

    @property
    def listing(self) -> Output:
        """What tells which files of the folder are ours."""
        return Output(self.folder, OWNER)

    def refuse(self, options: Sequence[str], files: Sequence[str]) -> None:
        """Refuse to begin where the record or another file that is to be written is there and is not ours.

        Args:
            options: What was asked for that needs a folder.
            files: That will be written, beside masks.

        Raises:
            UserError: With every such file.
        """
        self.listing.refuse_foreign([RECORD, *files])

    def targets(self, cases: Sequence[Case], scans: Sequence[Path]) -> dict[Path, Case]:
        """Map each mask's path to its scan, as :func:`targets_of`; masks that are ours may be there."""
        return targets_of(cases, scans, self.folder, self.listing.foreign)

    def read(self) -> StoredPredictions:
        """Read the record; one of no masks where there is none.

        Raises:
            UserError: It is not what this version writes.
        """
        path = self.folder / RECORD
        if not path.exists():
            return StoredPredictions(format=1, masks={})
        try:
            return StoredPredictions.model_validate(read_json(path, MAX_RECORD_BYTES))
        except (OSError, ValueError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            message = f"is no record of masks of this version: {first}"
            problem = Problem(str(path), "bad-record", message, "name another --output")
            raise UserError("Nothing was predicted.", [problem]) from None

    def finished(
        self, wanted: Mapping[str, Making], beside: Callable[[str], Sequence[str]], *, expected: bool
    ) -> tuple[dict[str, StoredMask], list[Problem]]:
        """Return those of the masks that are there already, as they would be made now, and those made otherwise.

        Args:
            wanted: What the mask of each name is to be made of; none of them is foreign.
            beside: Returns the files that are to be there beside a mask.
            expected: Whether the expected Dice is asked for.

        Raises:
            UserError: As :meth:`read`.
        """
        known = self.read().masks
        found = {}
        problems = []
        for name, making in wanted.items():
            path = self.folder / name
            if not path.exists():
                continue
            mask = known.get(name)
            if mask is None or mask.files.get(name) != digest_of(path):
                problems.append(Problem(str(path), "not-recorded", f"is not what {RECORD} tells of", AGAIN))
            elif different := making.differences(mask):
                problems.append(Problem(str(path), "made-otherwise", f"was made {' and '.join(different)}", AGAIN))
            elif self._is_whole(mask, [name, *beside(name)], expected=expected):
                found[name] = mask
        return found, problems

    def _is_whole(self, mask: StoredMask, files: Iterable[str], *, expected: bool) -> bool:
        if expected and mask.dice_expected is None:
            return False
        return all((path := self.folder / file).is_file() and mask.files.get(file) == digest_of(path) for file in files)

    def save(
        self,
        name: str,
        making: Making,
        write: Callable[[Path], None],
        beside: Sequence[str] = (),
        dice_expected: Mapping[int, float] | None = None,
    ) -> StoredMask:
        """Put a mask and what belongs to it into the folder, the record first: a mask that is there is told of in it.

        Args:
            name: Of the mask.
            making: What it is made of.
            write: Writes all the files below a folder.
            beside: The files that are written beside it.
            dice_expected: Of each label.

        Raises:
            UserError: A file is in the way.
            WriteError: The disk is full or fails.
        """
        files = [name, *beside]
        with self.listing.writing([RECORD, *files]) as stage:
            for file in beside:
                (stage / file).parent.mkdir(exist_ok=True)
            write(stage)
            mask = making.mask({file: digest_of(stage / file) for file in files}, dice_expected)
            known = self.read()  # Anew, since another process may write here too.
            names = {str(label): label_name for label, label_name in making.labels.items()}
            others = {label: values for label, values in known.regions.items() if label not in names}
            record = StoredPredictions(
                format=1,
                masks=known.masks | {name: mask},
                names=known.names | names,
                regions=others | {str(label): list(values) for label, values in making.regions.items()},
            )
            write_json(stage / RECORD, record.model_dump())
        return mask

    def clear_up(self) -> None:
        """Take away what a killed process has left half-written."""
        if self.listing.knows(RECORD):
            with self.listing.writing([]):
                pass


@dataclass(frozen=True)
class MaskFile:
    """The one mask that was named, without a record: nothing else is written beside it.

    Attributes:
        path: Of the mask.
    """

    path: Path

    @property
    def folder(self) -> Path:
        """Where it goes."""
        return self.path.parent

    def refuse(self, options: Sequence[str], files: Sequence[str]) -> None:
        """Refuse what needs a folder; arguments as for :meth:`MaskFolder.refuse`.

        Raises:
            UserError: Something does.
        """
        message = f"needs a folder, and --output is the file {self.path}"
        problems = [Problem(option, "one-mask", message, "name a folder, or leave it out") for option in options]
        if problems:
            raise UserError("Nothing was predicted.", problems)

    def targets(self, cases: Sequence[Case], scans: Sequence[Path]) -> dict[Path, Case]:
        """Map the mask's path to its scan, as :func:`target_of`."""
        return target_of(cases, self.path)

    def finished(
        self, wanted: Mapping[str, Making], beside: Callable[[str], Sequence[str]], *, expected: bool
    ) -> tuple[dict[str, StoredMask], list[Problem]]:
        """Return that no mask is there; one that is was refused."""
        return {}, []

    def save(
        self,
        name: str,
        making: Making,
        write: Callable[[Path], None],
        beside: Sequence[str] = (),
        dice_expected: Mapping[int, float] | None = None,
    ) -> StoredMask:
        """Put the mask in its place; all else as :meth:`MaskFolder.save`."""
        if self.path.is_symlink() or self.path.exists():
            raise UserError("The prediction was not written.", [present_mask(self.path)])
        write(self.folder)
        return making.mask({name: digest_of(self.path)}, dice_expected)

    def clear_up(self) -> None:
        """Do nothing: what is half-written beside it may be another's."""


def destination(output: Path) -> MaskFolder | MaskFile:
    """Return where masks go: the file, where a NIfTI file is named, else the folder.

    Raises:
        UserError: A file is in a folder's way.
    """
    if is_nifti(output) and not output.is_dir():
        to_write(output.parent)
        return MaskFile(output)
    return MaskFolder(to_write(output))
