"""How often 95 % intervals hold what they are to hold: ours of means and medians, and what is usual for means.

    python benchmarks/bench_intervals.py [--quick] [--draws 4000] [--json FILE]

Patients are drawn many times from distributions whose mean and median are known, from 6 to 100 at a time, since fewer
have no interval. An interval holds its level where it holds the true value in 95 % of the draws; with 4000 draws the
share itself is sure to 0.7 %. The shapes are those that Dice and differences of Dice have: most near 1, a few failures
at 0, ties, two humps, heavy tails, patients with several cases, classes that some patients lack.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import stats

from pipeline.reports.intervals import mean_interval, mean_of_means, median_interval

SIZES = (6, 8, 10, 15, 20, 30, 40, 60, 100)
TRUTH = 1_000_000
SEED = 7
SPAN = (0.0, 1.0)
Shape = Callable[[np.random.Generator, int], np.ndarray]


def failing(share: float) -> Shape:
    """Dice near 0.94 where a share of the patients has 0."""
    return lambda rng, n: np.where(rng.random(n) < share, 0.0, rng.beta(30, 2, n))


MEANS: dict[str, Shape] = {
    "normal": lambda rng, n: np.clip(rng.normal(0.8, 0.05, n), 0, 1),
    "uniform": lambda rng, n: rng.random(n),
    "skewed, near 1": lambda rng, n: rng.beta(20, 1, n),
    "10 % fail": failing(0.1),
    "3 % fail": failing(0.03),
    "1 % fail": failing(0.01),
    "0 or 0.9": lambda rng, n: np.where(rng.random(n) < 0.3, 0.0, 0.9),
    "0 or 0.9, mostly 0": lambda rng, n: np.where(rng.random(n) < 0.9, 0.0, 0.9),
    "three values": lambda rng, n: rng.choice([0.5, 0.75, 1.0], n, p=[0.2, 0.3, 0.5]),
    "heavy tail": lambda rng, n: 1 - np.minimum(1, 0.05 * np.exp(1.2 * rng.normal(size=n))),
}
MEDIANS: dict[str, Shape] = {
    "normal": lambda rng, n: rng.normal(0.01, 0.02, n),
    "skewed": lambda rng, n: rng.exponential(0.02, n) - 0.01,
    "10 % flip": lambda rng, n: np.where(rng.random(n) < 0.1, rng.choice([-0.9, 0.9], n), rng.normal(0.01, 0.02, n)),
    "half unchanged": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, rng.normal(0.01, 0.02, n)),
    "three values": lambda rng, n: rng.choice([-0.01, 0.0, 0.01], n, p=[0.2, 0.45, 0.35]),
    "two humps": lambda rng, n: rng.normal(np.where(rng.random(n) < 0.4, -0.3, 0.3), 0.05),
    "heavy tail": lambda rng, n: 0.02 * rng.standard_t(1.5, n),
}


def several_cases(rng: np.random.Generator, n: int) -> tuple[np.ndarray, list[str]]:
    """Patients of one to four cases that are alike; those with many fail more often."""
    sizes = rng.integers(1, 5, n)
    level = np.where(rng.random(n) < 0.04 * sizes, 0.0, rng.beta(20, 3, n))
    patients = np.repeat(np.arange(n), sizes)
    return np.clip(level[patients] + rng.normal(0, 0.02, len(patients)), 0, 1)[:, None], [str(p) for p in patients]


def some_lack_a_class(rng: np.random.Generator, n: int) -> tuple[np.ndarray, list[str]]:
    """Two classes, the second in two patients of five, where a fifth of them fails."""
    second = np.where(rng.random(n) < 0.6, np.nan, np.where(rng.random(n) < 0.2, 0.0, rng.beta(8, 2, n)))
    return np.stack([rng.beta(30, 2, n), second], axis=1), [str(p) for p in range(n)]


TABLES = {"several cases a patient": several_cases, "a class that some lack": some_lack_a_class}


def percentile(values: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The percentile bootstrap, ``[draws, patients]`` to the ends of each draw."""
    n = values.shape[1]
    means = rng.multinomial(n, np.full(n, 1 / n), 2000) / n @ values.T
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


