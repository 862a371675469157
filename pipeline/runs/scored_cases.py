"""Find the cases to score a run on, its own or those of another dataset, and the folder of their scores."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count
from typing import TYPE_CHECKING

from pipeline.data.checked import changed_files
from pipeline.data.codes import is_warning
from pipeline.data.layouts import LAYOUTS, Dataset, open_dataset
from pipeline.data.layouts.patterns import first_groups
from pipeline.data.regions import with_regions
from pipeline.data.relabelling import relabel
from pipeline.errors import Problem, UserError, listed
from pipeline.runs.checkpoint_facts import facts_of
from pipeline.runs.folder import RunFolder
from pipeline.runs.stored import SPLIT, SUMMARY, read_config, read_own
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pipeline.data.index import Index
    from pipeline.data.inspection import CaseFacts
    from pipeline.planning.settings import Settings
    from pipeline.runs.targets import OpenAs
    from pipeline.types import Case, Task, Which


def unseen_cases(run: Path, index: Index) -> tuple[Case, ...]:
    """Return the cases of a dataset of which the run has seen no channel in training, in whatever form it was stored.

    Raises:
        UserError: There is none, or the run's index is damaged.
    """
    seen = _channels_of(run, "labelled", "unlabelled")
    unseen = tuple(c for c in index.dataset.cases if seen.isdisjoint(chain(*index.facts[c.id].known_by)))
    if not unseen:
        message = "has no labelled case that the run was not trained on"
        remedy = "name a dataset with other cases"
        raise UserError(
            "There is nothing to validate on.", [Problem(str(index.dataset.source), "all-seen", message, remedy)]
        )
    return unseen


def count_trained_on(run: Path, facts: Iterable[CaseFacts]) -> int:
    """Return of how many scans a run has seen a channel, together with its mask, in training.

    Raises:
        UserError: The run's split or index is damaged.
    """
    seen = _channels_of(run, "labelled")
    return sum(not seen.isdisjoint(chain(*found.known_by)) for found in facts)


def _channels_of(run: Path, *parts: str) -> set[str]:
    """Return what the channels of the scans of parts of a run's split are known by."""
    split = read_own(run, SPLIT)
    cases = {case for part in parts for case in split[part]}
    known = facts_of(run, cases)
    return {key for case in cases for keys in known[case].known_by for key in keys}


def own_dataset(run: Path, part: str) -> tuple[Dataset, dict[str, CaseFacts]]:
    """Return a run's own dataset, cut to one part of its split, and what the check found when the run began.

    Raises:
        UserError: A case is gone or has changed.
    """
    # The run's config.yaml has the dataset's path; a checkpoint has none.
    told = read_config(run)
    if told.layout.name not in ("auto", *LAYOUTS.names):
        RunFolder(run).load_plugins()
    dataset = open_dataset(told.dataset, told.root, told.layout.name, told.layout.options)
    if told.labels:
        dataset = relabel(dataset, told.labels)
    dataset = with_regions(dataset, told.regions)
    wanted = read_own(run, SPLIT)[part]
    missing = [name for name in wanted if name not in {case.id for case in dataset.cases}]
    if missing:
        problems = [
            Problem(name, "case-gone", f"is no longer in {dataset.source}", "bring it back") for name in missing
        ]
        raise UserError("The run's cases are not all there.", problems)
    # What is odd about the dataset was said when it was trained on.
    facts = facts_of(run, wanted)
    cases = (case for case in dataset.cases if case.id in wanted)
    annotated = tuple(replace(case, annotated=facts[case.id].annotated) for case in cases)
    own = replace(dataset, cases=annotated, problems=())
    problems = [problem for case in own.cases for problem in changed_files(case, facts[case.id])]
    if problems:
        raise UserError(f"The dataset of {run} has changed.", problems)
    return own, facts


def own_cases(run: Path) -> tuple[Dataset, dict[str, CaseFacts]]:
    """Return a run's own validation cases as :func:`own_dataset` does; refuse a run that has none."""
    own, facts = own_dataset(run, "validation")
    if not own.cases:
        message = "has no labelled case of its own"
        if read_config(run).data.validation == "none":
            message = "was trained on every mask (data.validation is none), and its Dice on those would flatter"
        remedy = "name a dataset with labels: --dataset DATASET"
        raise UserError("There is nothing to validate on.", [Problem(str(run), "no-labels", message, remedy)])
    return own, facts


