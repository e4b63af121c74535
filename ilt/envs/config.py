"""Schemas of wrappers and hand-written controllers. The schema of an environment is in `ilt.envs.spec`.

The names of wrappers are part of the shipped experts' identities, so they must not change, even if the code moves.
"""

from ilt.schema import component, key

_MASK, _PHYSICS = "ilt.envs.wrappers.MaskObservation", "ilt.envs.physics.RandomizedPhysics"
_LANDER_PHYSICS = "ilt.envs.lunar_lander.RandomizedPhysics"


@component("env.wrappers", _MASK, _MASK)
class MaskObservation:
    """Hides entries of the observation from students."""

    hide: list[int] = key("???", "Indices of the hidden entries.", ge=0)


@component("env.wrappers", _PHYSICS, _PHYSICS, open=True)
class RandomizedPhysics:
    """Draws new physics for every episode. Its keys are the factors that vary, each a `[low, high]`."""


@component("env.wrappers", _LANDER_PHYSICS, _LANDER_PHYSICS, open=True)
class LunarLanderPhysics:
    """Draws new lander physics for every episode. Its keys are the parameters that vary."""


@component("env.heuristic", "lunar_lander", "ilt.envs.lunar_lander.heuristic")
class LunarLanderHeuristic:
    """Gymnasium's controller for the Lunar Lander."""


@component("env.heuristic", "lunar_lander_continuous", "ilt.envs.lunar_lander.heuristic_continuous")
class LunarLanderContinuousHeuristic:
    """Gymnasium's controller for the Lunar Lander with continuous thrust."""


@component("env.heuristic", "bipedal_walker", "ilt.experts.heuristics.BipedalWalker")
class BipedalWalkerHeuristic:
    """Gymnasium's controller for BipedalWalker."""
