"""Repairs of Gymnasium's environments in which the seed given to `reset` would not determine the episode."""

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


REPAIRS: Mapping[str, Callable[[Any], None]] = {
    "gymnasium.envs.box2d.bipedal_walker.BipedalWalker": _bipedal_walker,
}
"""The class of an environment, and a function that repairs it."""
