"""The plain actor network in which every trained expert ends."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from ilt.tracking.weights import load_weights, save_weights


class Actor(nn.Module):
    """A tanh MLP from one observation to action logits, with its observation normalization inside.

    Args:
        observation_dim: size of one observation.
        n_actions: number of discrete actions.
        hidden: width of each hidden layer.
    """

    observation_mean: Tensor
    observation_std: Tensor

    def __init__(self, *, observation_dim: int, n_actions: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.sizes = {"observation_dim": observation_dim, "n_actions": n_actions, "hidden": list(hidden)}
        self.register_buffer("observation_mean", torch.zeros(observation_dim))
        self.register_buffer("observation_std", torch.ones(observation_dim))
        self.layers = mlp([observation_dim, *hidden, n_actions])

    def forward(self, observations: Tensor) -> Tensor:
        """(B, observation_dim) float32 to logits (B, n_actions) float32."""
        return self.layers((observations - self.observation_mean) / self.observation_std)

    def save(self, path: Path) -> None:
        """Write weights and sizes to one safetensors file."""
        save_weights(self, path, self.sizes)

    @classmethod
    def load(cls, path: Path) -> "Actor":
        """Read what `save` wrote."""
        sizes, state = load_weights(path)
        actor = cls(**sizes)
        actor.load_state_dict(state)
        return actor.eval()


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with tanh between them; orthogonal weights, as PPO and A2C are usually started.

    Gains: √2 for hidden layers, 0.01 for the output, so that a new policy is close to uniform
    (Andrychowicz et al. 2021, "What matters for on-policy deep actor-critic methods?", section 3.2).
    """
    layers: list[nn.Module] = []
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        linear = nn.Linear(n_in, n_out)
        nn.init.orthogonal_(linear.weight, 0.01 if last else 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)
