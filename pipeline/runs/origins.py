"""Begin a training with the weights of another model: read it, refuse what does not fit, and say what is taken."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import chain, cycle
from typing import TYPE_CHECKING, Any, cast

from pipeline.checkpoints import newest_checkpoint
from pipeline.decisions import Taken
from pipeline.errors import Problem, UserError, listed
from pipeline.planning.devices import find_hardware
from pipeline.runs.checkpoint_facts import facts_of
from pipeline.runs.declared import refuse_declared, settled
from pipeline.runs.model_files import read_model_file
from pipeline.runs.stored import FOLDS, INDEX, SPLIT, read_about, read_own, read_written_of
from pipeline.runs.transfer import axes_of, shared_labels, transfer
from pipeline.terminal import note

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from pipeline.checkpoints import Checkpoint
    from pipeline.planning.settings import Settings
    from pipeline.recipe import Recipe
    from pipeline.runs.setup import Setup
    from pipeline.runs.transfer import Transfer
    from pipeline.types import Task

# What the plan of a training chooses anew, and a reader may take for the model's.
OWN_CHOICES = ("orientation", "spacing_mm", "patch_size", "normalization")
# The log lists so many names at most; ``config.yaml`` has all.
LISTED = 6


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A model whose weights a network begins with.

    Attributes:
        path: Its file.
        sha256: Of the file.
        settings: What it was trained by.
        task: Its labels and channels.
        networks: The weights of each of its networks, by name; each member and each fold is one.
        run: The folder of the run that it is a checkpoint of, where that tells who was trained on; else None.
    """

    path: Path
    sha256: str
    settings: Settings
    task: Task
    networks: tuple[dict[str, Tensor], ...]
    run: Path | None


def digest_of_model(path: Path) -> str:
    """Return the SHA-256 of the file that a model is read from.

    Raises:
        UserError: There is none, or it is unsound.
    """
    return _hash_of(_members_of(path)[0].path)


def like_its_model(recipe: Recipe) -> Recipe:
    """Return a recipe whose network is that of the model it starts from, in what the recipe leaves open.

    Dimensions and options of the network are taken; voxel size, patch and normalisation are the new plan's.

    Raises:
        UserError: The model cannot be read, is another network, or is one of slices where the recipe has volumes.
    """
    if recipe.start is None:
        return recipe
    origin = read_origin(recipe.start, recipe.network.name, _dimensions_of(recipe))
    options = origin.settings.network.options
    given = {key: value for key, value in recipe.network.options.items() if value != "auto"}
    network = recipe.network.model_copy(update={"options": options | given})
    data = recipe.data.model_copy(update={"dimensions": origin.settings.data.dimensions})
    return recipe.model_copy(update={"network": network, "data": data})


def _dimensions_of(recipe: Recipe) -> int | None:
    """Return the number of axes that a recipe gives, or None where it leaves that open."""
    data = recipe.data
    if data.dimensions != "auto":
        return data.dimensions
    return next((len(given) for given in (data.spacing_mm, data.patch_size) if given != "auto"), None)


def read_origin(path: Path, network: str, dimensions: int | None) -> Origin:
    """Read a model whose weights a network begins with; nothing but tensors, numbers and text is read of it.

    Args:
        path: A run's folder, whose newest ``last`` checkpoint is read, a checkpoint, or a model file.
        network: The name of the network.
        dimensions: 2 or 3, or None for that of the model.

    Raises:
        UserError: There is no model, it is unsound, it declares another network than it holds, or it is another one.
    """
    members = _members_of(path)
    held = [_read_member(member, network, dimensions) for member in members]
    settings, task, _ = held[0]
    file = members[0].path
    # Only once it is known to be sound, so that an unsound file is named as such.
    sha256 = _hash_of(file)
    networks = chain.from_iterable(_parted(weights, each.network.members) for each, _, weights in held)
    return Origin(
        path=file, sha256=sha256, settings=settings, task=task, networks=tuple(networks), run=_run_of(members[0])
    )


def _members_of(path: Path) -> tuple[Checkpoint, ...]:
    """Read what a model consists of: one network, or those of the folds of a cross-validation.

    Raises:
        UserError: There is no model, or it is unsound.
    """
    if (path / FOLDS).exists():
        remedy = "name one of its folds, such as fold-1, or export all of them: fewmask export RUN --format model"
        raise _refused(path, "several-models", "is a cross-validation", remedy)
    if not path.is_dir():
        return read_model_file(path).members
    checkpoint = newest_checkpoint(path, "last")
    for problem in checkpoint.damaged:
        note(f"{problem}\nUsing {checkpoint.path.name} instead.")
    return (checkpoint,)


def _read_member(
    checkpoint: Checkpoint, network: str, dimensions: int | None
) -> tuple[Settings, Task, dict[str, Tensor]]:
    about = read_about(checkpoint)
    recipe, _ = read_written_of(checkpoint)
    path = checkpoint.path
    if recipe.network.name != network:
        message = f"holds the network {recipe.network.name}, and the recipe has {network}"
        raise _refused(path, "other-network", message, f"give network={recipe.network.name}, or leave start out")
    # What is done to its masks does not matter here, and may be a plugin's.
    settings = settled(path, recipe.model_copy(update={"postprocessing": ()}))
    if dimensions not in (None, settings.data.dimensions):
        message = f"was trained in {settings.data.dimensions}-D, and the recipe is in {dimensions}-D"
        remedy = f"give data.dimensions={settings.data.dimensions}, or leave start out"
        raise _refused(path, "mixed-dimensions", message, remedy)
    task = about.task.as_task()
    weights = checkpoint.state.get("average", checkpoint.state.get("network"))
    refuse_declared(path, settings, task, weights, find_hardware("cpu"))
    return settings, task, cast("dict[str, Tensor]", weights)


