"""Components of a third-party package, each named by a `_target_` in `memory_lab/conf`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ilt


def teacher(observations: np.ndarray) -> np.ndarray:
    """Return the expert's actions for (n, 3) observations, whose last column is privileged."""
    return np.where(observations[:, 2] > 0, 2, 1)


class GRU(ilt.SequenceModel):
    """A model without its own stepper: the window is recomputed at every step."""

    def __init__(self, *, width: int = 16, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.embed_observation = nn.Linear(self.observation_dim, width)
        self.embed_action = ilt.embed_actions(self.action_space, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, self.n_outputs)

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        past = nn.functional.pad(self.embed_action(actions[:, :-1]), (0, 0, 1, 0))
        hidden, _ = self.gru(self.embed_observation(self.normalize(observations)) + past)
        return self.out(hidden)


def recordings(env: ilt.EnvSpec, block: str, *, n: int = 40) -> ilt.Episodes:
    """Return recorded episodes; a data source can be a plain function."""
    seeds = env.seeds(block, n)
    cues = np.array([np.random.Generator(np.random.PCG64(int(seed))).integers(2) for seed in seeds])
    first = np.arange(11) == 0
    times = np.broadcast_to(np.arange(11) / 10, (n, 11))
    observations = np.stack([(2 * cues[:, None] - 1) * first, times], axis=-1)
    return ilt.Episodes(
        observations=observations.reshape(-1, 2).astype(np.float32),
        actions=np.repeat(cues + 1, 10),
        rewards=np.ones(10 * n),
        lengths=np.full(n, 10),
        terminated=np.zeros(n, bool),
        truncated=np.ones(n, bool),
        seeds=seeds,
    )


class RandomStart(ilt.Imitation):
    """An imitation algorithm in which a random policy acts in each round and the expert labels every step."""

    def round_policy(self, round: ilt.Round) -> tuple[ilt.Policy, Mapping[str, Any]]:
        return _Labeled(round.expert, round.env.action_space), {"acts": "random"}


class _Labeled(ilt.Policy):
    privileged = True

    def __init__(self, expert: ilt.Policy, action_space: ilt.ActionSpace) -> None:
        self._expert, self._space, self._rng = expert, action_space, np.random.default_rng(0)
        self.labels = action_space.zeros(0)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.labels = self._expert.act(slots, observations)
        return self._space.sample(self._rng.random((len(slots), 1)))


def adam(model: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """Return a plain Adam optimizer."""
    return torch.optim.Adam(model.parameters(), lr=learning_rate)
