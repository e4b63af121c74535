"""Repaired environments of Gymnasium."""

import numpy as np
import pytest

from ilt.envs.spec import EnvSpec
from tests.envs.test_physics import bare, run


@pytest.mark.parametrize("id", ["BipedalWalker-v3"])
def test_an_episode_does_not_depend_on_earlier_ones(id: str) -> None:
    used = bare(id)
    for seed in (9, 3, 8):
        fresh = bare(id)
        np.testing.assert_array_equal(run(used, seed, 300), run(fresh, seed, 300))


def test_the_camera_of_a_robot_follows_it_unless_another_is_chosen() -> None:
    mujoco = pytest.importorskip("mujoco")
    followed = EnvSpec(id="HalfCheetah-v5").make().unwrapped
    assert followed.mujoco_renderer.camera_id == followed.model.camera("track").id
    free = EnvSpec(id="HalfCheetah-v5", kwargs={"camera_id": -1}).make().unwrapped
    assert free.mujoco_renderer.camera_id == -1
    configured = EnvSpec(id="Hopper-v5").make().unwrapped.mujoco_renderer
    assert (configured.camera_id, configured.default_cam_config["type"]) == (None, mujoco.mjtCamera.mjCAMERA_TRACKING)
    assert configured.default_cam_config["distance"] == 3.0