def other_cases(source: Path, task: Task, open_as: OpenAs, settings: Settings) -> Dataset:
    """Return another dataset, cut to its validation list, or without one to all its labelled cases.

    Args:
        source: The dataset.
        task: What the run predicts.
        open_as: Root, layout and options, as for :func:`open_dataset`.
        settings: Of the run; the labels that it chose among those of its dataset are chosen here too, and its pattern
            of patients tells whose the scans are, if it is in all their names and nothing else tells.

    Raises:
        UserError: It has no labelled case, cannot be opened, lacks a label that the run chose, or has one of the run's
            names for another value.
    """
    dataset = _with_patients(open_dataset(source, *open_as), settings.layout.options.get("patient"))
    chosen = settings.labels
    if chosen or task.regions:
        if chosen:
            dataset = relabel(dataset, chosen, to_train=False)
        regions = {task.labels[region.label]: region.values for region in task.regions}
        dataset = with_regions(dataset, regions, to_train=False)
        if problems := [problem for problem in dataset.problems if not is_warning(problem)]:
            raise UserError(f"{source} has not the labels that the run was trained on.", problems)
    elif settings.segments is None:  # Segments are named after what they are matched with.
        _compare_names(source, dataset.labels or {}, task.labels)
    held_out = tuple(case for case in dataset.cases if case.role == "validation")
    cases = held_out or tuple(case for case in dataset.cases if case.label)
    if not cases:
        problem = Problem(str(source), "no-labels", "has no labelled case to validate on", "name a dataset with labels")
        raise UserError("There is nothing to validate on.", [problem])
    return replace(dataset, cases=cases, channels=dataset.channels or task.channels)


def _with_patients(dataset: Dataset, pattern: str | None) -> Dataset:
    """Return a dataset whose patients a pattern tells, if it is in the names of all cases and nothing else tells."""
    if pattern is None or dataset.names_patients:
        return dataset
    found = first_groups(pattern, [case.id for case in dataset.cases])
    if None in found:
        return dataset
    cases = (replace(case, patient=patient or case.id) for case, patient in zip(dataset.cases, found, strict=True))
    return replace(dataset, cases=tuple(cases), names_patients=True)


def _compare_names(source: Path, labels: Mapping[int, str], known: Mapping[int, str]) -> None:
    """Refuse a dataset in which another label has the name of one of the run's; note other names.

    Labels are scored by their values.
    """
    values = {name: value for value, name in labels.items()}
    remedy = "correct the name in either, or save the masks with the run's values"
    moved = {name: value for value, name in known.items() if values.get(name, value) != value}
    if moved:
        problems = [
            Problem(f"{source}: labels", "bad-labels", f"has {name} as {values[name]}, and the run as {value}", remedy)
            for name, value in moved.items()
        ]
        raise UserError(f"{source} has not the labels that the run was trained on.", problems)
    both = [(value, labels[value], name) for value, name in known.items() if value in labels]
    if other := [f"{value} is {theirs}, not {own}" for value, theirs, own in both if theirs != own]:
        note(f"{source} has other names than the run, and labels are scored by their values: {listed(other, 4)}")


def folder_of_scores(run: Path, source: Path | None, which: Which) -> Path:
    """Return where scores go: of the run's own cases, or of another dataset, each of those in a folder of its own."""
    if source is None:
        if which == "best":
            return run / "validation" / "best"
        return run
    place = source.resolve()
    scores = run.with_name(f"{run.stem}-validation") if run.is_file() else run / "validation"
    name = f"{place.parent.name}-{place.stem}" if place.is_file() else place.name
    if which == "best" or name == "best":  # The run's own cases, by its best checkpoint, are in `validation/best`.
        name = f"{name}-{which}"
    numbered = (scores / f"{name}-{number}" for number in count(2))
    return next(folder for folder in chain([scores / name], numbered) if not _is_of_another(folder, place))


def _is_of_another(folder: Path, dataset: Path) -> bool:
    """Tell whether a folder has the scores of another dataset of the same name."""
    if not (folder / SUMMARY).is_file():
        return False
    return read_own(folder, SUMMARY)["dataset"] not in (None, str(dataset))
