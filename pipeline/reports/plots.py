"""The picture of a training that is still going on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.files import atomic_write
from pipeline.reports.charts import thinned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    Points = Sequence[tuple[float, float]]

# Okabe and Ito's colours, the same as the page's.
COLOURS = ("#00598f", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c646c")


def draw_training(path: Path, terms: Mapping[str, Points], dice: Points | None) -> None:
    """Draw the terms of the loss, on a logarithmic axis, above the validation Dice.

    Args:
        path: The PNG file; replaced whole.
        terms: Steps and values of each term.
        dice: Steps and mean Dice of the validations; None for a training that has none.
    """
    # Without pyplot, which would choose a screen and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    plots = figure.subplots(1 if dice is None else 2, 1, sharex=True, squeeze=False)[:, 0]
    upper = plots[0]
    for n, (name, points) in enumerate(terms.items()):
        drawn = [point for point in thinned(points) if point[1] > 0]
        if drawn:
            upper.plot(*zip(*drawn, strict=True), label=name, color=COLOURS[n % 7], lw=1.6)
    upper.set(yscale="log", ylabel="loss, and its terms unweighted")
    if dice is not None:
        _draw_dice(plots[1], dice)
    plots[-1].set(xlabel="step")
    for axes in plots:
        axes.grid(color="#e2dfd9", lw=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    if upper.lines:
        upper.legend(frameon=False, ncols=4, fontsize=9)
    with atomic_write(path) as partial:
        FigureCanvasAgg(figure).print_png(partial)


def _draw_dice(axes: Axes, dice: Points) -> None:
    if dice:
        axes.plot(*zip(*dice, strict=True), color=COLOURS[0], marker="o", ms=4, lw=1.6)
        axes.set_title(f"last {dice[-1][1]:.4f}, best {max(value for _, value in dice):.4f}", loc="right", fontsize=9)
    axes.set(ylabel="validation Dice")