def _parted(weights: Mapping[str, Tensor], members: int) -> Iterator[dict[str, Tensor]]:
    """Yield the weights of each member of an ensemble, or of a single network."""
    for n in range(members):
        prefix = _prefix(n, members)
        yield {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _prefix(member: int, members: int) -> str:
    """Return how the names of a member's weights begin."""
    return f"members.{member}." if members > 1 else ""


def _run_of(checkpoint: Checkpoint) -> Path | None:
    """Return the run of a checkpoint that began with drawn weights, so that its folder tells who was trained on."""
    run = checkpoint.path.parent.parent
    _, decided = read_written_of(checkpoint)
    known = decided.taken is None and all((run / name).is_file() for name in (SPLIT, INDEX))
    return run if known and checkpoint.path.parent.name == "checkpoints" else None


def begin_with_model(setup: Setup) -> None:
    """Let a training begin with the weights of the model that its recipe names, and note what is taken.

    Args:
        setup: Its network gets the weights, and its decisions say which.

    Raises:
        UserError: As :func:`read_origin`; or nothing of it fits, or it has changed since it was first read.
    """
    settings = setup.settings
    origin = read_origin(cast("Path", settings.start), settings.network.name, settings.data.dimensions)
    known = setup.decided.taken
    if known is not None and known.sha256 != origin.sha256:
        remedy = "bring it back as it was, or start a new run"
        raise _refused(origin.path, "model-changed", "is not the file that the training began with", remedy)
    members = settings.network.members
    drawn = _parted(setup.step.network.state_dict(), members)
    axes = axes_of(settings, setup.task)
    tasks = (setup.task, origin.task)
    taken = [transfer(own, held, axes, tasks) for own, held in zip(drawn, cycle(origin.networks), strict=False)]
    if any(each.is_nothing for each in taken):
        message = "has no weight that fits the network, by name and shape"
        remedy = "leave network.options to the model, or leave start out"
        raise _refused(origin.path, "nothing-fits", message, remedy)
    named = [(_prefix(n, members), each.weights) for n, each in enumerate(taken)]
    setup.begin_with({f"{prefix}{name}": value for prefix, each in named for name, value in each.items()})
    seen = None
    if origin.run is not None:
        seen = _seen(origin.run, setup)
    one = taken[0]  # Of an ensemble, the others have the same names.
    setup.decided = setup.decided.begun_with(
        Taken(sha256=origin.sha256, whole=len(one.whole), partly=one.partly, new=one.new, left=one.left, seen=seen)
    )
    for line in _told(origin, one, setup):
        note(f"start: {line}")


def _seen(run: Path, setup: Setup) -> int:
    """Return how many validation cases a run was trained on, in whatever form they were stored."""
    split = read_own(run, SPLIT)
    trained_on = {*split["labelled"], *split["unlabelled"]}
    known = facts_of(run, trained_on)
    keys = {key for case in trained_on for each in known[case].known_by for key in each}
    facts = setup.index.facts
    return sum(not keys.isdisjoint(chain(*facts[case.id].known_by)) for case in setup.split.validation)


def _told(origin: Origin, taken: Transfer, setup: Setup) -> Iterator[str]:
    """Yield what was taken and what was not, and what the plan has otherwise than the model, as lines of a log."""
    count = len(taken.whole) + len(taken.partly) + len(taken.new)
    yield f"{len(taken.whole)} of {count} weights are those of {origin.path.name}, {len(taken.partly)} partly"
    shared = shared_labels(setup.task, origin.task)
    names, theirs = ([task.labels[value] for value in task.outputs] for task in (setup.task, origin.task))
    if set(shared.items()) != {(n, n) for n in range(len(theirs))} or len(shared) < len(names):
        new = [name for n, name in enumerate(names) if n not in shared]
        gone = [name for n, name in enumerate(theirs) if n not in shared.values()]
        yield f"labels kept: {_listed([names[n] for n in shared])}; new: {_listed(new)}; left: {_listed(gone)}"
    if setup.task.channels != origin.task.channels:
        told = [", ".join(channels) for channels in (setup.task.channels, origin.task.channels)]
        yield f"channels are {told[0]}, the model's were {told[1]}"
    for what, found in (("drawn anew", taken.new), ("without a place", taken.left)):
        if found:
            yield f"{what}: {_listed(found)}"
    for key in OWN_CHOICES:
        own, was = (getattr(each.data, key) for each in (setup.settings, origin.settings))
        if own != was:
            yield f"data.{key} is {_plain(own)}, the model's was {_plain(was)}"


def _listed(names: Sequence[str]) -> str:
    return listed(names, LISTED) if names else "none"


def _plain(value: Any) -> str:
    """Return a setting as a line of the log shows it."""
    if not isinstance(value, tuple):
        return str(value)
    return "[" + ", ".join(f"{item:.6g}" if isinstance(item, int | float) else str(item) for item in value) + "]"


def _hash_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _refused(path: Path, code: str, message: str, remedy: str) -> UserError:
    return UserError("Nothing was started.", [Problem(str(path), code, message, remedy)])
