"""Losses: MONAI-style modules, registered by name, and the objective that sums them."""
