"""The C extension, which is built if a compiler is available at installation; otherwise callers use NumPy.

Rows of weights, biases, inputs and outputs are float32, padded with zeros to a multiple of 16 numbers. The number of
rows of inputs and outputs is padded to a multiple of four.
"""

import numpy as np

def decode(
    layers: tuple[tuple[np.ndarray | int, ...], ...],
    head: tuple[np.ndarray, np.ndarray],
    slots: np.ndarray,
    steps: np.ndarray,
    x: np.ndarray,
    rope: np.ndarray | None,
    out: np.ndarray,
    n_head: int,
    head_dim: int,
    n_new: int,
    per_step: int,
    state_index: int,
    /,
) -> bool:
    """Run all layers and the action head of a decoder on new tokens, and update the cached keys and values.

    Args:
        layers: for each layer, weight (d_model, n_out) and bias (n_out,) of queries, keys and values, of the output of
            attention, and of the two layers of the MLP, with the scales of norms and of attention folded in; the bias
            of scores (rows, new, size), −inf in its padding; keys (n_slots, n_head, head_dim, size) and values
            (n_slots, n_head, size, head_dim); and the number of tokens in a ring.
        head: weight and bias of the action head.
        slots: (n,) int64, the slots of the episodes, without duplicates.
        steps: (n_slots,) int64, the steps processed before in each slot's episode; those of `slots` are incremented.
        x: (n · n_new, d_model), the embedded tokens, each centered; overwritten.
        rope: (tokens, head_dim / 2) complex64, the rotations of all tokens from −1 on; None for no rotation.
        out: (n, n_outputs), where the outputs are written.
        n_head, head_dim: sizes of the attention.
        n_new: new tokens of each episode, of which the last is the current state's.
        per_step, state_index: tokens of a step, and the index of the state's among them.

    Returns:
        True; or False, with nothing changed, if an episode is longer than `rope`.

    Raises:
        ValueError: the arrays do not fit together.
    """

def perceive(
    layers: tuple[np.ndarray, ...],
    x: np.ndarray,
    out: np.ndarray,
    n_rows: int,
    tanh_between: bool,
    tanh_after: bool,
    /,
) -> None:
    """Run an MLP.

    Args:
        layers: weight (n_in, n_out) and bias (n_out,) of each layer, in turn.
        x: (n_rows, n_in), the inputs.
        out: (n_rows, n_outputs), where the outputs are written.
        n_rows: a multiple of four.
        tanh_between: whether the activation between layers is tanh; otherwise it is ReLU.
        tanh_after: whether tanh is applied to the outputs.

    Raises:
        ValueError: the arrays do not fit together.
    """
