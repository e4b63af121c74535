"""Hand-written controllers."""

import gymnasium as gym
import numpy as np
from gymnasium.envs.box2d.lunar_lander import heuristic

from ilt.envs.heuristics import HEURISTICS
from ilt.envs.spec import EnvSpec


def test_the_lander_has_the_heuristic_that_its_config_names(lander: EnvSpec) -> None:
    assert lander.heuristic in HEURISTICS


def test_the_heuristic_acts_as_gymnasium_does_on_any_observation() -> None:
    rng = np.random.default_rng(0)
    observations = rng.normal(0, 0.5, (500, 8)).astype(np.float32)
    observations[:, 6:] = rng.integers(0, 2, (500, 2))
    env = gym.make("LunarLander-v3")
    actions = HEURISTICS["lunar_lander"](observations)
    assert actions.tolist() == [heuristic(env, observation) for observation in observations]
    assert sorted(set(actions.tolist())) == [0, 1, 2, 3]
    assert actions.dtype == np.int64
