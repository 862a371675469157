"""From settings to the objective: its terms with their losses, for classes or for regions."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.errors import Problem, UserError, nearest
from pipeline.losses import LOSSES
from pipeline.losses.objective import Objective, Term
from pipeline.losses.regions import RegionLoss, classes_of_regions
from pipeline.plugins import PLUGIN_FAILED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.planning.settings import Settings
    from pipeline.types import Region


def build_objective(
    settings: Settings, labels: Mapping[int, str] | None = None, regions: Sequence[Region] = ()
) -> Objective:
    """Build the objective; the second term of the same loss is named ``LOSS_2``, and so on.

    A loss whose option ``spacing_mm`` is ``data`` gets the spacing of the prepared scans.

    Args:
        settings: The settings, with the terms.
        labels: Values and names of the classes, background included, by which ``class_weights`` may be named; None for
            an objective that is not computed.
        regions: What is trained in the place of classes. Each term is then the mean over regions; of a region only
            what is inside takes part (``include_background``), unless the recipe says otherwise.

    Raises:
        UserError: Class weights name a class that is not there.
    """
    seen: Counter[str] = Counter()
    terms = []
    for n, term in enumerate(settings.objective):
        options = dict(term.options)
        if options.get("spacing_mm") == "data":
            options["spacing_mm"] = settings.data.spacing_mm
        if labels is not None and isinstance(options.get("class_weights"), dict):
            options["class_weights"] = _in_order(options["class_weights"], labels, f"objective.{n}.options")
        loss = LOSSES.build(term.loss, options)
        _refuse_unready(loss, f"objective.{n}.loss")
        judges = term.judges or loss.judges
        against = term.against or loss.against
        if labels is not None and regions:
            loss = _of_regions(term.loss, options, (judges, *against), labels, regions)
        terms.append(
            Term(
                name=numbered(term.loss, seen),
                loss=loss,
                on=term.on,
                judges=judges,
                against=against,
                weight=term.weight,
                ramp=term.ramp,
            )
        )
    return Objective(terms)


def _of_regions(
    name: str, options: dict[str, Any], names: Sequence[str], labels: Mapping[int, str], regions: Sequence[Region]
) -> RegionLoss:
    """Build a loss of each region; the weights of classes become those of what is outside and inside of it."""
    if "include_background" in LOSSES.options(name):
        options = {"include_background": False} | options
    values = sorted(labels)
    losses = []
    for region in regions:
        own = options
        weights = options.get("class_weights")
        if weights is not None and len(weights) == len(values):
            own = options | {"class_weights": [weights[0], weights[values.index(region.label)]]}
        losses.append(LOSSES.build(name, own))
    return RegionLoss(losses, names, classes_of_regions(regions, labels))


def _refuse_unready(loss: Any, where: str) -> None:
    """Refuse a loss whose constructor has not called that of its base, without which PyTorch cannot call it."""
    if "_modules" not in vars(loss):
        kind = type(loss)
        message = f"{inspect.getfile(kind)}: {kind.__name__}.__init__ does not call super().__init__()"
        raise UserError("A plugin failed.", [Problem(where, PLUGIN_FAILED, message, "correct the plugin")])


def _in_order(weights: Mapping[str, float], labels: Mapping[int, str], where: str) -> list[float]:
    """Return the weight of each class in the order of their values; 1 for one that is not named."""
    names = [labels[value] for value in sorted(labels)]
    problems = [
        Problem(f"{where}.class_weights", "no-such-label", f"no label is called {name!r}", nearest(name, names))
        for name in weights
        if name not in names
    ]
    if problems:
        raise UserError("The objective does not fit the labels.", problems)
    return [weights.get(name, 1.0) for name in names]


def numbered(name: str, seen: Counter[str]) -> str:
    """Return a name, with its number behind it from the second time on."""
    seen[name] += 1
    if seen[name] == 1:
        return name
    return f"{name}_{seen[name]}"
