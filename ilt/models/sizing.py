"""Baselines with as many parameters as the transformer of the same size, in any environment."""

from collections.abc import Callable
from typing import Any

import torch

from ilt.models.base import SequenceModel
from ilt.models.decoder import Decoder
from ilt.models.mlp import MLP, MLPStack
from ilt.models.recurrent import Recurrent
from ilt.registry import load_option
from ilt.schema import own_keys


def mlp(*, size: str, d_model: int | None, **options: Any) -> SequenceModel:
    """Build an `MLP` of a given width, or of the width that matches `size`."""
    return _sized(MLP, size, d_model, options)


def mlp_stack(*, size: str, d_model: int | None, **options: Any) -> SequenceModel:
    """Build an `MLPStack` of a given width, or of the width that matches `size`."""
    return _sized(MLPStack, size, d_model, options)


def gru(*, size: str, d_model: int | None, **options: Any) -> SequenceModel:
    """Build a GRU of a given width, or of the width that matches `size`."""
    return _sized(Recurrent, size, d_model, {"cell": "gru", **options})


def lstm(*, size: str, d_model: int | None, **options: Any) -> SequenceModel:
    """Build an LSTM of a given width, or of the width that matches `size`."""
    return _sized(Recurrent, size, d_model, {"cell": "lstm", **options})


def _sized(
    make: Callable[..., SequenceModel], size: str, d_model: int | None, options: dict[str, Any]
) -> SequenceModel:
    if d_model is None:
        sizes = ("observation_dim", "action_space", "n_outputs", "context_length", "return_conditioned")
        known = {name: options[name] for name in sizes if name in options}
        wanted = _count(lambda: Decoder(**known, **own_keys("model", load_option("model", size))))
        d_model = _width(lambda width: _count(lambda: make(d_model=width, **options)), wanted)
    return make(d_model=d_model, **options)


def _width(count: Callable[[int], int], wanted: int) -> int:
    """Find the width whose number of parameters is closest to `wanted`, by bisection."""
    low, high = 1, 2
    while count(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < wanted else (low, middle)
    return min((low, high), key=lambda width: abs(count(width) - wanted))


def _count(make: Callable[[], SequenceModel]) -> int:
    """Count the parameters of a model without allocating them or drawing random numbers."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make().parameters())
