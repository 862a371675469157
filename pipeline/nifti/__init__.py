"""NIfTI files: their containers, headers and grids, and volumes in and out. It knows of no dataset."""

from pipeline.nifti.container import is_nifti, stem
from pipeline.nifti.volume import Scan, load, save_labels, save_volume, save_volumes, scan_of

__all__ = ["Scan", "is_nifti", "load", "save_labels", "save_volume", "save_volumes", "scan_of", "stem"]
