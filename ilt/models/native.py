"""The functions of the C extension, or None if ilt was installed without a compiler, and how their arrays are padded.

Callers fall back to NumPy, against which the C is tested.
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
"""Rows are padded to a multiple of `LANES` numbers, and their number to a multiple of `ROWS`."""


def padded(array: np.ndarray, value: float = 0.0) -> np.ndarray:
    """Pad the last dimension to a multiple of `LANES`, as contiguous float32."""
    width = [(0, 0)] * (array.ndim - 1) + [(0, -array.shape[-1] % LANES)]
    return np.ascontiguousarray(np.pad(array, width, constant_values=value), dtype=np.float32)


def rows(n_rows: int, width: int) -> np.ndarray:
    """Return zeros for at least `n_rows` rows of `width` numbers, padded."""
    return np.zeros((n_rows + -n_rows % ROWS, width + -width % LANES), dtype=np.float32)
