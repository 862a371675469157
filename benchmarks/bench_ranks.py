"""Several processes that make one training: what a step takes with 1 and 2 of them, and what their sum costs.

    python benchmarks/bench_ranks.py                    # the networks of the hippocampus plan and of slices, minutes
    python benchmarks/bench_ranks.py --quick
    python benchmarks/bench_ranks.py --json ranks.json

Each process has one thread. For each network it measures, in milliseconds of a step: the whole batch at once in one
process (as `fewmask train` without a launcher has it), its units one after the other in one process, its units shared
by two processes, and PyTorch's DistributedDataParallel with the same network, samples and losses. Of the two processes
it measures apart what they exchange: values, gradients and messages, and how long each waits in that. The sum's share
of a step, and what two processes gain, stand below. On a machine that does other work, only `processor` compares: the
least processor time of the first process in a step.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median
from tempfile import gettempdir
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from pipeline import distributed
from pipeline.engines import units
from pipeline.engines.optimizers import OPTIMIZERS
from pipeline.engines.schedules import SCHEDULES, Schedule
from pipeline.engines.steps import TrainingStep
from pipeline.losses import CrossEntropyLoss, DiceLoss
from pipeline.losses.objective import Objective, Term
from pipeline.networks import NETWORKS
from pipeline.pacing.course import Course

CASES: dict[str, dict[str, Any]] = {
    "hippocampus, 40 x 56 x 40, batch 4": {"patch": (40, 56, 40), "channels": [16, 32, 64, 128], "batch": 4},
    "slices, 128 x 128, batch 8": {"patch": (128, 128), "channels": [16, 32, 64, 128, 128], "batch": 8},
}
QUICK: dict[str, dict[str, Any]] = {
    "tiny, 16 x 16 x 16, batch 4": {"patch": (16, 16, 16), "channels": [4, 8, 16], "batch": 4}
}
CLASSES = 3


def network_of(case: dict[str, Any]) -> torch.nn.Module:
    torch.manual_seed(0)
    dimensions = len(case["patch"])
    levels = len(case["channels"])
    options = {
        "channels": case["channels"],
        "strides": [[2] * dimensions] * (levels - 1),
        "kernels": [[3] * dimensions] * levels,
        "deep_supervision": True,
    }
    network: torch.nn.Module = NETWORKS.build(
        "dynunet", options, spatial_dims=dimensions, in_channels=1, out_channels=CLASSES
    )
    return network


def batch_of(case: dict[str, Any], slots: list[int]) -> dict[str, Any]:
    drawn = [torch.Generator().manual_seed(slot) for slot in slots]
    size = (1, 1, *case["patch"])
    image = torch.cat([torch.randn(size, generator=each) for each in drawn])
    annotation = torch.cat([torch.randint(CLASSES, size, generator=each, dtype=torch.uint8) for each in drawn])
    return {"image": image, "annotation": annotation, "case": ["one"] * case["batch"]}


def step_of(case: dict[str, Any], count: int) -> TrainingStep:
    network = network_of(case)
    optimizer = OPTIMIZERS.build(
        "adamw", {}, parameters=list(network.parameters()), learning_rate=2e-3, weight_decay=1e-2
    )
    terms = [Term(name=loss.__name__, loss=loss(), on="labelled") for loss in (DiceLoss, CrossEntropyLoss)]
    return TrainingStep(
        network=network,
        objective=Objective(terms),
        optimizer=optimizer,
        schedule=Schedule(2e-3, 0.05, SCHEDULES.build("poly", {})),
        course=Course(1000),
        precision=torch.float32,
        clip_norm=12.0,
        seed=0,
        units=count,
    )


@contextmanager
def clocked(taken: list[float]) -> Any:
    """Add up the seconds that exchanges take, the wait for the other process included."""
    functions = {name: getattr(units, name) for name in ("_exchanged", "_reduced")} | {"agree": distributed.agree}

    def timed(act: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return act(*given, **named)
            finally:
                taken[-1] += time.perf_counter() - start

        return call

    for name in ("_exchanged", "_reduced"):
        setattr(units, name, timed(functions[name]))
    distributed.agree = timed(functions["agree"])
    try:
        yield
    finally:
        for name in ("_exchanged", "_reduced"):
            setattr(units, name, functions[name])
        distributed.agree = functions["agree"]


def time_units(case: dict[str, Any], count: int, steps: int) -> dict[str, Any]:
    """Time steps of our own; each begins in all processes at once."""
    step = step_of(case, count)
    batches = {"labelled": batch_of(case, units.own_slots(case["batch"], 1, count))}
    whole: list[float] = []
    computed: list[float] = []
    exchanged: list[float] = []
    for number in range(1, steps + 2):
        distributed.agree()
        exchanged.append(0.0)
        start = time.perf_counter()
        own_start = time.process_time()
        with clocked(exchanged):
            step(SimpleNamespace(state=SimpleNamespace(iteration=number)), batches)  # type: ignore[arg-type]
        whole.append(time.perf_counter() - start)
        computed.append(time.process_time() - own_start)
    return {
        "step_ms": 1e3 * median(whole[1:]),
        "exchange_ms": 1e3 * median(exchanged[1:]),
        "processor_ms": 1e3 * min(computed[1:]),
    }


def time_exchange(case: dict[str, Any], steps: int) -> dict[str, float]:
    """Time the exchange of the gradients alone, with nobody late."""
    own = torch.zeros(1, sum(each.numel() for each in network_of(case).parameters()))
    found = []
    used = []
    for _ in range(steps + 1):
        distributed.agree()
        start = time.perf_counter()
        own_start = time.process_time()
        distributed.agree()
        units._reduced(own, [(0, 1), (1, 2)], [1, 1], 2)
        found.append(time.perf_counter() - start)
        used.append(time.process_time() - own_start)
    return {"step_ms": 1e3 * median(found[1:]), "processor_ms": 1e3 * min(used[1:])}


def time_ddp(case: dict[str, Any], steps: int) -> dict[str, float]:
    """Time the same network and losses with PyTorch's own wrapper."""
    network = torch.nn.parallel.DistributedDataParallel(network_of(case))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    share = case["batch"] // dist.get_world_size()
    batch = batch_of(case, list(range(dist.get_rank() * share, (dist.get_rank() + 1) * share)))
    losses = [DiceLoss(), CrossEntropyLoss()]
    found = []
    used = []
    for _ in range(steps + 1):
        dist.barrier()
        start = time.perf_counter()
        own_start = time.process_time()
        optimizer.zero_grad()
        logits = network(batch["image"])
        total = torch.stack([loss.compare(logits, batch["annotation"].long()) for loss in losses]).sum()
        total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        float(total.detach())
        found.append(time.perf_counter() - start)
        used.append(time.process_time() - own_start)
    return {"step_ms": 1e3 * median(found[1:]), "processor_ms": 1e3 * min(used[1:])}


