"""What a student is not shown."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from ilt.envs.lunar_lander import RandomizedPhysics
from ilt.envs.observations import ObservationLayout
from ilt.envs.spec import EnvSpec
from ilt.envs.wrappers import MaskObservation
from ilt.schema import ConfigError
from tests.envs.test_lunar_lander import RANGES, bare, run
from tests.toys import HIDING, Echo


def test_the_student_loses_what_is_masked_and_a_teacher_finds_it_behind() -> None:
    plain, masked = run(bare(), 3), MaskObservation(bare(), hide=[5, 2, 3])
    observations, rewards = run(masked, 3)
    np.testing.assert_array_equal(observations, plain[0][:, [0, 1, 4, 6, 7, 2, 3, 5]])
    assert rewards == plain[1]
    layout, space = ObservationLayout.of(masked, key="env.id"), bare().observation_space
    assert layout.names == tuple(f"observation[{place}]" for place in (0, 1, 4, 6, 7))
    assert layout.privileged_names == tuple(f"observation[{place}]" for place in (2, 3, 5))
    assert masked.observation_space["observation"].high.tolist() == space.high[[0, 1, 4, 6, 7]].tolist()
    assert masked.observation_space["privileged"].low.tolist() == space.low[[2, 3, 5]].tolist()


@pytest.mark.parametrize("id", ["CartPole-v1", "Pendulum-v1", "Acrobot-v1"])
def test_any_flat_observation_can_be_masked(id: str) -> None:
    whole, _ = gym.make(id).reset(seed=1)
    seen, _ = MaskObservation(gym.make(id).unwrapped, hide=[1]).reset(seed=1)
    assert seen["observation"].tolist() == np.delete(whole, 1).tolist()
    assert seen["privileged"].tolist() == [whole[1]]


def test_wrappers_on_each_other() -> None:
    inner = RandomizedPhysics(bare(), **RANGES)
    env = MaskObservation(RandomizedPhysics(bare(), **RANGES), hide=[2, 3, 5])
    np.testing.assert_array_equal(run(env, 4)[0], run(inner, 4)[0][:, [0, 1, 4, 6, 7, 2, 3, 5, *range(8, 15)]])
    layout = ObservationLayout.of(env, key="env.id")
    hidden = tuple(f"observation[{place}]" for place in (2, 3, 5))
    assert (layout.dim, layout.privileged_names) == (5, (*hidden, *inner.privileged_names))
    assert env.reset(seed=4)[1]["episode_params"] == inner.reset(seed=4)[1]["episode_params"]


def test_a_spec_wraps_in_the_order_of_its_config(lander: EnvSpec) -> None:
    physics: dict[str, Any] = {"_target_": "ilt.envs.lunar_lander.RandomizedPhysics"}
    mask = {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [2, 3, 5]}
    spec = EnvSpec(id=lander.id, wrappers={"physics": physics, "mask": mask})
    assert (spec.observations.dim, spec.observations.size(privileged=True)) == (5, 15)
    assert spec.episode_params == tuple(RANGES)
    with pytest.raises(ConfigError, match="must be the first wrapper of a LunarLander"):
        _ = EnvSpec(id=lander.id, wrappers={"mask": mask, "physics": physics}).observations


@pytest.mark.parametrize("hide", [[], [8], [-1], [2, 2], list(range(8))])
def test_places_that_cannot_be_hidden_are_refused(hide: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"hide must be some of the places 0 to 7, each once"):
        MaskObservation(bare(), hide=hide)


@pytest.mark.parametrize("space", [HIDING, spaces.Discrete(4), spaces.Box(0, 1, (2, 3))], ids=str)
def test_observations_that_are_not_flat_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(ConfigError, match="MaskObservation needs flat observations"):
        MaskObservation(Echo(space, spaces.Discrete(2)), hide=[0])
