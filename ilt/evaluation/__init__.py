"""Scoring, comparison and statistics of rollouts."""