def students(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t."""
    with warnings.catch_warnings():
        # Numbers all alike have no spread: scipy says so, and gives no interval.
        warnings.simplefilter("ignore")
        found = stats.ttest_1samp(values, 0.0, axis=1).confidence_interval(0.95)
    mean = values.mean(axis=1)
    return np.where(np.isnan(found.low), mean, found.low), np.where(np.isnan(found.high), mean, found.high)


def johnsons(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Student's t, moved by the skewness (Johnson 1978)."""
    low, high = students(values)
    n, apart = values.shape[1], values - values.mean(axis=1, keepdims=True)
    variance = apart.var(axis=1, ddof=1)
    moved = np.divide((apart**3).mean(axis=1), 6 * n * variance, out=np.zeros_like(low), where=variance > 0)
    return low + moved, high + moved


def share(truth: float, low: np.ndarray, high: np.ndarray) -> dict[str, float]:
    """How often the truth is between the ends, and how far they are apart on average."""
    held = (low <= truth + 1e-9) & (truth - 1e-9 <= high)
    return {"coverage": round(float(held.mean()), 4), "width": round(float((high - low).mean()), 4)}


@lru_cache
def truth_of(shape: Callable, found: Callable) -> float:
    """What an interval is to hold, of a million patients or a quarter of that with all their cases."""
    drawn = shape(np.random.default_rng(SEED), TRUTH // 4 if shape in TABLES.values() else TRUTH)
    return float(found(drawn[0] if isinstance(drawn, tuple) else drawn))


def cover_mean(shape: Shape, n: int, draws: int, usual: bool = True) -> dict[str, dict[str, float]]:
    """Draw ``n`` patients many times; the coverage of the intervals of their mean by method."""
    rng, truth = np.random.default_rng([SEED, n]), truth_of(shape, np.mean)
    values = np.stack([shape(rng, n) for _ in range(draws)])
    names = [str(p) for p in range(n)]
    ours = np.array([mean_interval(row[:, None], names, SPAN) for row in values]).T
    found = {"ours": share(truth, *ours)}
    if usual:
        found["bootstrap"] = share(truth, *percentile(values, rng))
        found |= {"t": share(truth, *students(values)), "Johnson's t": share(truth, *johnsons(values))}
    return found


def cover_table(table: Callable, n: int, draws: int) -> dict[str, dict[str, float]]:
    """As :func:`cover_mean`, of cases of patients and classes."""
    rng, truth = np.random.default_rng([SEED, n]), truth_of(table, mean_of_means)
    return {"ours": share(truth, *np.array([mean_interval(*table(rng, n), SPAN) for _ in range(draws)]).T)}


def cover_median(shape: Shape, n: int, draws: int) -> dict[str, dict[str, float]]:
    """As :func:`cover_mean`, of the median."""
    rng, truth = np.random.default_rng([SEED, n]), truth_of(shape, np.median)
    # Ties at the median are the median itself; of a continuous shape it is known to a few millionths.
    found = np.array([median_interval(np.round(shape(rng, n), 6)) for _ in range(draws)]).T
    return {"ours": share(round(truth, 6), *found)}


def main() -> None:
    """Measure all shapes and sizes, and print a table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--quick", action="store_true", help="300 draws of 6, 10 and 40 patients")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sizes, draws = ((6, 10, 40), 300) if given.quick else (SIZES, given.draws)
    found = {
        "means": {name: {n: cover_mean(shape, n, draws) for n in sizes} for name, shape in MEANS.items()}
        | {name: {n: cover_table(table, n, draws) for n in sizes} for name, table in TABLES.items()},
        "medians": {name: {n: cover_median(shape, n, draws) for n in sizes} for name, shape in MEDIANS.items()},
    }
    for kind, method in (
        ("means", "ours"),
        ("means", "t"),
        ("means", "Johnson's t"),
        ("means", "bootstrap"),
        ("medians", "ours"),
    ):
        for value in ("coverage", "width"):
            print(f"\n{kind}, {method}: {value}\n| Shape | {' | '.join(map(str, sizes))} |")
            print("|---" * (len(sizes) + 1) + "|")
            for name, by_size in found[kind].items():
                if method in by_size[sizes[0]]:
                    print(f"| {name} | {' | '.join(f'{by_size[n][method][value]:.3f}' for n in sizes)} |")
    least = min(by_size[n]["ours"]["coverage"] for kind in found.values() for by_size in kind.values() for n in sizes)
    print(f"\nthe least coverage of ours: {least:.3f} with {draws} draws")
    if given.json:
        given.json.write_text(json.dumps({"draws": draws} | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
