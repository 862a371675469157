"""Studies: recipes compared over numbers of masks, draws of patients and seeds."""
