"""Imitation learning with decoder-only transformers, from an RL expert to a student that flies by itself."""

__version__ = "0.1.0"
