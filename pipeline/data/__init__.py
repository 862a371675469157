"""From a folder of NIfTI files to batches."""
