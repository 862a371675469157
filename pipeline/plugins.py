"""Load the Python files that a user names, so that what they register is there."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from typing import TYPE_CHECKING

from pipeline.errors import Problem, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def load_plugins(paths: Sequence[Path]) -> None:
    """Run each file once in this process. A plugin is code and does whatever it says: name only files you trust.

    Raises:
        UserError: A file is missing or fails; with the line that failed.
    """
    for path in paths:
        name = f"fewmask_plugin_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
        if name not in sys.modules:
            _load(path, name)


def _load(path: Path, name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise _unusable(path, "is no Python file", "check the path; it is relative to the folder you are in")
    module = importlib.util.module_from_spec(spec)
    # Before it runs, as an import does: a dataclass looks its own module up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
        line = error.lineno if isinstance(error, SyntaxError) else frames[-1].lineno if frames else None
        raise _unusable(path, f"line {line}: {type(error).__name__}: {error}", "correct the plugin") from error


def _unusable(path: Path, message: str, remedy: str) -> UserError:
    return UserError("A plugin cannot be loaded.", [Problem(str(path), "bad-plugin", message, remedy)])
