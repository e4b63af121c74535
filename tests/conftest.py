"""Fixtures shared by several tests."""

import numpy as np
import pytest
import torch

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.rollout import workers

torch.set_num_threads(1)  # tests run in several processes
workers.PRELOADED.append("pytest")  # workers import the parent's __main__, which is pytest


@pytest.fixture(scope="session")
def lander() -> EnvSpec:
    """The Lunar Lander as `conf/env/lunar_lander.yaml` describes it."""
    heuristic = "ilt.envs.lunar_lander.heuristic"
    return EnvSpec(id="LunarLander-v3", success_return=200.0, crash_reward=-100.0, heuristic=heuristic)


@pytest.fixture
def two_episodes() -> Episodes:
    """Episodes of 3 and 2 steps; observation t of episode e is [10 e + t, −t], and its action is (e + t) % 4."""
    return Episodes(
        observations=np.array([[0, 0], [1, -1], [2, -2], [3, -3], [10, 0], [11, -1], [12, -2]], dtype=np.float32),
        actions=np.array([0, 1, 2, 1, 2]),
        rewards=np.array([1.0, 2.0, 3.0, 10.0, -100.0]),
        lengths=np.array([3, 2]),
        terminated=np.array([False, True]),
        truncated=np.array([True, False]),
        seeds=np.array([7, 8]),
    )
