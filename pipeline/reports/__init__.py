"""Reports: from the results of cases to summaries, tables, comparisons, pages and figures, without torch."""
