"""Array functions from draws to numbers with standard errors; no labels, no disk."""
