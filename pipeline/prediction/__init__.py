"""Prediction in constant memory: windows are stitched, brought to the scan's grid and decided on plane by plane."""
