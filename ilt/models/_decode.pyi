"""Written in C, which needs a compiler when ilt is installed; without it, `ilt.models.cache` uses NumPy."""

import numpy as np

def decode(
    layers: tuple[tuple[np.ndarray | int, ...], ...],
    head: tuple[np.ndarray, np.ndarray],
    slots: np.ndarray,
    steps: np.ndarray,
    tokens: np.ndarray,
    x: np.ndarray,
    rope: np.ndarray | None,
    out: np.ndarray,
    n_slots: int,
    n_head: int,
    head_dim: int,
    /,
) -> None:
    """Run all layers and the action head on new tokens, and update the cached keys and values.

    Rows of float32 arrays are padded with zeros to a multiple of 16 numbers, and `x` and `out` have up to three more
    rows, so that the number of rows is a multiple of four.

    Args:
        layers: for each layer, weight (d_model, n_out) and bias (n_out,) of queries, keys and values, of the output of
            attention, and of the two layers of the MLP; the bias of scores (rows, new, size); keys (n_slots, n_head,
            head_dim, size) and values (n_slots, n_head, size, head_dim); and the number of tokens in a ring.
        head: weight and bias of the action head.
        slots, steps: (n,) int64, the slots of the episodes, and the steps processed before.
        tokens: (n, new) int64, the index of each new token in its episode.
        x: (n · new, d_model), the embedded tokens, which are overwritten.
        rope: (n, new, head_dim), cosines and sines, alternately; None for no rotation.
        out: (n, n_outputs), where the outputs are written.
        n_slots, n_head, head_dim: sizes.

    Raises:
        ValueError: the arrays do not fit together.
    """
