"""Check, train, validate, predict and evaluate: the one file that wires the parts together."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from rich.console import Console
from rich.progress import track

from pipeline import __version__, build, config
from pipeline.checkpoints import Which, checkpoint_path, load_checkpoint, save_checkpoint
from pipeline.data import nifti
from pipeline.data.cache import Cache
from pipeline.data.check import Check, Index, examine_pair
from pipeline.data.layouts import Dataset, open_dataset, scans_in
from pipeline.data.loaders import step_loader
from pipeline.data.splits import Split, split_cases
from pipeline.engines.devices import find_hardware
from pipeline.engines.evaluator import SegmentationEvaluator
from pipeline.engines.handlers import CsvLog, EveryNSteps, History, ProgressBar, tensorboard_handlers
from pipeline.engines.trainer import SegmentationTrainer
from pipeline.errors import Problem, UserError, nearest
from pipeline.losses import LOSSES
from pipeline.metrics.overlap import score_case
from pipeline.networks import NETWORKS
from pipeline.planning.plan import resolve
from pipeline.plugins import load_plugins
from pipeline.reports.files import write_cases_csv, write_json
from pipeline.reports.summary import Summary, summarise
from pipeline.types import Case, CaseResult, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.config import Recipe
    from pipeline.engines.predictor import Predictor

CONFIG, SPLIT, INDEX = "config.yaml", "split.json", "index.json"
PROGRESS = Console(stderr=True)


def check(source: Path, root: Path | None = None) -> Index:
    """Look at every file of a dataset.

    Raises:
        UserError: With every problem of every file.
    """
    return _check(open_dataset(source, root))


def _check(dataset: Dataset) -> Index:
    look = Check(dataset)
    for _ in _progress(look, "checking", len(look)):
        pass
    return look.index()


def _progress(steps: Any, what: str, total: int) -> Iterator[Any]:
    yield from track(steps, what, total, console=PROGRESS, transient=True)


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe with its overrides, load its plugins, and check everything in it.

    Raises:
        UserError: With every mistake of the recipe.
    """
    raw = config.read(path, overrides)
    plugins = raw.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, str) for plugin in plugins):
        load_plugins([Path(plugin) for plugin in plugins])
    return config.parse(raw, str(path), LOSSES, NETWORKS)


def train(recipe: Recipe, run: Path, *, resume: bool = False) -> Summary:
    """Check the dataset, train, and validate the last weights.

    Args:
        recipe: What to do.
        run: The run's folder: ``config.yaml``, ``split.json``, ``index.json``, ``history.csv``, ``validation.csv``,
            ``checkpoints/``, ``cache/``, ``cases.csv``, ``summary.json``.
        resume: Go on with the run that is there; starts one where there is none.

    Raises:
        UserError: The recipe or the dataset has problems, or the folder holds a run and ``resume`` is off, or the run
            that it holds is another one.
    """
    if (run / CONFIG).exists() and not resume:
        remedy = "add --resume to go on with it, or name another --output"
        raise UserError("Nothing was started.", [Problem(str(run), "run-exists", "this folder holds a run", remedy)])
    index = check(recipe.dataset, recipe.root)
    split = split_cases(index.dataset, recipe.data.validation_fraction, recipe.seed)
    _refuse_idle_terms(recipe, split)
    recipe = _absolute(resolve(recipe, index, find_hardware(recipe.device)))
    training = _Training(run, recipe, index, split)
    training.open_folder()
    if training.done < recipe.max_steps:
        training.run_to_end()
        return _report(run, training.results, "last", training.done)
    return validate(run)[0]


def _refuse_idle_terms(recipe: Recipe, split: Split) -> None:
    message = "looks at unlabelled scans, and the dataset has none"
    remedy = "add scans without masks, or leave the term out, as configs/supervised.yaml does"
    problems = [
        Problem(f"objective.{n}", "no-unlabelled", f"{term.loss} {message}", remedy)
        for n, term in enumerate(recipe.objective)
        if term.on == "unlabelled" and not split.unlabelled
    ]
    if problems:
        raise UserError("The recipe does not fit the dataset.", problems)


def _absolute(recipe: Recipe) -> Recipe:
    """Let a run's own recipe name the same files wherever it is read from."""
    root = recipe.root and recipe.root.resolve()
    plugins = tuple(path.resolve() for path in recipe.plugins)
    return recipe.model_copy(update={"dataset": recipe.dataset.resolve(), "root": root, "plugins": plugins})


