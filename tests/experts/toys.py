"""Toy environments with known answers for every kind of action."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ilt.envs.spec import EnvSpec
from ilt.tracking.store import SHIPPED, read_manifest
from tests.toys import BLOCKS, countdown


class Target(gym.Env[np.ndarray, Any]):
    """Observes a target, −1 or 1, and its negative; for 6 steps, the cost is the squared distance of the action.

    The first choice means −1 and the last 1; numbers are used as they are, so the best ones are within the bounds.
    """

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, kind: str) -> None:
        self.action_space = SPACES[kind]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._left = 6
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action), action
        space = self.action_space
        if isinstance(space, spaces.Box):
            meant = np.asarray(action).ravel()
        elif isinstance(space, spaces.Discrete):
            meant = 2 * (np.array([action]) - space.start) / (space.n - 1) - 1
        else:
            meant = 2 * (action - space.start) / (space.nvec - 1) - 1
        cost, self._left = float(((meant - self._target) ** 2).mean()), self._left - 1
        return self._observe(), -cost, self._left == 0, False, {}

    def _observe(self) -> np.ndarray:
        self._target = self.np_random.choice([-1.0, 1.0])
        return np.array([self._target, -self._target], dtype=np.float32)


SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(3, start=-1),
    "multi_discrete": spaces.MultiDiscrete([2, 3], start=[0, 4]),
    "box": spaces.Box(np.array([-2, -1.5], np.float32), np.array([2, 4], np.float32)),
}


gym.register("ilt-toys/Target-v0", Target)


def target(kind: str) -> EnvSpec:
    """Return `Target` with actions of one kind in `SPACES`."""
    return EnvSpec(id="tests.experts.toys:ilt-toys/Target-v0", kwargs={"kind": kind}, seed_blocks=BLOCKS)


def learned_from(first: int, count: int = 1) -> EnvSpec:
    """Return a `Countdown` whose training episodes use `count` seeds from `first`."""
    return replace(countdown(), seed_blocks={**BLOCKS, "demonstrations": (first, count)})


def shipped(command: str) -> Path:
    """Return the folder of the shipped expert that a command made."""
    folders = (path.parent for path in SHIPPED["experts"].glob("*/manifest.json"))
    return next(folder for folder in folders if read_manifest(folder)["command"] == command)
