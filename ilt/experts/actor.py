"""The actor network of all trained experts, in torch and for rollouts."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ilt.envs.actions import ActionSpace
from ilt.models import native
from ilt.models.heads import ActionHead, Categorical, Gaussian, Regression, for_deviation
from ilt.rollout.policies import NetworkPolicy
from ilt.tracking.weights import load_module, load_weights, save_weights

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class Actor(nn.Module):
    """An MLP from one observation to a distribution over actions, including the normalization of observations.

    Args:
        observation_dim: size of one observation.
        n_outputs: number of logits over choices, or of means in model units.
        hidden: width of each hidden layer.
        continuous: whether actions are numbers. Their log standard deviations are parameters, the same in every state.
        log_std_init: initial log standard deviation.
        activation: between the layers, `tanh` or `relu`.
        squash: whether the outputs are numbers, kept in [−1, 1] by tanh, without a deviation.
    """

    observation_mean: Tensor
    observation_std: Tensor

    def __init__(
        self,
        *,
        observation_dim: int,
        n_outputs: int,
        hidden: Sequence[int],
        continuous: bool = False,
        log_std_init: float = 0.0,
        activation: str = "tanh",
        squash: bool = False,
    ) -> None:
        super().__init__()
        self.sizes: dict[str, Any] = {
            "observation_dim": observation_dim, "n_outputs": n_outputs, "hidden": list(hidden), "continuous": continuous
        }  # fmt: skip
        if (activation, squash) != ("tanh", False):  # written only if they differ, so that older files stay the same
            self.sizes |= {"activation": activation, "squash": squash}
        self.activation, self.squash = activation, squash
        self.register_buffer("observation_mean", torch.zeros(observation_dim))
        self.register_buffer("observation_std", torch.ones(observation_dim))
        self.layers = mlp([observation_dim, *hidden, n_outputs], ACTIVATIONS[activation])
        self.log_std = nn.Parameter(torch.full((n_outputs,), log_std_init)) if continuous else None

    def forward(self, observations: Tensor) -> Tensor:
        """Map observations (B, observation_dim) float32 to logits or means (B, n_outputs) float32."""
        outputs = self.layers((observations - self.observation_mean) / self.observation_std)
        return outputs.tanh() if self.squash else outputs

    def save(self, path: Path) -> None:
        """Write weights and sizes to one safetensors file."""
        save_weights(self, path, self.sizes)

    @classmethod
    def load(cls, path: Path) -> "Actor":
        """Read what `save` wrote. Raise ValueError if the file is invalid."""
        sizes, state = load_weights(path)
        return load_module(path, lambda: cls(**sizes), sizes, state)


class FastActor:
    """An `Actor` for rollouts, equal up to float rounding, with a copy of its current weights.

    In a rollout, the simulator evicts the CPU caches between two calls, and torch's dispatch then costs more than the
    arithmetic. One call into C, or a few to NumPy where ilt was installed without a compiler, takes a fraction of the
    time. The outputs fit the head of `actor_policy`.
    """

    def __init__(self, actor: Actor) -> None:
        self._mean, self._std = _copy(actor.observation_mean), _copy(actor.observation_std)
        linears = [layer for layer in actor.layers if isinstance(layer, nn.Linear)]
        self._layers = [part for linear in linears for part in (_copy(linear.weight).T, _copy(linear.bias))]
        self._padded = tuple(map(native.padded, self._layers))
        self._log_std = None if actor.log_std is None else for_deviation(_copy(actor.log_std))
        self._squash, self._tanh = actor.squash, actor.activation == "tanh"

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        """Map (n, obs_dim) float32 to logits (n, A) float32, or to numbers (n, dim) with their deviations, if any."""
        in_c = native.perceive is not None and len(observations) > 0
        outputs = self._in_c(observations) if in_c else self._in_numpy(observations)
        if self._squash or self._log_std is None:
            return outputs
        return np.concatenate([outputs, np.broadcast_to(self._log_std, outputs.shape)], axis=1)

    def _in_c(self, observations: np.ndarray) -> np.ndarray:
        (n, n_inputs), n_outputs = observations.shape, len(self._layers[-1])
        x, out = native.rows(n, n_inputs), native.rows(n, n_outputs)
        np.divide(observations - self._mean, self._std, out=x[:n, :n_inputs])
        native.perceive(self._padded, x, out, len(x), self._tanh, self._squash)
        return out[:n, :n_outputs]

    def _in_numpy(self, observations: np.ndarray) -> np.ndarray:
        x = (observations - self._mean) / self._std
        for i in range(0, len(self._layers), 2):
            x = (np.tanh(x) if self._tanh else np.maximum(x, 0.0)) if i else x
            x = x @ self._layers[i] + self._layers[i + 1]
        return np.tanh(x) if self._squash else x


def actor_policy(actor: Actor, action_space: ActionSpace, *, privileged: bool, deterministic: bool) -> NetworkPolicy:
    """Build the policy of an actor: it takes the most likely action or samples. With `squash`, it never samples."""
    head: ActionHead = Categorical(action_space=action_space)
    if action_space.continuous:
        head = Regression(action_space=action_space) if actor.squash else Gaussian(action_space=action_space)
    always = deterministic or actor.squash
    return NetworkPolicy(FastActor(actor), head, action_space, deterministic=always, privileged=privileged)


def mlp(sizes: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """Build linear layers with activations between them and orthogonal weights, as is usual for PPO and A2C.

    The gains are √2 for hidden layers and 0.01 for the output, so that a new policy is close to uniform
    (Andrychowicz et al. 2021, "What matters for on-policy deep actor-critic methods?", section 3.2).
    """
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        linear = nn.Linear(n_in, n_out)
        nn.init.orthogonal_(linear.weight, 0.01 if last else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, activation()]
    return nn.Sequential(*layers)


def _copy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()
