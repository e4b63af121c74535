"""Environments: specs, observation and action spaces, wrappers, and batches that step in one process."""
