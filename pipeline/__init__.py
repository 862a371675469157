"""Few masks, many scans: a folder of NIfTI volumes becomes a validated segmenter."""

__version__ = "0.1.0"
