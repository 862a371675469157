"""Arguments that several commands share, and the command line before it is parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from pipeline import __version__
from pipeline.durations import is_duration
from pipeline.errors import Problem, UserError, nearest
from pipeline.terminal import Manner, complain, give, say, speaking

ABOUT = """Few masks, many scans: from a folder of NIfTI volumes to a segmenter.

With any command: --quiet prints errors alone; --verbose also the plan, times and where an error arose; --json one JSON
document on standard output in place of sentences and tables. --version prints the version."""
# Options of every command, wherever they stand on the line.
GENERAL = ("--quiet", "--verbose", "--json")
KEY_HELP = "Keys of the recipe to set, such as dataset=PATH or max_steps=3000."

Device = Annotated[str, tyro.conf.arg(metavar="NAME", help="auto, cpu, cuda or cuda:N.")]
Mirror = Annotated[
    Literal["on", "off"], tyro.conf.arg(help="Whether to average over mirror images; by default as in the run's plan.")
]
Postprocess = Annotated[Literal["on", "off"], tyro.conf.arg(help="Whether to post-process masks as the run says.")]
Checkpoint = Annotated[Literal["last", "best"], tyro.conf.arg(help="Which checkpoint of the run to use.")]
Plugins = Annotated[
    tyro.conf.UseAppendAction[tuple[Path, ...]],
    tyro.conf.arg(
        name="plugin", help="Python file that registers parts of the run which are not ours, such as its network."
    ),
]
TrainedModel = tyro.conf.Positional[
    Annotated[Path, tyro.conf.arg(name="RUN", help="A run's folder, a model file or a checkpoint.", metavar="RUN")]
]
Tolerance = Annotated[float, tyro.conf.arg(help="Tolerance of the surface Dice, in mm.")]
Overrides = tyro.conf.Positional[
    Annotated[tuple[str, ...], tyro.conf.arg(name="key=value", help=KEY_HELP, metavar="key=value")]
]
Layout = Annotated[str, tyro.conf.arg(help="How the dataset lies on disk.", metavar="NAME")]
LayoutOptions = Annotated[
    tyro.conf.UseAppendAction[tuple[str, ...]],
    tyro.conf.arg(name="layout-option", help="An option of the layout, such as ignore=255.", metavar="KEY=VALUE"),
]
Root = Annotated[Path | None, tyro.conf.arg(help="Folder that the paths in a list are relative to.", metavar="DIR")]

# The commands that take keys of a recipe, and those of their options that are followed by a value.
WITH_KEYS = {"train", "plan"}
VALUED = (
    "--time-budget",
    "--folds",
    "--seeds",
    "--shard",
    "--launcher",
    "--launcher-option",
    "--output",
    "-o",
    "--allow-change",
)

# Options that people bring from nnU-Net, and what they are here.
ELSEWHERE = {
    "--fold": "data.split_fold=N of data.split=splits_final.json; or data.fold=[N,5], where the first fold is 1",
    "-f": "data.split_fold=N when training; a run's own folder when predicting",
    "-d": "dataset=FOLDER when training",
    "-i": "nothing: predict RUN SCANS --output MASKS",
    "-c": "data.dimensions=2 or 3",
    "--c": "--resume",
    "-p": "a recipe's own keys",
    "-tr": "a recipe, such as nnunet",
    "-chk": "--checkpoint best",
    "-device": "--device when predicting, device=NAME when training",
    "--disable_tta": "--mirror off",
    "--npz": "--probabilities",
    "--save_probabilities": "--probabilities",
    "--epochs": "max_steps=N",
}

# Further names of a recipe's keys.
SHORT = {"steps": "max_steps", "lr": "optimizer.learning_rate", "plugin": "plugins"}

Command = TypeVar("Command", bound=Callable[..., None])
COMMANDS: dict[str, Callable[..., None]] = {}


def command(function: Command) -> Command:
    """Register a function as the command of its name, with hyphens."""
    COMMANDS[function.__name__.replace("_", "-")] = function
    return function


def operand(name: str, text: str) -> object:
    """Describe an operand: an argument without an option."""
    return tyro.conf.arg(name=name, help=text, metavar=name)


def destination(text: str, metavar: str = "DIR") -> object:
    """Describe ``--output``, which may be given as ``-o`` too."""
    return tyro.conf.arg(help=text, metavar=metavar, aliases=["-o"])


def run_command(words: list[str]) -> Any:
    """Run the command that a line names.

    Args:
        words: The line without the program's name.

    Raises:
        UserError: There is no such command.
        SystemExit: With code 2 for an option that the command does not have; with 0 after a help text.
    """
    asked = [option.removeprefix("--") for option in GENERAL if option in words]
    with speaking(Manner(**dict.fromkeys(asked, True))):
        try:
            return _run([word for word in words if word not in GENERAL])
        except UserError as error:
            give(error.as_dict())
            raise


def _run(words: list[str]) -> Any:
    if words == ["--version"]:
        give({"version": __version__})
        return say(f"fewmask {__version__}")
    if not words or words[0].startswith("-"):
        return tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="fewmask", description=ABOUT, args=words)
    if words[0] not in COMMANDS:
        problem = Problem(words[0], "no-such-command", "is no command", nearest(words[0], COMMANDS))
        raise UserError("Nothing was done.", [problem])
    # The options of this command alone: reading those of all commands takes time.
    try:
        return tyro.cli(COMMANDS[words[0]], prog=f"fewmask {words[0]}", args=overrides_first(words)[1:])
    except SystemExit as end:
        if end.code:
            for hint in _hints(words):
                complain(hint)
        raise


def _hints(words: Sequence[str]) -> Iterator[str]:
    """Yield what a line that could not be read may have meant."""
    if words[0] in WITH_KEYS and (keys := _keys_among(words)):
        yield f"A key of the recipe is no option; it is given as {' '.join(f'{key}=VALUE' for key in keys)}"
    if words[0] in WITH_KEYS and any(word.startswith("--layout-option") for word in words):
        yield f"--layout-option ignore=255 is layout.options.ignore=255 for {words[0]}"
    for word in (word for word in words if word in ELSEWHERE):
        yield f"{word} is an option of nnU-Net's; here it is {ELSEWHERE[word]} (docs/coming-from.md)"
    if ("--folds", "all") in pairwise(words):
        yield "--folds takes a number; data.validation=none trains on every mask"


def _keys_among(words: Sequence[str]) -> list[str]:
    """Return the keys of a recipe that stand as options in a line, by their names, or by the last part of these.

    >>> _keys_among(["train", "--steps", "5", "--plugin=a.py", "--data.spacing-mm=3", "--output", "run"])
    ['max_steps', 'plugins', 'data.spacing_mm']
    >>> _keys_among(["train", "--batch-size", "2", "--lr=0.1", "--folds", "5"])
    ['data.batch_size', 'optimizer.learning_rate']
    """
    from pipeline.data_section import DataChoices
    from pipeline.recipe import Recipe
    from pipeline.sections import AugmentationChoices, OptimizerChoice, Section

    sections: dict[str, type[Section]] = {
        "data": DataChoices,
        "optimizer": OptimizerChoice,
        "augmentation": AugmentationChoices,
    }
    known = {
        key: f"{name}.{key}"
        for name, section in sections.items()
        for key in section.model_fields
        if key not in ("name", "options", "fold")  # Of several sections, or nnU-Net's
    }
    known |= {name: name for name in Recipe.model_fields} | SHORT
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    keys = [option[2:].replace("-", "_") for option in options if option.replace("_", "-") not in VALUED]
    parts = [key.partition(".") for key in keys]
    return [f"{known[first]}{dot}{rest}" for first, dot, rest in parts if first in known]


def overrides_first(arguments: list[str]) -> list[str]:
    """Reorder a line of ``train`` or ``plan``, in which key=value may stand anywhere: source, key=value, options.

    >>> overrides_first(["train", "--output", "a=b", "seed=1", "r.yaml"])
    ['train', 'r.yaml', 'seed=1', '--output', 'a=b']
    """
    if not {*arguments[:1]} & WITH_KEYS:
        return arguments
    words: list[str] = []
    options: list[str] = []
    for before, word in pairwise(arguments):
        is_value = before.replace("_", "-") in VALUED  # An option may be written with either.
        if is_value or word.startswith("-"):
            options.append(word)
        else:
            words.append(word)
    return [arguments[0], *sorted(words, key=lambda word: "=" in word), *options]


def without(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return a line without some options and their values.

    >>> without(["train", "--launcher", "slurm", "--folds", "5", "--launcher=local"], ["--launcher"])
    ['train', '--folds', '5']
    """
    return [
        word
        for before, word in pairwise(["", *arguments])
        if not (word.partition("=")[0] in options or before in options)
    ]


def as_override(time_budget: str, overrides: Sequence[str]) -> str:
    """Return ``--time-budget`` as a key of the recipe.

    Raises:
        UserError: It is no length of time, or stands beside a number of steps.
    """
    problem = None
    if not is_duration(time_budget):
        problem = Problem("--time-budget", "bad-options", f"is {time_budget!r}", "write 90s, 20min, 1h30m or 1.5d")
    if any(pair.startswith("max_steps=") for pair in overrides):
        problem = Problem("--time-budget", "bad-options", "goes not with max_steps=", "leave one out")
    if problem:
        raise UserError("Nothing was started.", [problem])
    return f"time_budget={time_budget}"
