"""Many environments stepped in one process, with nothing between the caller and `Env.step`."""

from collections.abc import Mapping
from typing import SupportsIndex

import numpy as np
from gymnasium import spaces

from ilt.envs.spec import EnvSpec
from ilt.envs.wrappers import facts


class EnvBatch:
    """`n_envs` environments in slots 0 … n_envs − 1. The caller decides when a slot is reset, and with which seed.

    Nothing is reset behind the caller's back, so the last observation of an episode is never lost.

    Args:
        privileged: whether `observations` hold what is hidden from the student too.

    Attributes:
        observations: (n_envs, obs_dim) float32, the newest observation of each slot.
        everything: the same with what is hidden from the student, which stands behind what it sees.
        observation_dim, n_actions: sizes of one observation and of the discrete action set.
        observation_space, action_space: Gymnasium's descriptions of these.
    """

    def __init__(self, spec: EnvSpec, n_envs: int, *, privileged: bool = False) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {n_envs}")
        self.observation_dim, self.n_actions = spec.sizes(privileged=privileged)
        self.n_envs = n_envs
        self._envs = [spec.make() for _ in range(n_envs)]
        space, self.action_space = self._envs[0].observation_space, self._envs[0].action_space
        assert isinstance(space, spaces.Box)
        self.observation_space = spaces.Box(space.low[: self.observation_dim], space.high[: self.observation_dim])
        self.everything = np.zeros((n_envs, *space.shape), dtype=np.float32)
        self.observations = self.everything[:, : self.observation_dim]
        self._steps = [env.step for env in self._envs]
        self._elapsed = np.zeros(n_envs, dtype=np.int64)
        self._limit = spec.max_episode_steps or np.inf

    def reset(self, slot: SupportsIndex, seed: int) -> None:
        """Start the episode of `seed` in a slot."""
        self.everything[slot], _ = self._envs[slot].reset(seed=int(seed))
        self._elapsed[slot] = 0

    def facts(self, slot: SupportsIndex) -> Mapping[str, float]:
        """What the episode in a slot was drawn to be, such as its physics, by name."""
        return facts(self._envs[slot])

    def step(self, slots: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Act once in each of `slots`; `observations` then holds what is seen after the action.

        Args:
            slots: (n,) slots that are in an episode.
            actions: (n,) int64, one for each of them.

        Returns:
            rewards (n,) float64, terminated (n,) bool, truncated (n,) bool. An episode that ends by itself on its
            last allowed step is terminated, not truncated.
        """
        rewards = np.zeros(len(slots))
        terminated, cut = np.zeros(len(slots), dtype=bool), np.zeros(len(slots), dtype=bool)
        observations, steps = self.everything, self._steps
        for i, (slot, action) in enumerate(zip(slots.tolist(), actions.tolist(), strict=True)):
            observations[slot], rewards[i], terminated[i], cut[i], _ = steps[slot](action)
        self._elapsed[slots] += 1
        return rewards, terminated, (cut | (self._elapsed[slots] >= self._limit)) & ~terminated

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
