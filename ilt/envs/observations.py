"""Observations as flat vectors: what a student sees first, what only a privileged teacher sees behind it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

OBSERVATION, PRIVILEGED = "observation", "privileged"


@dataclass(frozen=True)
class ObservationLayout:
    """How an environment's observations become vectors.

    A `Dict` observation with exactly the keys `observation` and `privileged` hides the latter from students.

    Attributes:
        dim: how many numbers the student sees; they stand first.
        names, privileged_names: what the numbers are, of each part: of a flat Box by their place, of a `Dict` by key.
        space, privileged_space: Gymnasium's description of each part; the second is None where nothing is hidden.
    """

    dim: int
    names: tuple[str, ...]
    privileged_names: tuple[str, ...]
    space: spaces.Space[Any]
    privileged_space: spaces.Space[Any] | None

    @classmethod
    def of(cls, env: gym.Env[Any, Any], *, key: str) -> "ObservationLayout":
        """Read it off an environment. ValueError names `key` if its observations have no fixed size."""
        space, hidden = env.observation_space, None
        if isinstance(space, spaces.Dict) and set(space) == {OBSERVATION, PRIVILEGED}:
            parts = space.spaces
            space, hidden = parts[OBSERVATION], parts[PRIVILEGED]
        names = _names(space, OBSERVATION, env, key)
        privileged_names = () if hidden is None else _names(hidden, PRIVILEGED, env, key)
        return cls(len(names), names, privileged_names, space, hidden)

    def size(self, *, privileged: bool) -> int:
        """How many numbers a policy sees."""
        return self.dim + (len(self.privileged_names) if privileged else 0)

    def shown(self, *, privileged: bool) -> tuple[str, ...]:
        """Names of the numbers that a policy sees, in their order."""
        return (*self.names, *self.privileged_names) if privileged else self.names

    @property
    def writer(self) -> Callable[[np.ndarray, Any], None]:
        """A function that writes an observation into a row (dim + privileged,) float32, which may be a view."""
        flat, n = _flattener(self.space), self.dim
        if self.privileged_space is None:
            if _is_vector(self.space):
                return _copy
            return lambda row, observation: row.__setitem__(slice(None), flat(observation))
        hidden = _flattener(self.privileged_space)

        def write(row: np.ndarray, observation: Any) -> None:
            row[:n] = flat(observation[OBSERVATION])
            row[n:] = hidden(observation[PRIVILEGED])

        return write

    def flatten(self, observation: Any) -> np.ndarray:
        """What a student sees of one observation of the environment: (dim,) float32."""
        if self.privileged_space is not None and isinstance(observation, dict) and PRIVILEGED in observation:
            observation = observation[OBSERVATION]
        return np.asarray(_flattener(self.space)(observation), dtype=np.float32)


def _copy(row: np.ndarray, observation: Any) -> None:
    row[:] = observation


def _flattener(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    if _is_vector(space):
        return lambda observation: observation
    if isinstance(space, spaces.Box):
        return np.ravel
    return lambda observation: spaces.flatten(space, observation)


def _is_vector(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 1


def _names(space: spaces.Space[Any], part: str, env: gym.Env[Any, Any], key: str) -> tuple[str, ...]:
    """A name for each number of a flattened space."""
    if not space.is_np_flattenable:
        raise ValueError(
            f"{key}: observations must be of a fixed size, as Box, Discrete, Dict and Tuple are, got {space}"
        )
    n = int(spaces.flatdim(space))
    if n == 0:
        raise ValueError(f"{key}: observations must hold a number, got {space}")
    if isinstance(space, spaces.Dict):
        return tuple(name for k, inner in space.items() for name in _names(inner, str(k), env, key))
    given = getattr(env, f"{part}_names", None)
    if given is not None and len(given) == n:
        return tuple(given)
    return (part,) if n == 1 and part not in (OBSERVATION, PRIVILEGED) else tuple(f"{part}[{i}]" for i in range(n))
