"""Imitation algorithms: which expert labels a training gets, and when."""
