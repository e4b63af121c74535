"""Imitation algorithms: which labels a training is given, and when."""
