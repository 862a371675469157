"""W-Net beside K-means and a Gaussian mixture on intensity: matched Dice over several seeds.

    pip install scikit-learn
    python benchmarks/bench_wnet.py --output runs/wnet --hippocampus DATASET.json

Each seed of W-Net is a run of `configs/unsupervised.yaml` as shipped, and the peers get the same number of classes, the
same standardised training scans and the same matching. No method sees a mask before the matching. A finished run is not
trained again and one that was stopped goes on, so that the command may be given until it is through; `--quick` shows in
a minute that it works, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from pipeline import nifti, runs
from pipeline.data.layouts import open_dataset
from pipeline.data.normalization import Normalized
from pipeline.data.phantom import LABELS, write_phantom
from pipeline.metrics.case import score_case
from pipeline.metrics.matching import match_segments
from pipeline.reports.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.types import Case

RECIPE = Path(__file__).resolve().parents[1] / "configs" / "unsupervised.yaml"
# Its cases are none of those that the recipe was chosen with.
PHANTOM_SEED = 2026
VOXELS_A_SCAN = 2000


@dataclass(frozen=True)
class Outcome:
    """One method, seed and dataset."""

    data: str
    method: str
    seed: int
    dice: dict[str, float]
    mean_dice: float
    used: int
    segments: int
    smallest_share: float


def main() -> None:
    """Run what is not done yet, and print the table."""
    options = _options()
    overrides = ["max_steps=3", "data.patch_size=[16,16,16]"] if options.quick else options.overrides
    seeds = range(1 if options.quick else options.seeds)
    outcomes = []
    for data, source, fraction in _datasets(options):
        more = [f"dataset={source}", f"data.validation_fraction={fraction}", *overrides]
        for seed in seeds:
            run = options.output / f"{data}-{seed}"
            if not (run / "summary.json").exists():
                runs.train(runs.read_recipe(RECIPE, [*more, f"seed={seed}"]), run, resume=True)
            outcomes.append(_wnet(data, seed, run))
            outcomes += _peers(data, seed, run, source, outcomes[-1].segments)
            print(*outcomes[-3:], sep="\n", flush=True)
    _print_table(outcomes)
    if options.json:
        options.json.write_text(json.dumps([vars(outcome) for outcome in outcomes], indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="keys of the recipe to set, such as data.dimensions=2")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--hippocampus", type=Path, help="a dataset with a validation list, besides the phantom")
    parser.add_argument("--no-phantom", action="store_true", help="leave the phantom out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a few steps and one seed")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _datasets(options: argparse.Namespace) -> list[tuple[str, Path, float]]:
    found = []
    if not options.no_phantom:
        labelled = 5 if options.quick else 50
        folder = options.output / f"phantom-{labelled}"
        if not (folder / "dataset.json").exists():
            list(write_phantom(folder, labelled=labelled, unlabelled=0, seed=PHANTOM_SEED))
        found.append(("phantom", folder, 0.4))
    if options.hippocampus:
        found.append(("hippocampus", options.hippocampus, 0.2))
    return found


def _wnet(data: str, seed: int, run: Path) -> Outcome:
    summary = json.loads((run / "summary.json").read_text())
    dice = {row["name"]: row["metrics"]["dice"]["mean"] for row in summary["classes"]}
    voxels = [row["voxels"] for row in summary["segments"]]
    return _outcome(data, "W-Net", seed, dice, summary["mean_dice"], voxels)


def _outcome(data: str, method: str, seed: int, dice: dict[str, float], mean: float, voxels: Sequence[int]) -> Outcome:
    shares = np.array(voxels) / sum(voxels)
    return Outcome(data, method, seed, dice, mean, int((shares > 0).sum()), len(voxels), round(float(shares.min()), 4))


def _peers(data: str, seed: int, run: Path, source: Path, count: int) -> list[Outcome]:
    """Cluster the intensities of the run's training scans, and score its validation cases."""
    dataset = open_dataset(source)
    cases = {case.id: case for case in dataset.cases}
    split = json.loads((run / "split.json").read_text())
    rng = np.random.default_rng(seed)
    scans = [_features(cases[name]) for name in split["unlabelled"]]
    sample = np.concatenate(
        [scan[rng.choice(len(scan), min(len(scan), VOXELS_A_SCAN), replace=False)] for scan in scans]
    )
    tested = [cases[name] for name in split["validation"]]
    labels = dataset.labels or LABELS
    peers = {
        "K-means": KMeans(count, n_init=10, random_state=seed),
        "Gaussian mixture": GaussianMixture(count, n_init=3, max_iter=300, random_state=seed),
    }
    return [_score(data, name, seed, peer.fit(sample).predict, tested, labels, count) for name, peer in peers.items()]


def _features(case: Case) -> NDArray[np.float32]:
    """Return a scan's standardised voxels, ``[voxels, channels]``, as the network is given them."""
    voxels = torch.from_numpy(np.concatenate([nifti.load(path).voxels for path in case.images]).astype(np.float32))
    return Normalized("image")({"image": voxels})["image"].flatten(1).T.numpy()


def _score(
    data: str,
    method: str,
    seed: int,
    predict: Callable[[Any], Any],
    cases: Sequence[Case],
    labels: Mapping[int, str],
    count: int,
) -> Outcome:
    masks = [nifti.load(case.label) for case in cases if case.label]
    truths = [mask.labels for mask in masks]
    found = [predict(_features(case)).reshape(truth.shape) for case, truth in zip(cases, truths, strict=True)]
    matches = match_segments(zip(truths, found, strict=True), list(labels), range(count))
    names = np.array([match.label or 0 for match in matches])
    results = [
        result
        for case, mask, segments in zip(cases, masks, found, strict=True)
        for result in score_case(case.id, mask.labels, names[segments], labels, mask.spacing_mm)
    ]
    summary = summarise(results)
    dice = {row.name: row.metrics["dice"].mean or 0.0 for row in summary.classes}
    return _outcome(data, method, seed, dice, summary.mean_dice or 0.0, [match.voxels for match in matches])


def _print_table(outcomes: Sequence[Outcome]) -> None:
    print("\n| Scans | Method | Mean Dice (± over seeds) | Each seed | By class | Classes used | Smallest share |")
    print("|---|---|---|---|---|---|---|")
    for data, method in dict.fromkeys((outcome.data, outcome.method) for outcome in outcomes):
        rows = [outcome for outcome in outcomes if (outcome.data, outcome.method) == (data, method)]
        means = [row.mean_dice for row in rows]
        spread = f"± {statistics.stdev(means):.3f}" if len(means) > 1 else ""
        classes = ", ".join(f"{name} {statistics.fmean(row.dice[name] for row in rows):.3f}" for name in rows[0].dice)
        used = f"{min(row.used for row in rows)} of {rows[0].segments}"
        share = f"{min(row.smallest_share for row in rows):.1%}"
        each = ", ".join(f"{mean:.3f}" for mean in means)
        print(f"| {data} | {method} | {statistics.fmean(means):.3f} {spread} | {each} | {classes} | {used} | {share} |")


if __name__ == "__main__":
    main()