@dataclass
class _Training:
    """One training: its folder, its data, and all that goes into a checkpoint."""

    run: Path
    recipe: Recipe
    index: Index
    split: Split
    done: int = 0
    best: float | None = None
    results: list[CaseResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.task = Task(self.index.labels, self.index.channels)
        self.step = build.build_step(self.recipe, self.task)

    def open_folder(self) -> None:
        """Write what the run is, or take up what is there."""
        stored = self.run / CONFIG
        if stored.exists():
            _refuse_changes(config.read(stored), yaml.safe_load(config.dump(self.recipe)), self.run)
            self._restore()
        self.run.mkdir(parents=True, exist_ok=True)
        write_json(self.run / SPLIT, self.split.as_dict())
        write_json(self.run / INDEX, self.index.as_rows())
        # Last, since a folder with a config.yaml is a run.
        stored.write_text(config.dump(self.recipe), encoding="utf-8")

    def _restore(self) -> None:
        path = checkpoint_path(self.run, "last")
        if path.exists():
            state = load_checkpoint(path)
            self.step.load_state_dict(state)
            self.done, self.best = state["step"], state["best"]

    def run_to_end(self) -> None:
        """Train from where the run is to its last step."""
        recipe, cache = self.recipe, Cache(self.run / "cache", self.index, build.build_grid(self.recipe))
        cases = self.split.labelled + self.split.unlabelled
        for _ in _progress(cache.fill(cases), "preparing", len(cases)):
            pass
        batches = build.build_batches(recipe, self.split, cache)
        trainer = SegmentationTrainer(
            step=self.step,
            loader=step_loader(batches, self.done, recipe.max_steps, build.resolved(recipe.data.workers)),
            max_steps=recipe.max_steps,
            epoch_length=math.ceil(len(self.split.labelled) / build.resolved(recipe.data.batch_size)),
            device=torch.device(recipe.device),
            handlers=self._handlers(),
            done=self.done,
        )
        trainer.run()
        self.done = recipe.max_steps

    def _handlers(self) -> list[Any]:
        bar = ProgressBar(PROGRESS, self.recipe.max_steps)
        validations = CsvLog(self.run / "validation.csv", ["step", "mean_dice"], self.done)
        handlers: list[Any] = [
            History(CsvLog(self.run / "history.csv", ["step", "loss", *self.step.objective.names], self.done)),
            bar,
            # Validation first: a checkpoint of the same step then knows the best score.
            EveryNSteps(self.recipe.validate_every, lambda step: self._validate(step, validations, bar)),
            EveryNSteps(self.recipe.checkpoint_every, lambda step: self._save("last", step)),
        ]
        return handlers + (tensorboard_handlers(self.run / "tensorboard") if self.recipe.tensorboard else [])

    def _validate(self, step: int, log: CsvLog, bar: ProgressBar) -> None:
        predictor = build.build_predictor(self.recipe, self.task, self.step.network)
        self.results = _score(predictor, self.split.validation, self.task)
        mean = summarise(self.results).mean_dice
        log.append({"step": step, "mean_dice": mean})
        bar.validation = f"  validation Dice {mean:.3f}" if mean is not None else ""
        if mean is not None and (self.best is None or mean > self.best):
            self.best = mean
            self._save("best", step)

    def _save(self, which: Which, step: int) -> None:
        task = {"labels": dict(self.task.labels), "channels": list(self.task.channels)}
        about = {"step": step, "best": self.best, "recipe": config.dump(self.recipe), "task": task, "version": __version__}
        save_checkpoint(checkpoint_path(self.run, which), about | self.step.state_dict())


def _refuse_changes(stored: dict[str, Any], wanted: dict[str, Any], run: Path) -> None:
    old, new = _flat(stored), _flat(wanted)
    problems = [
        Problem(key, "changed", f"the run has {old.get(key)!r}, you gave {new.get(key)!r}", "give the run's value, or start a new run")
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if problems:
        raise UserError(f"{run} holds another run; nothing was resumed.", problems)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested dictionaries and lists by dotted path."""
    if not isinstance(value, (dict, list)):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        key: leaf for name, inner in items for key, leaf in _flat(inner, f"{path}.{name}" if path else str(name)).items()
    }


def _score(predictor: Predictor, cases: Sequence[Case], task: Task) -> list[CaseResult]:
    device = next(predictor.network.parameters()).device
    evaluator = SegmentationEvaluator(predictor, cases, task.labels, device)
    evaluator.run()
    return evaluator.results


@dataclass(frozen=True)
class TrainedModel:
    """What a checkpoint holds, ready to predict."""

    recipe: Recipe
    task: Task
    predictor: Predictor
    step: int


def load_model(run: Path, which: Which, plugins: Sequence[Path] = ()) -> TrainedModel:
    """Build the predictor of a run from one of its checkpoints alone.

    Args:
        run: The run's folder.
        which: ``last`` or ``best``.
        plugins: Files that register the run's network, where it is not one of ours. They are not taken from the
            checkpoint, because what a checkpoint says is never run.

    Raises:
        UserError: There is no such checkpoint, it is damaged, or its network is not known.
    """
    load_plugins(plugins)
    state = load_checkpoint(checkpoint_path(run, which))
    raw = yaml.safe_load(state["recipe"])
    if raw["network"]["name"] not in NETWORKS:
        message = f"needs the network {raw['network']['name']!r}, which no loaded file registers"
        raise UserError("The model cannot be built.", [Problem(str(run), "unknown-network", message, "name its file: --plugins FILE")])
    # Losses play no part in prediction, and those of a plugin need not be there.
    recipe = config.Recipe.model_validate_json(json.dumps(raw))
    recipe = recipe.model_copy(update={"device": find_hardware("auto").device})
    task = Task({int(value): str(name) for value, name in state["task"]["labels"].items()}, tuple(state["task"]["channels"]))
    network = build.build_network(recipe, task)
    network.load_state_dict(state["network"])
    return TrainedModel(recipe, task, build.build_predictor(recipe, task, network), state["step"])


def validate(
    run: Path, source: Path | None = None, which: Which = "last", plugins: Sequence[Path] = ()
) -> tuple[Summary, Path]:
    """Score a run's checkpoint on its own validation cases, or on the labelled cases of another dataset.

    Returns:
        The summary, and the folder that ``cases.csv`` and ``summary.json`` were written to: the run's own, or for
        another dataset ``validation/NAME`` in it.

    Raises:
        UserError: The checkpoint or the dataset cannot be used, or there is nothing to validate on.
    """
    model = load_model(run, which, plugins)
    dataset = _validation_dataset(run, model.recipe, source)
    index = _check(replace(dataset, labels=model.task.labels))
    _refuse_channels(index, model.task)
    folder = run if source is None else run / "validation" / source.resolve().stem
    folder.mkdir(parents=True, exist_ok=True)
    results = _score(model.predictor, dataset.cases, model.task)
    return _report(folder, results, which, model.step), folder


def _validation_dataset(run: Path, recipe: Recipe, source: Path | None) -> Dataset:
    dataset = open_dataset(source or recipe.dataset, None if source else recipe.root)
    if source is None:
        wanted = json.loads((run / SPLIT).read_text(encoding="utf-8"))["validation"]
        missing = [name for name in wanted if name not in {case.id for case in dataset.cases}]
        if missing:
            problems = [Problem(name, "case-gone", f"is no longer in {dataset.source}", "bring it back") for name in missing]
            raise UserError("The run's validation cases are not all there.", problems)
        return replace(dataset, cases=tuple(case for case in dataset.cases if case.id in wanted))
    held_out = tuple(case for case in dataset.cases if case.role == "validation")
    cases = held_out or tuple(case for case in dataset.cases if case.label)
    if not cases:
        problem = Problem(str(source), "no-labels", "has no labelled case to validate on", "name a dataset with labels")
        raise UserError("There is nothing to validate on.", [problem])
    return replace(dataset, cases=cases)


def _refuse_channels(index: Index, task: Task) -> None:
    wrong = [facts for facts in index.facts.values() if facts.channels != len(task.channels)]
    problems = [_channel_problem(facts.case, facts.channels, task) for facts in wrong]
    if problems:
        raise UserError("The scans do not fit the model.", problems)


def _channel_problem(where: str, count: int, task: Task) -> Problem:
    message = f"has {count} channel(s), the model was trained on {len(task.channels)}: {', '.join(task.channels)}"
    return Problem(where, "channel-count", message, "give scans with the channels of the training")


def _report(folder: Path, results: list[CaseResult], which: Which, step: int) -> Summary:
    summary = summarise(results)
    write_cases_csv(folder / "cases.csv", results)
    about = {"checkpoint": which, "step": step, "version": __version__}
    write_json(folder / "summary.json", about | summary.as_dict())
    return summary


def predict(run: Path, scans: Sequence[Path], output: Path, which: Which = "last", plugins: Sequence[Path] = ()) -> list[Path]:
    """Write a label map for each scan, named as the scan and on exactly its grid.

    Args:
        run: The run's folder.
        scans: Scans, folders of scans, or JSON lists.
        output: Where the masks go; made where it is not there.
        which: The checkpoint.
        plugins: As for :func:`load_model`.

    Returns:
        The masks' paths.

    Raises:
        UserError: Scans have one name, or a mask exists already, or a scan is unsound or has the wrong number of
            channels; all of it is found before anything is written.
    """
    targets = _targets(scans, output)
    model = load_model(run, which, plugins)
    _refuse_scans(targets, model.task)
    output.mkdir(parents=True, exist_ok=True)
    for path, images in _progress(targets.items(), "predicting", len(targets)):
        nifti.save_labels(path, model.predictor(images), nifti.load(images[0]))
    return list(targets)


def _targets(scans: Sequence[Path], output: Path) -> dict[Path, tuple[Path, ...]]:
    """Map each mask's path to its scan's files."""
    found = [images for place in scans for images in _scans_of(place)]
    named = [(output / images[0].name, images) for images in found]
    counts = Counter(nifti.stem(path) for path, _ in named)
    problems = [
        Problem(str(images[0]), "name-twice", f"{counts[nifti.stem(path)]} scans would be written to {path}", "predict them in separate calls")
        for path, images in named
        if counts[nifti.stem(path)] > 1
    ] + [
        Problem(str(path), "mask-exists", "is there already", "name another --output, or remove it")
        for path, _ in named
        if path.exists()
    ]
    if not named:
        problems = [Problem(", ".join(map(str, scans)), "no-scans", "no .nii or .nii.gz file is there", "name scans or a folder of them")]
    if problems:
        raise UserError("Nothing was predicted.", problems)
    return dict(named)


def _scans_of(place: Path) -> list[tuple[Path, ...]]:
    if place.suffix == ".json" and place.is_file():
        return [case.images for case in open_dataset(place).cases]
    if place.is_dir():
        return [(path,) for path in scans_in(place)]
    return [(place,)]


def _refuse_scans(targets: dict[Path, tuple[Path, ...]], task: Task) -> None:
    problems: list[Problem] = []
    for images in _progress(targets.values(), "checking", len(targets)):
        try:
            channels = sum(nifti.load(path).channels for path in images)
        except UserError as error:
            problems += error.problems
        else:
            problems += [] if channels == len(task.channels) else [_channel_problem(str(images[0]), channels, task)]
    if problems:
        raise UserError(f"Nothing was predicted: {len(problems)} scan(s) cannot be used.", problems)


def evaluate(predictions: Path, labels: Path, output: Path) -> Summary:
    """Score a folder of masks, made by any tool, against a folder of true masks of the same names.

    Args:
        predictions: Masks; those without a counterpart are left out.
        labels: True masks; each must have a prediction.
        output: Where ``cases.csv`` and ``summary.json`` go; made where it is not there.

    Raises:
        UserError: A prediction is missing, a file is unsound, or grids differ; nothing is written then.
    """
    truth, predicted = ({nifti.stem(path): path for path in scans_in(folder)} for folder in (labels, predictions))
    problems = [
        Problem(str(path), "no-prediction", f"has no counterpart in {predictions}", nearest(name, predicted) if predicted else "predict it")
        for name, path in truth.items()
        if name not in predicted
    ]
    pairs = {name: (path, predicted[name]) for name, path in truth.items() if name in predicted}
    values = {0}
    for true, guess in _progress(pairs.values(), "checking", len(pairs)):
        found, wrong = examine_pair(true, guess)
        values |= found
        problems += wrong
    if not truth:
        problems.append(Problem(str(labels), "no-scans", "holds no .nii or .nii.gz file", "name the folder of true masks"))
    if problems:
        raise UserError("Nothing was evaluated.", problems)
    names = {value: f"label {value}" if value else "background" for value in sorted(values)}
    results = []
    for name, paths in _progress(pairs.items(), "scoring", len(pairs)):
        true, guess = (nifti.load(path).voxels[0].round().astype(int) for path in paths)
        results += score_case(name, true, guess, names)
    output.mkdir(parents=True, exist_ok=True)
    write_cases_csv(output / "cases.csv", results)
    summary = summarise(results)
    write_json(output / "summary.json", {"version": __version__} | summary.as_dict())
    return summary
