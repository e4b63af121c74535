"""Scores, comparisons and statistics of rollouts."""
