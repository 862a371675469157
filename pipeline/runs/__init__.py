"""Check, plan, train, validate, predict, evaluate and compare: the one package that wires the parts together.

Each is imported when it is first used: a check of a dataset does not need torch, which takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.collector import resting_collector
from pipeline.memory import refuse_tight_limit

if TYPE_CHECKING:
    from pipeline.runs.checking import check, examine, report_name, report_of
    from pipeline.runs.comparing import compare
    from pipeline.runs.components import REGISTRIES
    from pipeline.runs.evaluating import evaluate
    from pipeline.runs.folds import cross_validate
    from pipeline.runs.joining import join
    from pipeline.runs.planning import look_at_machine, memory_choice, plan
    from pipeline.runs.prediction import predict
    from pipeline.runs.requests import read_recipe, read_request
    from pipeline.runs.run_scores import validate
    from pipeline.runs.simulation import simulate_labels
    from pipeline.runs.starting import train

__all__ = [
    "REGISTRIES",
    "check",
    "compare",
    "cross_validate",
    "evaluate",
    "examine",
    "join",
    "look_at_machine",
    "memory_choice",
    "metrics_named",
    "metrics_of",
    "plan",
    "predict",
    "read_recipe",
    "read_request",
    "report_name",
    "report_of",
    "simulate_labels",
    "train",
    "validate",
]

HOMES = {
    "REGISTRIES": "components",
    "examine": "checking",
    "report_name": "checking",
    "report_of": "checking",
    "check": "checking",
    "compare": "comparing",
    "cross_validate": "folds",
    "evaluate": "evaluating",
    "metrics_named": "parts_of_run",
    "metrics_of": "parts_of_run",
    "join": "joining",
    "look_at_machine": "planning",
    "memory_choice": "planning",
    "plan": "planning",
    "predict": "prediction",
    "read_recipe": "requests",
    "read_request": "requests",
    "simulate_labels": "simulation",
    "train": "starting",
    "validate": "run_scores",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if HOMES[name] != "checking":
        refuse_tight_limit()
    with resting_collector():
        return getattr(import_module(f"pipeline.runs.{HOMES[name]}"), name)
