"""Sweeps and searches: many runs, one table."""
