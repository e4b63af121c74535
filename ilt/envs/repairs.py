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
    """Let the camera follow the robot where Gymnasium 1.4 ignores the model's own camera and names no other body."""
    import mujoco

    renderer, chosen = env.mujoco_renderer, (env.camera_id, env.camera_name)
    track = mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    if chosen == (None, None) and track != -1 and "trackbodyid" not in (renderer.default_cam_config or {}):
        renderer.camera_id = track


REPAIRS: Mapping[str, Callable[[Any], None]] = {
    "gymnasium.envs.box2d.bipedal_walker.BipedalWalker": _bipedal_walker,
    "gymnasium.envs.mujoco.mujoco_env.MujocoEnv": _mujoco,
}
"""The class of an environment, and a function that repairs it."""
