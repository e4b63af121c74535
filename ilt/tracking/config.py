"""Schemas of the config group `logger`; a logger without one is checked against its constructor."""
