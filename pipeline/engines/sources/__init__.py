"""Sources: they provide the values that an objective's terms need beside the batch's own tensors.

A plugin adds its own: a subclass of :class:`Source`, registered in ``SOURCES`` and named in a recipe under ``sources``.
"""

from pipeline.engines.sources.base import SOURCES, Source, own_sources
from pipeline.engines.sources.copy_paste import CopyPaste
from pipeline.engines.sources.cross_teaching import CrossTeaching
from pipeline.engines.sources.mean_teacher import MeanTeacher

__all__ = ["SOURCES", "CopyPaste", "CrossTeaching", "MeanTeacher", "Source", "own_sources"]
