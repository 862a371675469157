"""Metrics of label maps; ``docs/metrics`` says for each what it means, its unit, and what empty masks give.

Each is imported when it is first used: a prediction needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.metrics.case import score_case
    from pipeline.metrics.lesions import count_lesions
    from pipeline.metrics.matching import match_segments
    from pipeline.metrics.surface import surface_distances

__all__ = ["count_lesions", "match_segments", "score_case", "surface_distances"]

HOMES = {
    "count_lesions": "lesions",
    "match_segments": "matching",
    "score_case": "case",
    "surface_distances": "surface",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pipeline.metrics.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
