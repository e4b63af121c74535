"""Schemas of wrappers and hand-written controllers; that of an environment stands beside it, in `ilt.envs.spec`.

Wrappers are named by the path that they had when the shipped experts, whose identities hold these names, were trained.
"""

from ilt.schema import component, key

_MASK, _PHYSICS = "ilt.envs.wrappers.MaskObservation", "ilt.envs.lunar_lander.RandomizedPhysics"


@component("env.wrappers", _MASK, _MASK)
class MaskObservation:
    """Takes numbers of the observation away from students."""

    hide: list[int] = key("???", "Places of the hidden numbers.", ge=0)


@component("env.wrappers", _PHYSICS, _PHYSICS, open=True)
class RandomizedPhysics:
    """Draws the lander's physics anew for every episode; its keys are the parameters that vary."""


@component("env.heuristic", "lunar_lander", "ilt.envs.lunar_lander.heuristic")
class LunarLanderHeuristic:
    """Gymnasium's controller of the Lunar Lander."""
