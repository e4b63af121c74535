"""Sweeps and hyperparameter searches: many runs, one table."""
