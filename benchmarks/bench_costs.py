"""The terms of docs/scaling.md: what a step moves and waits for, what a scan costs, what is written, measured here.

    python benchmarks/bench_costs.py                     # minutes on two cores
    python benchmarks/bench_costs.py --quick
    python benchmarks/bench_costs.py --json costs.json

Of a step, with two processes of one thread each, Gloo on loopback: the bytes that each process receives, by what they
are, and the exchanges, counted in real steps and compared with the formulas (exit code 1 where they differ); what a
sample costs of processor time in the network and in the objective. Of the network between them: the latency of an
exchange and the bytes a second. Of a scan, with one thread: to check it, to prepare it, to verify that it is prepared,
to draw a sample of it, and the bytes of both its forms. Of a run: a checkpoint, and to predict and score a case.

Medians; times named `processor` are of the processor, which other programs change less than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
import torch.distributed as dist
from bench_ranks import CASES, QUICK, batch_of, network_of, step_of

from pipeline import distributed
from pipeline.checkpoints import save_checkpoint
from pipeline.data.augmentation import AugmentationChain, Patch, standard
from pipeline.data.cache import Cache
from pipeline.data.check import Check
from pipeline.data.checked import read_case
from pipeline.data.layouts import read_dataset
from pipeline.data.loaders import StepBatches, Stream
from pipeline.data.transforms import Grid
from pipeline.engines import units
from pipeline.losses.objective import Objective
from pipeline.metrics.case import score_case
from pipeline.prediction.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Bytes of a number of the gradients.
FLOAT = 4
# Numbers in the long and the short exchange by which latency and bytes a second are told apart.
LONG, SHORT = 4_000_000, 2
SPACING = (1.0, 1.0, 1.0)


def processor_s(work: Callable[[], object]) -> float:
    """Return the processor time of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def clock_s(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# Of a step.


@contextmanager
def counted(received: dict[str, int], exchanges: list[str]) -> Iterator[None]:
    """Count the bytes that others send to this process, and the exchanges, by the function that asks for them."""
    gather = dist.all_gather
    scatter = dist.all_to_all_single
    others = dist.get_world_size() - 1

    def note(kind: str, size: int) -> None:
        received[kind] = received.get(kind, 0) + size
        exchanges.append(kind)

    def all_gather(every: Any, own: Any, **how: Any) -> Any:
        kind = {"_gathered": "messages", "_exchanged": "values", "_reduced": "gradients"}
        note(kind[sys._getframe(1).f_code.co_name], others * own.numel() * own.element_size())
        return gather(every, own, **how)

    def all_to_all(into: Any, own: Any, output_split_sizes: Any, **how: Any) -> Any:
        from_others = sum(output_split_sizes) - output_split_sizes[dist.get_rank()]
        note("gradients", from_others * own.element_size())
        return scatter(into, own, output_split_sizes=output_split_sizes, **how)

    dist.all_gather = all_gather
    dist.all_to_all_single = all_to_all
    try:
        yield
    finally:
        dist.all_gather = gather
        dist.all_to_all_single = scatter


@contextmanager
def clocked(taken: list[float]) -> Iterator[None]:
    """Add up the processor time of the objective: of its values, and of the way back to what it looks at."""
    places = ((Objective, "__call__"), (torch.Tensor, "backward"))
    plain = [getattr(kind, name) for kind, name in places]

    def timed(act: Any) -> Any:
        def call(*given: Any) -> Any:
            began = time.process_time()
            try:
                return act(*given)
            finally:
                taken[-1] += time.process_time() - began

        return call

    for (kind, name), act in zip(places, plain, strict=True):
        setattr(kind, name, timed(act))
    try:
        yield
    finally:
        for (kind, name), act in zip(places, plain, strict=True):
            setattr(kind, name, act)


def measure_step(case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Measure steps in which each process has one unit."""
    processes = distributed.size()
    step = step_of(case, processes)
    batches = {"labelled": batch_of(case, units.own_slots(case["batch"], 1, processes))}
    own = case["batch"] // processes
    judged: list[float] = []
    spent = []
    for number in range(1, rounds + 2):
        distributed.agree()
        judged.append(0.0)
        received: dict[str, int] = {}
        exchanges: list[str] = []
        with counted(received, exchanges), clocked(judged):
            state = SimpleNamespace(state=SimpleNamespace(iteration=number))
            spent.append(processor_s(lambda state=state: step(state, batches)))  # type: ignore[misc]
    weights = sum(each.numel() for each in step.network.parameters() if each.requires_grad)
    objective_ms = 1e3 * median(judged[1:]) / case["batch"]
    return {
        "weights": weights,
        "gradient_bytes": FLOAT * weights,
        "received_bytes": received,
        "gradient_bytes_by_formula": 2 * (processes - 1) * -(-weights // processes) * FLOAT,
        "value_bytes_a_sample": received["values"] / ((processes - 1) * own),
        "exchanges": exchanges,
        "network_processor_ms_a_sample": (1e3 * median(spent[1:]) - objective_ms * case["batch"]) / own,
        "objective_processor_ms_a_sample": objective_ms,
    }


def measure_exchange(rounds: int) -> dict[str, float]:
    """Tell latency and bytes a second of the sum apart by a long and a short one, in turn."""
    times: dict[int, list[float]] = {SHORT: [], LONG: []}
    agreed = []
    for _ in range(rounds + 1):
        for length, found in times.items():
            own = torch.ones(1, length)
            distributed.agree()
            found.append(clock_s(lambda own=own: units._reduced(own, [(0, 1), (1, 2)], [1, 1], 2)))  # type: ignore[misc]
        agreed.append(clock_s(distributed.agree))
    short, long = (median(found[1:]) for found in times.values())
    return {
        "message_ms": 1e3 * median(agreed[1:]),
        "sum_latency_ms": 1e3 * short,
        "sum_mb_a_second": LONG * FLOAT / 1e6 / max(1e-9, long - short),
    }


def measure_together(cases: dict[str, dict[str, Any]], rounds: int, output: Path) -> None:
    """Measure in one of two processes; the first writes what it has found."""
    torch.set_num_threads(1)
    with distributed.joined():
        found: dict[str, Any] = {name: measure_step(case, rounds) for name, case in cases.items()}
        found["exchange"] = measure_exchange(20 * rounds)
        if distributed.is_first():
            output.write_text(json.dumps(found))


def launch(words: list[str]) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    about = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen([sys.executable, __file__, *words], env=about | {"RANK": number, "LOCAL_RANK": number})
        for number in "01"
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit("the two processes failed")


# Of a scan.


def write_scans(folder: Path, count: int, shape: tuple[int, ...]) -> None:
    """Write scans of a smooth body with noise, as 16-bit integers, and masks of two structures."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    far = np.sqrt(sum(axis**2 for axis in axes))
    for number in range(count):
        body = 900 * np.exp(-((far / 0.8) ** 2)) + rng.normal(0, 20, shape)
        mask = (far < 0.3).astype(np.uint8) + (far < 0.15).astype(np.uint8)
        for kind, voxels in (("images", body.astype(np.int16)), ("labels", mask)):
            path = folder / kind / f"case_{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(voxels, np.diag([1.2, 1.2, 1.2, 1]))
            image.header.set_xyzt_units("mm")
            nib.save(image, path)


def each_processor_s(steps: Iterator[object], count: int) -> float:
    """Return the median processor time of a step of an iterator."""
    return median([processor_s(lambda: next(steps)) for _ in range(count)])


def measure_scans(shape: tuple[int, ...], count: int, place: Path) -> dict[str, Any]:
    """Measure what one scan costs; all shares are of the voxels in its file, and of those on the network's grid."""
    write_scans(place / "data", count, shape)
    torch.set_num_threads(1)
    check = Check(read_dataset(place / "data"))
    check_s = processor_s(lambda: list(check)) / count
    index = check.index()
    cases = index.dataset.cases
    cache = Cache(folder=place / "cache", index=index, grid=Grid("RAS", SPACING))
    prepare_s = each_processor_s(cache.fill(cases), count)
    verify_s = each_processor_s(cache.fill(cases), count)
    entries = [path for path in (place / "cache").iterdir() if path.suffix == ".npz"]
    whole = cache.get(cases[0])
    voxels = int(np.prod(shape))
    on_grid = int(np.prod(whole["image"].shape[1:]))
    patch = tuple(min(64, length) for length in shape)
    chain = AugmentationChain(standard(), Patch(SPACING, patch))
    batches = StepBatches({"labelled": Stream(cases, 1, 1)}, cache.get, patch, chain, 0)
    sample_s = median([processor_s(lambda step=step: batches[step]) for step in range(3 * count)])  # type: ignore[misc]
    packed = sum(path.stat().st_size for path in (place / "data").rglob("*.nii.gz"))
    return {
        "voxels": voxels,
        "voxels_on_grid": on_grid,
        "file_bytes_a_voxel": packed / count / voxels,
        "prepared_bytes_a_voxel": median([path.stat().st_size for path in entries]) / on_grid,
        "check_processor_ns_a_voxel": 1e9 * check_s / voxels,
        "prepare_processor_ns_a_voxel": 1e9 * prepare_s / on_grid,
        "verify_processor_ns_a_voxel": 1e9 * verify_s / on_grid,
        "sample_patch": patch,
        "sample_processor_ns_a_voxel": 1e9 * sample_s / int(np.prod(patch)),
        "checked_a_second": 1 / check_s,
        "prepared_a_second": 1 / prepare_s,
        **measure_validation(check, patch),
    }


def measure_validation(check: Check, patch: tuple[int, ...]) -> dict[str, float]:
    """Measure what it takes to predict and to score a case, with the small network of the hippocampus plan."""
    case = check.dataset.cases[0]
    facts = check.seen[case.id]
    scans, mask = read_case(case, facts)
    assert mask is not None
    network = network_of({"patch": patch, "channels": [16, 32, 64, 128]})
    predictor = Predictor(
        network=network, grid=Grid("RAS", SPACING), patch_size=patch, label_values=(0, 1, 2), precision=torch.float32
    )
    found: list[Any] = []
    predict_s = processor_s(lambda: found.append(predictor.segment(scans)))
    labels = {0: "background", 1: "one", 2: "two"}
    scored = [
        median(
            [
                processor_s(
                    lambda few=few: score_case(  # type: ignore[misc]
                        case.id, mask.labels, found[0], labels, facts.spacing_mm, overlap_only=few
                    )
                )
                for _ in range(3)
            ]
        )
        for few in (True, False)
    ]
    voxels = int(np.prod(facts.shape))
    return {
        "predict_processor_ns_a_voxel": 1e9 * predict_s / voxels,
        "score_overlap_processor_ns_a_voxel": 1e9 * scored[0] / voxels,
        "score_all_processor_ns_a_voxel": 1e9 * scored[1] / voxels,
    }


# Of a run.


def measure_checkpoint(case: dict[str, Any], rounds: int, place: Path) -> dict[str, float]:
    """Measure a checkpoint of the weights and of the optimizer's moments."""
    step = step_of(case, 1)
    step(SimpleNamespace(state=SimpleNamespace(iteration=1)), {"labelled": batch_of(case, [0])})  # type: ignore[arg-type]
    weights = sum(each.numel() for each in step.network.parameters())
    took = [clock_s(lambda: save_checkpoint(place, "last", {"step": 1, **step.state_dict()})) for _ in range(rounds)]
    size = max(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return {"checkpoint_bytes_a_weight": size / weights, "checkpoint_bytes": size, "save_ms": 1e3 * median(took)}


def show(title: str, found: dict[str, Any]) -> None:
    print(title)
    for name, value in found.items():
        print(f"  {name.replace('_', ' ')}: {value if isinstance(value, (dict, list, tuple, int)) else f'{value:.4g}'}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="small scans, one small network")
    parser.add_argument("--together", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = QUICK if options.quick else CASES
    rounds = 3
    if options.together:
        measure_together(cases, rounds, options.together)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        launch(["--together", str(place / "found.json"), *(["--quick"] if options.quick else [])])
        results = json.loads((place / "found.json").read_text())
        shape = (64, 64, 48) if options.quick else (128, 128, 64)
        results["scan"] = measure_scans(shape, 3, place)
        (place / "checkpoints").mkdir()
        results["checkpoint"] = measure_checkpoint(next(iter(cases.values())), 2 * rounds + 1, place / "checkpoints")
    for title, found in results.items():
        show(title, found)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    wrong = [
        name
        for name in cases
        if results[name]["received_bytes"]["gradients"] != results[name]["gradient_bytes_by_formula"]
    ]
    for name in wrong:
        print(f"{name}: the bytes are not those of the formula")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
