"""The lander with recorded episodes, whatever the policy does."""

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import gymnasium as gym
import numpy as np


class RecordedEpisodes(gym.Wrapper):
    """Takes the recorded action instead of the one it is given, so an untrained policy sees the expert's episodes.

    Resets use the recorded seeds of `episodes`, in a cycle. An episode is truncated when its record ends, since
    LunarLander-v2 is not fully deterministic. `n_steps` counts the steps.
    """

    def __init__(self, env_id: str, arrays: dict[str, np.ndarray], episodes: Iterable[int]) -> None:
        super().__init__(gym.make(env_id, disable_env_checker=True))
        actions = np.split(arrays["actions"], np.cumsum(arrays["lengths"])[:-1])
        self._episodes = cycle([(int(arrays["seeds"][i]), actions[i]) for i in episodes])
        self.n_steps = 0

    def reset(self, **_: Any) -> Any:
        seed, actions = next(self._episodes)
        self._actions = actions.tolist()[::-1]
        return self.env.reset(seed=seed)

    def step(self, _: Any) -> Any:
        self.n_steps += 1
        observation, reward, terminated, truncated, info = self.env.step(self._actions.pop())
        return observation, reward, terminated, truncated or not self._actions, info
