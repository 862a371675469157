"""Metrics of label maps; ``docs/metrics`` says for each what it means, its unit, and what empty masks give."""

from pipeline.metrics.case import score_case
from pipeline.metrics.lesions import count_lesions
from pipeline.metrics.matching import match_segments
from pipeline.metrics.surface import surface_distances

__all__ = ["count_lesions", "match_segments", "score_case", "surface_distances"]
