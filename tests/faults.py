"""A disk that is full or fails at every single write: `python tests/faults.py` prints what came of it.

The kernel refuses one system call after the other (write, fsync, rename, of whatever library makes it) to a traced
child that writes a checkpoint, a prepared case, a report, a mask or a row of the history over an older one. After each:
every file under a final name must be the old one or the new one, whole; nothing half-written may be left; and the
message must name the file and say how much was needed.
"""

from __future__ import annotations

import errno
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import torch
from tracing import POSSIBLE, WRITES, trace

from pipeline import nifti
from pipeline.checkpoints import checkpoints_of, load_checkpoint, save_checkpoint
from pipeline.data.cache import Cache
from pipeline.data.check import Check
from pipeline.data.layouts import open_dataset
from pipeline.data.transforms import Grid
from pipeline.errors import UserError
from pipeline.logs import CsvLog
from pipeline.outputs import Output
from pipeline.reports.files import write_cases_csv
from pipeline.strict_json import write_json
from pipeline.types import CaseResult

if TYPE_CHECKING:
    from collections.abc import Callable

FAULTS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}


@dataclass
class Case:
    """One thing that is written.

    Attributes:
        name: What it is.
        write: Writes it anew into a folder that holds an older one.
        prepare: Writes the older one.
        is_whole: Whether the folder's file is one of the two, whole.
    """

    name: str
    prepare: Callable[[Path], object]
    write: Callable[[Path], object]
    is_whole: Callable[[Path], bool]


@dataclass
class Outcome:
    """What came of one refused call."""

    case: str
    fault: str
    call: str
    number: int
    lost: bool
    half: bool
    said: str

    @property
    def is_plain(self) -> bool:
        """Whether the message says what was needed, or, of the cache, that it goes on without."""
        return " bytes" in self.said or " MB" in self.said


def cases(scratch: Path) -> list[Case]:
    """Return a checkpoint, a cache, a report, a mask and a history."""
    return [_checkpoint(), _cache(scratch), _report(), _mask(scratch), _history()]


def _checkpoint() -> Case:
    def state(step: int) -> dict[str, object]:
        return {"step": step, "network": {"w": torch.full((50_000,), float(step))}}

    def is_whole(folder: Path) -> bool:
        found = [load_checkpoint(path) for path in checkpoints_of(folder, "last")]
        return len(found) >= 2 and all(bool((s["network"]["w"] == s["step"]).all()) for s in found)

    def prepare(folder: Path) -> None:
        for step in (1, 2):
            save_checkpoint(folder, "last", state(step))

    return Case(
        name="checkpoint",
        prepare=prepare,
        write=lambda folder: save_checkpoint(folder, "last", state(3)),
        is_whole=is_whole,
    )


def _cache(scratch: Path) -> Case:
    for part in ("images", "labels"):
        (scratch / "data" / part).mkdir(parents=True)
        voxels = np.arange(20**3, dtype=np.uint8).reshape(20, 20, 20) % (2 if part == "labels" else 60)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), scratch / "data" / part / "a.nii.gz")
    look = Check(open_dataset(scratch / "data"))
    list(look)

    def cache(folder: Path) -> Cache:
        return Cache(folder=folder, index=look.index(), grid=Grid("RAS", (1.0, 1.0, 1.0)))

    def write(folder: Path) -> None:
        store = cache(folder)
        list(store.fill(look.dataset.cases))
        if not np.array_equal(store.get(look.dataset.cases[0])["image"], expected):
            raise AssertionError("the case is not what it would be without the fault")
        if store.failure is not None:
            raise store.failure

    def is_whole(folder: Path) -> bool:
        return all(len(np.load(path).files) == 3 for path in folder.glob("*.npz"))

    expected = replace(cache(scratch), folder=None).get(look.dataset.cases[0])["image"]
    return Case(name="cache", prepare=lambda folder: None, write=write, is_whole=is_whole)


