"""An environment that shows a cue once; a privileged teacher sees it at every step."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Cue(gym.Env[dict[str, np.ndarray], int]):
    """The right action, worth 1, is the episode's cue, which students see only at the first step. 10 steps."""

    observation_space = spaces.Dict(
        {"observation": spaces.Box(-1, 1, (2,), np.float32), "privileged": spaces.Box(-1, 1, (1,), np.float32)}
    )
    action_space = spaces.Discrete(2, start=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._cue, self._t = int(self.np_random.integers(2)), 0
        return self._observe(), {"episode_params": {"cue": self._cue}}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in (1, 2)
        self._t += 1
        return self._observe(), float(action - 1 == self._cue), False, False, {}

    def _observe(self) -> dict[str, np.ndarray]:
        sign = 2.0 * self._cue - 1.0
        seen = [sign if self._t == 0 else 0.0, self._t / 10]
        return {"observation": np.array(seen, np.float32), "privileged": np.array([sign], np.float32)}
