"""An expert's actor in NumPy: between two steps of a simulator, torch's dispatch costs more than the arithmetic."""

import numpy as np
from torch import Tensor, nn

from ilt.experts.actor import Actor


class NumpyActor:
    """What an `Actor` computes, to rounding, with a copy of the weights that it has now.

    In flight, where the simulator empties the caches between two calls, it takes a sixth of the actor's time.
    """

    def __init__(self, actor: Actor) -> None:
        self._mean, self._std = _copy(actor.observation_mean), _copy(actor.observation_std)
        linears = [layer for layer in actor.layers if isinstance(layer, nn.Linear)]
        *self._inner, self._last = [(_copy(linear.weight).T, _copy(linear.bias)) for linear in linears]

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """(n, obs_dim) float32 to logits (n, A) float32."""
        x = (observations - self._mean) / self._std
        for weight, bias in self._inner:
            x = np.tanh(x @ weight + bias)
        weight, bias = self._last
        return x @ weight + bias


def _copy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()