def _report() -> Case:
    def rows(count: int) -> list[CaseResult]:
        one = dict.fromkeys(CaseResult.__dataclass_fields__)
        return [
            CaseResult(**one | {"case": f"case {n}", "label": 1, "name": "organ", "more": {}}) for n in range(count)
        ]

    def write(folder: Path, count: int = 2_000) -> None:
        with Output(folder, "evaluate").writing(["cases.csv", "summary.json"]) as stage:
            write_cases_csv(stage / "cases.csv", rows(count))
            write_json(stage / "summary.json", {"rows": list(range(count))})

    def is_whole(folder: Path) -> bool:
        lines = (folder / "cases.csv").read_text().count("\n")
        return lines in (11, 2_001) and (folder / "summary.json").read_text().endswith("]\n}\n")

    return Case(name="report", prepare=lambda folder: write(folder, 10), write=write, is_whole=is_whole)


def _mask(scratch: Path) -> Case:
    scan = nifti.load(scratch / "data" / "images" / "a.nii.gz")

    def write(folder: Path, value: int = 2) -> None:
        nifti.save_labels(folder / "a.nii.gz", np.full((20, 20, 20), value), scan)

    def is_whole(folder: Path) -> bool:
        return len(np.unique(nifti.load(folder / "a.nii.gz").voxels)) == 1

    return Case(name="mask", prepare=lambda folder: write(folder, 1), write=write, is_whole=is_whole)


def _history() -> Case:
    def log(folder: Path) -> CsvLog:
        return CsvLog(folder / "history.csv", ["step", "loss"], 1)

    def write(folder: Path) -> None:
        log(folder).append({"step": 2, "loss": 0.125})

    def is_whole(folder: Path) -> bool:
        return (folder / "history.csv").read_text().split() in (
            ["step,loss", "1,0.5"],
            ["step,loss", "1,0.5", "2,0.125"],
        )

    return Case(
        name="history",
        prepare=lambda folder: log(folder).append({"step": 1, "loss": 0.5}),
        write=write,
        is_whole=is_whole,
    )


def inject(case: Case, name: str, number: int, ready: Path, folder: Path) -> tuple[Outcome, bool]:
    """Refuse one call of a write, and return what came of it and whether there was such a call."""
    shutil.copytree(ready, folder)

    def work() -> bytes:
        try:
            case.write(folder)
        except UserError as error:
            return f"refused {type(error).__name__} {error}".encode()
        except OSError as error:
            return f"unnamed {error}".encode()
        return b"written"

    found = trace(work, refuse=(number, FAULTS[name]), only=WRITES)
    said = found.said.decode()
    half = [path.name for path in folder.rglob("*") if path.name.startswith(".partial")]
    calls = [call for call in found.calls if call in WRITES]
    met = number < len(calls)
    outcome = Outcome(case.name, name, calls[number] if met else "", number, not _whole(case, folder), bool(half), said)
    shutil.rmtree(folder)
    return outcome, met


def _whole(case: Case, folder: Path) -> bool:
    try:
        return case.is_whole(folder)
    except Exception:  # A file that is cut can fail in any way.
        return False


def run(folder: Path) -> list[Outcome]:
    """Refuse every call of every case, with each error."""
    torch.set_num_threads(1)
    outcomes = []
    for case in cases(folder):
        ready = folder / f"ready-{case.name}"
        ready.mkdir()
        case.prepare(ready)
        for name in FAULTS:
            number, met = 0, True
            while met:
                outcome, met = inject(case, name, number, ready, folder / "now")
                outcomes += [outcome] if met else []
                number += 1
    return outcomes


def main() -> None:
    if not POSSIBLE:
        sys.exit("needs Linux on x86-64")
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(Path(folder))
    for name in dict.fromkeys(outcome.case for outcome in outcomes):
        rows = [outcome for outcome in outcomes if outcome.case == name]
        refused = [row for row in rows if row.said.startswith("refused")]
        plain = sum(row.is_plain for row in refused)
        print(
            f"{name:<12} {len(rows):>4} faults  lost {sum(row.lost for row in rows)}"
            f"  half {sum(row.half for row in rows)}  refused {len(refused)}, of which {plain} say what was needed"
            f"  gone on as if nothing were {sum(row.said == 'written' for row in rows)}"
        )
    bad = [row for row in outcomes if row.lost or row.half or not (row.is_plain and row.said.startswith("refused"))]
    for row in bad:
        print(row)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
