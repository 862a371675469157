"""From per-case results to a summary, a table, CSV and JSON; knows nothing of torch."""
