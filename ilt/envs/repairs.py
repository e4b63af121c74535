"""Repairs of Gymnasium's environments: a seed given to `reset` determines the episode, and videos show the robot."""

from collections.abc import Callable, Mapping
from typing import Any

from ilt.schema import path_of


def repair(env: Any) -> None:
    """Repair an environment in place if it is one of `REPAIRS`."""
    for base in type(env).__mro__:
        if (change := REPAIRS.get(path_of(base))) is not None:
            change(env)


def _bipedal_walker(env: Any) -> None:
    """Make a new Box2D world for every episode, as Gymnasium's Lunar Lander does (Gymnasium's issue 728).

    Contacts are solved in the order of their bodies' places in the world's memory, which depends on earlier episodes.
    """
    import Box2D

    destroy = env._destroy  # the first thing that reset calls

    def destroy_everything() -> None:
        destroy()
        env.world = Box2D.b2World(gravity=env.world.gravity)

    env._destroy = destroy_everything


def _mujoco(env: Any) -> None:
    """Let the camera follow the robot unless another is chosen, as Gymnasium did before 1.4.

    It now places a free camera, which stands still even if the configuration names a body to track, and ignores the
    model's own camera.
    """
    import mujoco

    renderer, config = env.mujoco_renderer, env.mujoco_renderer.default_cam_config or {}
    track = mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if (env.camera_id, env.camera_name) != (None, None):
        return
    if "trackbodyid" in config:
        renderer.camera_id = None  # otherwise the type of the camera is overwritten for each frame
        renderer.default_cam_config = {"type": mujoco.mjtCamera.mjCAMERA_TRACKING, **config}
    elif track != -1:
        renderer.camera_id = track


REPAIRS: Mapping[str, Callable[[Any], None]] = {
    "gymnasium.envs.box2d.bipedal_walker.BipedalWalker": _bipedal_walker,
    "gymnasium.envs.mujoco.mujoco_env.MujocoEnv": _mujoco,
}
"""The class of an environment, and a function that repairs it."""
