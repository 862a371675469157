"""Plugins: Python files that a user names, and that register components when they are loaded.

A run remembers the paths and hashes of its plugins. A later command loads such a file unnamed only if the same user has
named a file of this very content before, on this machine: code is never run because a run's folder says so. The hashes
of all contents that were named are kept, one SHA-256 in a line, in ``fewmask/plugins`` below ``XDG_STATE_HOME``
(``~/.local/state``).

An exception in a plugin's code becomes a ``UserError`` that names the plugin's file and line.
"""

from __future__ import annotations

import hashlib
import os
import sys
import traceback
from contextlib import contextmanager, suppress
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pipeline.errors import Problem, UserError
from pipeline.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Of the names of the modules that plugins become.
PREFIX = "fewmask_plugin_"
# The code of a plugin's exception.
PLUGIN_FAILED = "plugin-failed"
# Under this name a plugin's module keeps the hash of its content.
SHA256 = "__sha256__"


class Plugin(TypedDict):
    """A plugin as a run remembers it: its path, and the SHA-256 of its content."""

    path: str
    sha256: str


def load_plugins(paths: Sequence[Path]) -> None:
    """Run each file once in this process. A plugin is code and does whatever it says: name only files you trust.

    Raises:
        UserError: A file is missing, or fails; the message names the line.
    """
    for path in paths:
        _load(path, _read(path))


def remember(paths: Sequence[Path]) -> list[Plugin]:
    """Return what a run keeps of its plugins."""
    return [{"path": str(path.resolve()), "sha256": _digest(_read(path))} for path in paths]


def load_remembered(plugins: Sequence[Plugin]) -> None:
    """Run the plugins that a run remembers, if they are unchanged and the user has named them before.

    One that the user has named to this process is taken as it is.

    Raises:
        UserError: A file is gone, was changed, or was never named by this user on this machine.
    """
    trusted = _trusted()
    problems = []
    for plugin in plugins:
        path = Path(plugin["path"])
        content = None
        if path.is_file():
            content = path.read_bytes()
        if content is not None and _digest(content) == plugin["sha256"] in trusted:
            _load(path, content)
            continue
        if content is not None and _digest(content) == getattr(sys.modules.get(_module_of(path)), SHA256, None):
            continue
        if content is None and plugin["sha256"] in _loaded():  # It was moved, and named where it is now.
            continue
        why = "you have not named it here before"
        remedy = "if you trust it as it is: --plugin FILE"
        if content is None:
            why = "is gone"
            remedy = "bring it back, or say where it is now: --plugin FILE"
        elif _digest(content) != plugin["sha256"]:
            why = "was changed since"
        message = f"is the run's plugin, and {why}"
        problems.append(Problem(str(path), "plugin-changed", message, remedy))
    if problems:
        raise UserError("The run needs its plugins.", problems)


@contextmanager
def blamed() -> Iterator[None]:
    """Turn an exception in a plugin's code into a ``UserError``, to which the exception is chained.

    Raises:
        UserError: The block has ended with an exception that came through a plugin.
    """
    try:
        yield
    except Exception as error:
        if (told := told_of_plugin(error)) is None:
            raise
        raise told from error


def told_of_plugin(error: Exception) -> UserError | None:
    """Return the user's error for an exception that passed through a plugin's code; None for any other.

    Also None for a ``UserError``, which says already what is wrong, for a lack of memory and for a closed pipe.
    """
    if isinstance(error, UserError | BrokenPipeError) or is_out_of_memory(error):
        return None
    frames = [
        (frame.f_code, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(PREFIX)
    ]
    if not frames:
        return None
    code, line = frames[-1]
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    message = ", ".join([f"line {line}, in {code.co_qualname}: {what}", *getattr(error, "__notes__", [])])
    return UserError("A plugin failed.", [Problem(code.co_filename, PLUGIN_FAILED, message, "correct the plugin")])


def _load(path: Path, content: bytes) -> None:
    name = _module_of(path)
    if name in sys.modules:
        return
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    if spec is None:
        raise _unusable(path, "is no Python file", "check the path")
    module = module_from_spec(spec)
    # Before it runs, as an import does: a dataclass looks its own module up.
    sys.modules[name] = module
    try:
        exec(loader.source_to_code(content, str(path)), vars(module))  # The very bytes that were hashed.
    except Exception as error:
        del sys.modules[name]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        last = None
        if frames:
            last = frames[-1].lineno
        line = error.lineno if isinstance(error, SyntaxError) else last
        remedy = "correct the plugin"
        if isinstance(error, ModuleNotFoundError) and path.with_name(f"{error.name}.py").is_file():
            remedy = f"a plugin is one file: take in what it needs of {error.name}.py, or install that as a package"
        raise _unusable(path, f"line {line}: {type(error).__name__}: {error}", remedy) from error
    setattr(module, SHA256, _digest(content))
    _trust(_digest(content))


def _loaded() -> set[str]:
    """Return the hashes of the plugins that this process has loaded."""
    return {getattr(module, SHA256, "") for name, module in sys.modules.items() if name.startswith(PREFIX)}


def _module_of(path: Path) -> str:
    return f"{PREFIX}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"


def _read(path: Path) -> bytes:
    if not path.exists():
        raise _unusable(
            path, "there is no such file", "check the path; it begins at the recipe's folder, or at this one"
        )
    if not path.is_file() or path.suffix != ".py":
        raise _unusable(path, "is no Python file", "check the path")
    return path.read_bytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _list_of_trusted() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "fewmask" / "plugins"


def number_trusted() -> int:
    """Return of how many contents of plugins it is known that this user has named them."""
    return len(_trusted())


def _trusted() -> set[str]:
    with suppress(OSError, RuntimeError):  # Without a home nothing is known.
        return set(_list_of_trusted().read_text(encoding="ascii", errors="replace").split())
    return set()


def _trust(sha256: str) -> None:
    with suppress(OSError, RuntimeError):
        if sha256 not in _trusted():
            path = _list_of_trusted()
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="ascii") as file:
                file.write(f"{sha256}\n")


def _unusable(path: Path, message: str, remedy: str) -> UserError:
    return UserError("A plugin cannot be loaded.", [Problem(str(path), "bad-plugin", message, remedy)])
