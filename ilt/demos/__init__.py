"""Demonstrations: episodes, their file, and sequence windows over them."""

from ilt.demos.episodes import Episodes
from ilt.demos.windows import WindowDataset

__all__ = ["Episodes", "WindowDataset"]
