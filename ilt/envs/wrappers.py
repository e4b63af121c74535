"""Wrappers that hide part of an observation from students, for any environment with flat observations."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ilt.envs.observations import OBSERVATION, PRIVILEGED
from ilt.schema import ConfigError


class MaskObservation(gym.Wrapper[Any, Any, Any, Any]):
    """Hides entries of the observation from students; a privileged teacher still sees them.

    Observations become a `Dict` of `observation` and `privileged`. The privileged part contains the hidden entries in
    order, followed by what the wrapped environment already hides.

    Args:
        env: an environment whose observations, or the part that students see, are a flat Box.
        hide: indices of the hidden entries, counted from 0.

    Attributes:
        observation_names, privileged_names: names of the entries of each part.

    Raises:
        ConfigError: observations are not flat, or `hide` is not a proper subset of their indices.
    """

    def __init__(self, env: gym.Env[Any, Any], *, hide: Sequence[int]) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        behind = None
        if isinstance(space, spaces.Dict) and set(space) == {OBSERVATION, PRIVILEGED}:
            space, behind = space[OBSERVATION], space[PRIVILEGED]
        if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not isinstance(behind, spaces.Box | None):
            raise ConfigError(f"env.wrappers: MaskObservation needs flat observations, got {env.observation_space}")
        n, hidden = space.shape[0], sorted(set(hide))
        if len(hidden) != len(hide) or not 0 < len(hidden) < n or hidden[0] < 0 or hidden[-1] >= n:
            raise ConfigError(
                f"env.wrappers: MaskObservation.hide must be some of the indices 0 to {n - 1}, each once, got "
                f"{list(hide)}"
            )
        self._hidden = np.array(hidden)
        self._kept = np.setdiff1d(np.arange(n), self._hidden)
        names = [f"{OBSERVATION}[{place}]" for place in range(n)]
        inner = (
            ()
            if behind is None
            else getattr(env, f"{PRIVILEGED}_names", [f"{PRIVILEGED}[{i}]" for i in range(behind.shape[0])])
        )
        self.observation_names = tuple(names[place] for place in self._kept)
        self.privileged_names = (*(names[place] for place in hidden), *inner)
        low, high = space.low[self._hidden], space.high[self._hidden]
        if behind is not None:
            low, high = np.concatenate([low, behind.low]), np.concatenate([high, behind.high])
        self.observation_space = spaces.Dict(
            {
                OBSERVATION: spaces.Box(space.low[self._kept], space.high[self._kept]),
                PRIVILEGED: spaces.Box(low, high),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._split(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._split(observation), reward, terminated, truncated, info

    def _split(self, observation: Any) -> dict[str, np.ndarray]:
        if isinstance(observation, dict):
            seen, behind = observation[OBSERVATION], observation[PRIVILEGED]
            return {OBSERVATION: seen[self._kept], PRIVILEGED: np.concatenate([seen[self._hidden], behind])}
        return {OBSERVATION: observation[self._kept], PRIVILEGED: observation[self._hidden]}
