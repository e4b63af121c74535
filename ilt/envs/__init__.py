"""Environments: specs, observation and action spaces, wrappers, and batches stepped in one process."""