def measure(case: dict[str, Any], steps: int, output: Path | None) -> None:
    """Measure in this process, one of those that a launcher has started, and let the first write what it found."""
    torch.set_num_threads(1)
    with distributed.joined():
        counts = [2, case["batch"]] if distributed.size() > 1 else [1, 2, case["batch"]]
        found: dict[str, Any] = {f"{count} units": time_units(case, count, steps) for count in counts}
        if distributed.size() > 1:
            found["sum of the gradients alone"] = time_exchange(case, steps)
            found["DistributedDataParallel"] = time_ddp(case, steps)
        if distributed.is_first() and output:
            output.write_text(json.dumps(found))


def launch(processes: int, name: str, quick: bool, steps: int, output: Path) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--case", name, "--steps", str(steps), "--json", str(output)]
    if quick:
        command.append("--quick")
    own = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(command, env=os.environ | own | {"RANK": str(n), "LOCAL_RANK": str(n)})
        for n in range(processes)
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise SystemExit(f"{name} failed with {processes} processes")


def shares_of(found: dict[str, Any]) -> dict[str, float]:
    """Return the share of a step that the sum takes, and the efficiency of two processes, by processor and by clock."""
    alone, both = found["1 processes"]["1 units"], found["2 processes"]
    shares = {}
    for clock, key in (("processor", "processor_ms"), ("clock", "step_ms")):
        shares[f"sum of the gradients, share of a step by {clock}"] = (
            both["sum of the gradients alone"][key] / both["2 units"][key]
        )
        shares[f"efficiency of two processes by {clock}"] = alone[key] / (2 * both["2 units"][key])
        shares[f"efficiency of DistributedDataParallel by {clock}"] = alone[key] / (
            2 * both["DistributedDataParallel"][key]
        )
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    cases = QUICK if options.quick else CASES
    steps = options.steps or (3 if options.quick else 9)
    if options.case:
        measure(cases[options.case], steps, options.json)
        return
    results: dict[str, Any] = {}
    for name in cases:
        results[name] = {}
        for processes in (1, 2):
            place = Path(f"{options.json or Path(gettempdir()) / 'bench_ranks.json'}.{processes}.part")
            launch(processes, name, options.quick, steps, place)
            results[name][f"{processes} processes"] = json.loads(place.read_text())
            place.unlink()
        print(name)
        for processes, found in results[name].items():
            for what, numbers in found.items():
                more = "".join(f", {key.removesuffix('_ms')} {number:.0f} ms" for key, number in numbers.items())
                print(f"  {processes}, {what}{more}")
        results[name]["shares"] = shares_of(results[name])
        for what, share in results[name]["shares"].items():
            print(f"  {what}: {share:.1%}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
