"""Wrappers that hide parts of the observation from a student."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from ilt.envs.observations import ObservationLayout
from ilt.envs.spec import EnvSpec
from ilt.envs.wrappers import MaskObservation
from ilt.schema import ConfigError
from tests.envs.test_lunar_lander import RANGES, bare, run
from tests.toys import HIDING, Echo


def test_masked_places_move_from_the_student_to_the_privileged_part() -> None:
    plain, masked = run(bare(), 3), MaskObservation(bare(), hide=[5, 2, 3])
    observations, rewards = run(masked, 3)
    np.testing.assert_array_equal(observations, plain[0][:, [0, 1, 4, 6, 7, 2, 3, 5]])
    assert rewards == plain[1]
    layout, space = ObservationLayout.of(masked, key="env.id"), bare().observation_space
    assert layout.names == tuple(f"observation[{place}]" for place in (0, 1, 4, 6, 7))
    assert layout.privileged_names == tuple(f"observation[{place}]" for place in (2, 3, 5))
    assert masked.observation_space["observation"].high.tolist() == space.high[[0, 1, 4, 6, 7]].tolist()
    assert masked.observation_space["privileged"].low.tolist() == space.low[[2, 3, 5]].tolist()


def test_a_spec_applies_wrappers_in_config_order(lander: EnvSpec) -> None:
    physics: dict[str, Any] = {"_target_": "ilt.envs.lunar_lander.RandomizedPhysics", **RANGES}
    mask = {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [2, 3, 5]}
    inner, spec = (EnvSpec(id=lander.id, wrappers=given) for given in ({"p": physics}, {"p": physics, "mask": mask}))
    seen, whole = run(spec.make(), 4)[0], run(inner.make(), 4)[0]
    np.testing.assert_array_equal(seen, whole[:, [0, 1, 4, 6, 7, 2, 3, 5, *range(8, 15)]])
    hidden, layout = tuple(f"observation[{place}]" for place in (2, 3, 5)), spec.observations
    assert (layout.dim, layout.privileged_names) == (5, (*hidden, *inner.observations.privileged_names))
    assert spec.episode_params == tuple(RANGES)
    assert spec.make().reset(seed=4)[1]["episode_params"] == inner.make().reset(seed=4)[1]["episode_params"]
    with pytest.raises(ConfigError, match="must be the first wrapper of a LunarLander"):
        _ = EnvSpec(id=lander.id, wrappers={"mask": mask, "p": physics}).observations


@pytest.mark.parametrize("hide", [[], [8], [-1], [2, 2], list(range(8))])
def test_invalid_places_to_hide_are_refused(hide: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"hide must be some of the indices 0 to 7, each once"):
        MaskObservation(bare(), hide=hide)


@pytest.mark.parametrize("space", [HIDING, spaces.Discrete(4), spaces.Box(0, 1, (2, 3))], ids=str)
def test_observations_other_than_vectors_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(ConfigError, match="MaskObservation needs flat observations"):
        MaskObservation(Echo(space, spaces.Discrete(2)), hide=[0])
