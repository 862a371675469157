"""Load parts that may come from plugins: a run's network, metrics and post-processing, and metrics of any masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.errors import Problem, UserError
from pipeline.metrics.registered import METRICS, try_metrics
from pipeline.networks import NETWORKS
from pipeline.plugins import load_plugins
from pipeline.prediction.postprocessing import POSTPROCESSING as STEPS
from pipeline.runs.folder import RunFolder
from pipeline.runs.predictors import build_metrics
from pipeline.runs.stored import POSTPROCESSING, read_own
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.metrics.registered import CaseMetric
    from pipeline.planning.settings import Settings
    from pipeline.prediction.postprocessing import LabelStep
    from pipeline.registry import Registry
    from pipeline.types import Task


def chosen_steps(run: Path, task: Task) -> tuple[LabelStep, ...]:
    """Read the post-processing that a cross-validation has chosen; none, with a note, before it is finished.

    Raises:
        UserError: The file is damaged, or has a label that the run does not have.
    """
    if not (run / POSTPROCESSING).exists():
        note(f"{run} is not finished, so no post-processing was chosen; train goes on with --resume")
        return ()
    rows = read_own(run, POSTPROCESSING)["steps"]
    steps: tuple[LabelStep, ...] = tuple(STEPS.build(row["step"], row["options"]) for row in rows)
    if unknown := [step.label for step in steps if step.label not in task.labels]:
        message = f"changes the label {unknown[0]}, which the run does not know"
        remedy = "bring the file back"
        problem = Problem(str(run / POSTPROCESSING), "damaged-run", message, remedy)
        raise UserError("The run's folder is not whole.", [problem])
    return steps


def load_metrics(run: Path, settings: Settings) -> dict[str, CaseMetric]:
    """Build the further metrics of a run, by name; its plugins are loaded if they have to register one.

    Raises:
        UserError: No loaded file registers a metric, or a metric refuses its options.
    """
    _ready(run, METRICS, [choice.metric for choice in settings.metrics])
    messages = [text for choice in settings.metrics for _, text in METRICS.problems(choice.metric, choice.options)]
    if messages:
        problem = Problem(str(run), "bad-component", messages[0], "use a checkpoint that Fewmask wrote")
        raise UserError("The cases cannot be scored.", [problem])
    return build_metrics(settings)


def metrics_named(names: Sequence[str], plugins: Sequence[Path]) -> dict[str, CaseMetric]:
    """Return registered metrics by name.

    Args:
        names: Of the metrics.
        plugins: Files that register them, where they are not ours.

    Raises:
        UserError: There is no such metric, it needs options, or it measures no number.
    """
    load_plugins(plugins)
    remedy = "`fewmask components` lists ours; --plugin FILE brings others; an option of it needs a default"
    problems = [
        Problem(name, "bad-component", text, remedy) for name in names for _, text in METRICS.problems(name, {})
    ]
    if problems:
        raise UserError("The masks cannot be scored.", problems)
    metrics = {name: METRICS.build(name, {}) for name in names}
    try_metrics(metrics)
    return metrics


def metrics_of(
    given: Mapping[str, CaseMetric | str] | Sequence[str], plugins: Sequence[Path] = ()
) -> dict[str, CaseMetric]:
    """Return metrics by the names of their columns.

    Args:
        given: The metrics by these names, each as such or by its registered name; or registered names alone.
        plugins: As for :func:`metrics_named`.

    Raises:
        UserError: There is no such metric, its name is that of another column, or it measures no number.
    """
    if not isinstance(given, Mapping):
        return metrics_named(given, plugins)
    named = metrics_named([each for each in given.values() if isinstance(each, str)], plugins)
    metrics = {name: named[each] if isinstance(each, str) else each for name, each in given.items()}
    problems = [
        Problem(name, "bad-component", "is the name of another column", "choose another name")
        for name in metrics
        if name in METRICS.taken
    ]
    if problems:
        raise UserError("The masks cannot be scored.", problems)
    try_metrics(metrics)
    return metrics


def load_parts(run: Path, settings: Settings) -> None:
    """Load the plugins of a run if they have to register its network or its post-processing.

    Raises:
        UserError: A plugin may not be loaded, or none of them registers what the recipe names.
    """
    _ready(run, NETWORKS, [settings.network.name])
    _ready(run, STEPS, [choice.step for choice in settings.postprocessing])


def _ready(run: Path, registry: Registry, names: Sequence[str]) -> None:
    """Load the plugins of a run if one of some components is not registered.

    Raises:
        UserError: A plugin may not be loaded, or none of them registers the component.
    """
    if all(name in registry for name in names):
        return
    RunFolder(run).load_plugins()
    if unknown := [name for name in names if name not in registry]:
        message = f"needs the {registry.name} {unknown[0]!r}, which no loaded file registers"
        problem = Problem(str(run), f"unknown-{registry.name}", message, "name its file: --plugin FILE")
        raise UserError("The model cannot be built.", [problem])
