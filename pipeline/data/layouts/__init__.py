"""Read what users have on disk as one list of cases: a module a family of layouts, each registered by name.

A plugin adds its own: a subclass of :class:`Layout`, registered in ``LAYOUTS``.
"""

from pipeline.data.layouts import bids, cases, folders, lists, nnunet, tables  # noqa: F401 - they register their layouts
from pipeline.data.layouts.dataset import LAYOUTS, MAX_CLASSES, Dataset, Layout
from pipeline.data.layouts.folders import scans_in
from pipeline.data.layouts.opening import open_dataset, read_dataset

__all__ = ["LAYOUTS", "MAX_CLASSES", "Dataset", "Layout", "open_dataset", "read_dataset", "scans_in"]
