"""Many environments stepped in one process, without overhead between the caller and `Env.step`."""

from collections.abc import Mapping
from typing import SupportsIndex

import numpy as np
from gymnasium import spaces

from ilt.envs.spec import EnvSpec


class EnvBatch:
    """`n_envs` environments in slots 0 … n_envs − 1. The caller decides when to reset a slot and with which seed.

    There is no autoreset, so the final observation of an episode is never lost.

    Args:
        spec: the environment.
        n_envs: number of slots, at least 1.
        privileged: whether `observations` include what is hidden from students.

    Attributes:
        observations: (n_envs, dim) float32, the latest observation of each slot.
        everything: (n_envs, dim + privileged) float32, the same, followed by what is hidden from students.
        action_space: the actions that `step` takes.
        episode_params: the parameters drawn for the episode in each slot, such as its physics, by name.
    """

    def __init__(self, spec: EnvSpec, n_envs: int, *, privileged: bool = False) -> None:
        if n_envs < 1:
            raise ValueError(f"n_envs must be at least 1, got {n_envs}")
        self.n_envs = n_envs
        self._layout, self.action_space = spec.observations, spec.action_space
        self._envs = [spec.make() for _ in range(n_envs)]
        self.everything = np.zeros((n_envs, self._layout.size(privileged=True)), dtype=np.float32)
        self.observation_dim = self._layout.size(privileged=privileged)
        self.observations = self.everything[:, : self.observation_dim]
        self._write = self._layout.writer
        self._steps = [env.step for env in self._envs]
        self._elapsed = np.zeros(n_envs, dtype=np.int64)
        self._limit = spec.max_episode_steps or np.inf
        self.episode_params: list[Mapping[str, float]] = [{}] * n_envs

    @property
    def observation_space(self) -> spaces.Box:
        """The Box of one row of `observations`, with the bounds of the environment's flattened space."""
        parts = [self._layout.space, self._layout.privileged_space]
        flat = [spaces.flatten_space(part) for part in parts if part is not None]
        low, high = (
            np.concatenate([np.asarray(getattr(part, end), dtype=np.float32) for part in flat])
            for end in ("low", "high")
        )
        return spaces.Box(low[: self.observation_dim], high[: self.observation_dim])

    def reset(self, slot: SupportsIndex, seed: int) -> None:
        """Start the episode of `seed` in a slot."""
        observation, info = self._envs[slot].reset(seed=int(seed))
        self._write(self.everything[slot], observation)
        self.episode_params[slot] = info.get("episode_params", {})
        self._elapsed[slot] = 0

    def step(self, slots: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Step each of `slots` once; `observations` then contains the observations after the action.

        Args:
            slots: (n,) int64, slots with an active episode.
            actions: (n,) or (n, dim), one for each slot, in the simulator's units.

        Returns:
            rewards (n,) float64, terminated (n,) bool, truncated (n,) bool. An episode that terminates on its last
            allowed step is not truncated.
        """
        rewards = np.zeros(len(slots))
        terminated, cut = np.zeros(len(slots), dtype=bool), np.zeros(len(slots), dtype=bool)
        everything, steps, write = self.everything, self._steps, self._write
        taken = zip(slots.tolist(), self.action_space.for_simulator(actions), strict=True)
        for i, (slot, action) in enumerate(taken):
            observation, rewards[i], terminated[i], cut[i], _ = steps[slot](action)
            write(everything[slot], observation)
        self._elapsed[slots] += 1
        return rewards, terminated, (cut | (self._elapsed[slots] >= self._limit)) & ~terminated

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()
