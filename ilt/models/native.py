"""What is written in C (`_native.c`), or None where ilt was installed without a compiler, and how arrays are padded.

Callers have the same in NumPy, which is what the C is tested against.
"""

from typing import Any

import numpy as np

decode: Any
perceive: Any
try:
    from ilt.models._native import decode, perceive
except ImportError:
    decode = perceive = None

LANES, ROWS = 16, 4
"""Multiples of numbers in a row, and of rows."""


def padded(array: np.ndarray, value: float = 0.0) -> np.ndarray:
    """Pad the last dimension to a multiple of `LANES`, as contiguous float32."""
    width = [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % LANES)]
    return np.ascontiguousarray(np.pad(array, width, constant_values=value), dtype=np.float32)


def rows(n_rows: int, width: int) -> np.ndarray:
    """Return zeros for at least `n_rows` rows of `width` numbers, padded."""
    return np.zeros((n_rows + -n_rows % ROWS, width + -width % LANES), dtype=np.float32)
