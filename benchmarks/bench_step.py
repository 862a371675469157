"""Seconds of one supervised step, its data left out: of this code, of a plain loop with MONAI, and of other checkouts.

    python benchmarks/bench_step.py                                   # ours beside the plain loop
    python benchmarks/bench_step.py --checkout before=../before       # and beside an earlier one (`git worktree add`)
    python benchmarks/bench_step.py --quick --json FILE

All have the same U-Net, Dice with cross-entropy at every level, batch and optimizer, in float32 with one thread. Runs
alternate, each in a process of its own, and the table has the medians over all their steps: of the time that passed,
and of the processor's, which other work on the machine makes little longer. Ours also averages the weights and refuses
a step that is not finite, which a plain loop leaves out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHANNELS = [8, 16, 32]
PATCH = [32, 32, 32]
BATCH = 2
# Steps that are left out.
WARM = 3
# That passed, and of the processor.
Seconds = tuple[float, float]


def clocks() -> Seconds:
    """Return what the two clocks show."""
    return time.perf_counter(), time.process_time()


def since(start: Seconds) -> Seconds:
    """Return what both clocks have gone on since."""
    passed, cpu = clocks()
    return passed - start[0], cpu - start[1]


def time_steps(words: list[str]) -> list[Seconds]:
    """Train with the words of a command line, and return the time of each step; this runs in any checkout."""
    from pipeline import cli
    from pipeline.engines.steps import TrainingStep

    times = []
    update = TrainingStep.__call__

    def timed(self: TrainingStep, *given: object) -> object:
        start = clocks()
        output = update(self, *given)
        times.append(since(start))
        return output

    TrainingStep.__call__ = timed  # type: ignore[method-assign,assignment]
    with tempfile.TemporaryDirectory() as run:
        sys.argv = ["fewmask", "train", *words, "--output", f"{run}/run"]
        cli.main()
    return times[WARM:]


def time_ours(folder: Path, steps: int) -> list[Seconds]:
    """Train the supervised recipe, and return the time of each step."""
    settings = [
        f"network.options.channels={CHANNELS}",
        f"data.patch_size={PATCH}",
        f"data.batch_size={BATCH}",
        f"max_steps={steps + WARM}",
        "precision=float32",
        "device=cpu",
    ]
    return time_steps([str(ROOT / "configs" / "supervised.yaml"), f"dataset={folder / 'data'}", *settings])


def time_plain(steps: int) -> list[Seconds]:
    """Return the time of each step of a loop as one writes it with MONAI."""
    import torch
    from monai.losses import DeepSupervisionLoss, DiceCELoss

    from pipeline.networks import NETWORKS

    torch.manual_seed(0)
    options = {"channels": CHANNELS, "deep_supervision": True}
    network = NETWORKS.build("dynunet", options, spatial_dims=3, in_channels=1, out_channels=3).train()
    loss = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.5)
    times = []
    for _ in range(steps + WARM):
        image = torch.randn(BATCH, 1, *PATCH)
        label = torch.randint(3, (BATCH, 1, *PATCH)).float()
        start = clocks()
        optimizer.zero_grad(set_to_none=True)
        value = loss(list(network(image)), label)
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        value.item()
        times.append(since(start))
    return times[WARM:]


def main() -> None:
    """Measure in turn, and print a table with ratios."""
    if sys.argv[1:2] == ["--one"]:
        name, folder, steps = sys.argv[2:]
        times = time_plain(int(steps)) if name == "plain" else time_ours(Path(folder), int(steps))
        print("RESULT " + json.dumps(times), flush=True)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="three steps, one round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.steps = 3
        given.rounds = 1
    checkouts = {"ours": ROOT} | {name: Path(folder) for name, _, folder in (c.partition("=") for c in given.checkout)}
    found: dict[str, list[Seconds]] = {name: [] for name in (*checkouts, "plain")}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        phantom = ["phantom", str(folder / "data"), "--labelled", "4", "--unlabelled", "0"]
        subprocess.run([sys.executable, str(ROOT / "run.py"), *phantom], check=True, stdout=subprocess.DEVNULL)
        for _ in range(given.rounds):
            for name in found:
                code = str(checkouts.get(name, ROOT))
                environment = os.environ | {"PYTHONPATH": code, "OMP_NUM_THREADS": "1"}
                words = [sys.executable, __file__, "--one", name, place, str(given.steps)]
                done = subprocess.run(words, cwd=code, env=environment, capture_output=True, text=True)
                lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
                if not lines:
                    sys.exit(f"{name} failed:\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
                found[name] += json.loads(lines[-1].removeprefix("RESULT "))
    medians = {name: [statistics.median(clock) for clock in zip(*times, strict=True)] for name, times in found.items()}
    print("| | ms a step | Ours, times this | ms of the processor | Ours, times this |\n|---|---|---|---|---|")
    for name, median in medians.items():
        cells = [cell for own, one in zip(medians["ours"], median, strict=True) for cell in (1000 * one, own / one)]
        print(f"| {name} | {cells[0]:.1f} | {cells[1]:.2f} | {cells[2]:.1f} | {cells[3]:.2f} |")
    if given.json:
        given.json.write_text(json.dumps({"times": found, "medians": medians}, indent=1) + "\n")


if __name__ == "__main__":
    main()
