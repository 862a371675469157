"""Per-case numbers: pure functions over NumPy arrays."""
