"""Files of scans: their containers, headers and grids, and reading and writing volumes; datasets are not known here."""

from pipeline.nifti.container import is_nifti, stem
from pipeline.nifti.dicom_series import is_series
from pipeline.nifti.itk_files import itk_files_in
from pipeline.nifti.volume import Scan, load, save_labels, save_volume, save_volumes, scan_of

__all__ = [
    "Scan",
    "is_nifti",
    "is_series",
    "itk_files_in",
    "load",
    "save_labels",
    "save_volume",
    "save_volumes",
    "scan_of",
    "stem",
]
