"""The plot of a study: Dice over the number of labelled patients, a line for each method, a dot for each training."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean
from typing import TYPE_CHECKING

from pipeline.files import atomic_write
from pipeline.reports.plots import COLOURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.studies.results import TrainingResult


def draw_study(path: Path, trainings: Sequence[TrainingResult]) -> None:
    """Draw the trainings of a study as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    counts = sorted({row.labelled for row in trainings})
    methods: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in trainings:
        if row.dice is not None:
            methods[row.method][row.labelled].append(row.dice)
    for number, (method, found) in enumerate(methods.items()):
        colour = COLOURS[number % len(COLOURS)]
        # Methods are shifted sideways, so that their dots do not hide each other.
        aside = 0.06 * (number - (len(methods) - 1) / 2)
        places = {count: counts.index(count) + aside for count in sorted(found)}
        axes.plot([*places.values()], [fmean(found[count]) for count in places], color=colour, label=method, lw=1.6)
        for count, place in places.items():
            axes.plot([place] * len(found[count]), found[count], "o", color=colour, ms=4, alpha=0.6)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(xlabel="patients with masks", ylabel="mean Dice of the validation patients")
    axes.grid(color="#e2dfd9", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_write(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)
