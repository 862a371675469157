"""Few masks, many scans: a folder of NIfTI volumes becomes a validated segmenter.

This is what programs import. Each name is loaded when it is first used, since PyTorch and MONAI take seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.collector import resting_collector

if TYPE_CHECKING:
    from pipeline import losses, metrics
    from pipeline.api import check, compare, evaluate, export, predict, validate
    from pipeline.api_training import cross_validate, join, plan, train, train_seeds
    from pipeline.errors import IncompleteError, Problem, UserError
    from pipeline.model import Model, load
    from pipeline.recipe import Recipe
    from pipeline.runs.beside import Beside

__all__ = [
    "Beside",
    "IncompleteError",
    "Model",
    "Problem",
    "Recipe",
    "UserError",
    "__version__",
    "check",
    "compare",
    "cross_validate",
    "evaluate",
    "export",
    "join",
    "load",
    "losses",
    "metrics",
    "plan",
    "predict",
    "train",
    "train_seeds",
    "validate",
]

HOMES = {
    "Beside": "runs.beside",
    "IncompleteError": "errors",
    "Model": "model",
    "Problem": "errors",
    "Recipe": "recipe",
    "UserError": "errors",
    "cross_validate": "api_training",
    "join": "api_training",
    "load": "model",
    "plan": "api_training",
    "train": "api_training",
    "train_seeds": "api_training",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with resting_collector():
        if name in ("losses", "metrics"):
            return import_module(f"pipeline.{name}")
        return getattr(import_module(f"pipeline.{HOMES.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return __all__
