"""From what a dataset is and what a machine has to a recipe without ``auto``."""
