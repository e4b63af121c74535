"""Toy environments with known answers."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ilt.envs.spec import EnvSpec

BLOCKS = {"demonstrations": (0, 1000), "validation": (1000, 100), "selection": (2000, 100), "test": (3000, 100)}


class Countdown(gym.Env[np.ndarray, int]):
    """Observes [steps left, seed]; the reward is the action; terminates after 1 + seed % 5 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        assert seed is not None
        self._seed, self._left = seed, 1 + seed % 5
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._left -= 1
        return self._observe(), float(action), self._left == 0, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self._left, self._seed], dtype=np.float32)


class Recall(gym.Env[np.ndarray, int]):
    """Observes a random bit; the right action, worth 1, is the previous step's bit (0 at the start).

    Only a policy with memory can be right more than half of the time. Terminates after 12 steps.
    """

    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._bits = np.concatenate([[0], self.np_random.integers(0, 2, 13)])
        self._t = 0
        return self._observe(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        right = int(action == self._bits[self._t])
        self._t += 1
        return self._observe(), float(right), self._t == 12, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self._bits[self._t + 1]], dtype=np.float32)


class Echo(gym.Env[Any, Any]):
    """Any spaces: observations are drawn from the seed and all actions so far; the reward is the sum of the action.

    `info["episode_params"]` has a level that depends on the seed. Episodes with an odd seed terminate after 4 steps,
    the others never.
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._history = [seed]
        return self._observe(), {"episode_params": {"level": float(seed % 7)}}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self._history += np.ravel(np.array(action, dtype=np.float32)).view(np.uint32).tolist()
        return self._observe(), float(np.sum(action)), self._done(), False, {}

    def _done(self) -> bool:
        n_steps = (len(self._history) - 1) // max(int(np.prod(self.action_space.shape)), 1)
        return self._history[0] % 2 == 1 and n_steps == 4

    def _observe(self) -> Any:
        self.observation_space.seed(int(np.random.SeedSequence(self._history).generate_state(1)[0]))
        return self.observation_space.sample()


gym.register("ilt-toys/Countdown-v0", Countdown, max_episode_steps=3)
gym.register("ilt-toys/Recall-v0", Recall)
gym.register("ilt-toys/Echo-v0", Echo, max_episode_steps=6)

VECTOR = spaces.Box(-1.0, 1.0, (2,))
MULTI = spaces.MultiDiscrete([3, 2], start=[1, -1])
TENSOR = spaces.Box(np.array([[0, 1, 2], [-3, -2, -1]], np.float32), np.array([[1, 3, 5], [7, 9, 11]], np.float32))
HIDING = spaces.Dict({"observation": spaces.Dict({"a": VECTOR, "b": spaces.Discrete(3)}), "privileged": VECTOR})


def countdown() -> EnvSpec:
    """Return `Countdown` with a time limit of 3 steps: seeds 0, 1 and 2 of five terminate, 3 and 4 are truncated."""
    return EnvSpec(id="ilt-toys/Countdown-v0", success_return=3.0, crash_reward=0.0, seed_blocks=BLOCKS)


def recall() -> EnvSpec:
    """Return `Recall` without a time limit."""
    return EnvSpec(id="ilt-toys/Recall-v0", success_return=12.0, seed_blocks=BLOCKS)


def echo(observations: spaces.Space[Any] = VECTOR, actions: spaces.Space[Any] = MULTI) -> EnvSpec:
    """Return `Echo` with a time limit of 6 steps."""
    kwargs = {"observation_space": observations, "action_space": actions}
    return EnvSpec(id="ilt-toys/Echo-v0", kwargs=kwargs, seed_blocks=BLOCKS)
