"""Hand-written controllers, by the name under which an env's config asks for one."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np
from gymnasium.envs.box2d.lunar_lander import heuristic

_DISCRETE = SimpleNamespace(unwrapped=SimpleNamespace(continuous=False))


def lunar_lander(observations: np.ndarray) -> np.ndarray:
    """Gymnasium's own controller for the Lunar Lander: (n, 8) float32 observations to (n,) int64 actions."""
    return np.array([heuristic(_DISCRETE, observation) for observation in observations], dtype=np.int64)


HEURISTICS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {"lunar_lander": lunar_lander}
