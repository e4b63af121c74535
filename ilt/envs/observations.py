"""Observations as flat vectors: first what a student sees, then what only a privileged teacher sees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate

from ilt.schema import ConfigError

OBSERVATION, PRIVILEGED = "observation", "privileged"


@dataclass(frozen=True)
class ObservationLayout:
    """How an environment's observations become vectors.

    A `Dict` observation with exactly the keys `observation` and `privileged` hides `privileged` from students.

    Attributes:
        dim: how many numbers the student sees; they come first.
        names, privileged_names: names of the numbers in each part: by index for a `Box`, by key for a `Dict`.
        space, privileged_space: the Gymnasium space of each part; the second is None if nothing is hidden.
    """

    dim: int
    names: tuple[str, ...]
    privileged_names: tuple[str, ...]
    space: spaces.Space[Any]
    privileged_space: spaces.Space[Any] | None

    @classmethod
    def of(cls, env: gym.Env[Any, Any], *, key: str) -> "ObservationLayout":
        """Read an environment's layout. Raise ConfigError, naming `key`, if its observations have no fixed size."""
        space: Any = env.observation_space
        hidden = None
        if isinstance(space, spaces.Dict) and set(space) == {OBSERVATION, PRIVILEGED}:
            space, hidden = space[OBSERVATION], space[PRIVILEGED]
        names = _names(space, OBSERVATION, env, key)
        privileged_names = () if hidden is None else _names(hidden, PRIVILEGED, env, key)
        return cls(len(names), names, privileged_names, space, hidden)

    @property
    def keyed_names(self) -> tuple[str, ...] | None:
        """The names of the numbers that a student sees of a `Dict`, whose order another environment may not share."""
        return self.names if isinstance(self.space, spaces.Dict) else None

    @property
    def expected_deviation(self) -> np.ndarray:
        """A prior guess (dim,) float64 of the standard deviation of each number that a student sees.

        It is that of a uniform distribution within the number's bounds, but at most 1.
        """
        bounds: Any = spaces.flatten_space(self.space)
        width = bounds.high.astype(np.float64) - bounds.low.astype(np.float64)
        return np.minimum(width.ravel() / 12**0.5, 1.0)

    def size(self, *, privileged: bool) -> int:
        """Return how many numbers a policy sees."""
        return self.dim + (len(self.privileged_names) if privileged else 0)

    def shown(self, *, privileged: bool) -> tuple[str, ...]:
        """Return the names of the numbers that a policy sees, in order."""
        return (*self.names, *self.privileged_names) if privileged else self.names

    @property
    def writer(self) -> Callable[[np.ndarray, Any], None]:
        """A function that writes an observation into a row (dim + privileged,) float32, which may be a view."""
        flat, n = _flattener(self.space), self.dim
        if self.privileged_space is None:
            return _copy if flat is None else lambda row, observation: row.__setitem__(slice(None), flat(observation))
        hidden = _flattener(self.privileged_space)

        def write(row: np.ndarray, observation: Any) -> None:
            seen, behind = observation[OBSERVATION], observation[PRIVILEGED]
            row[:n] = seen if flat is None else flat(seen)
            row[n:] = behind if hidden is None else hidden(behind)

        return write

    def flatten(self, observation: Any, *, privileged: bool = False) -> np.ndarray:
        """Return what a policy sees of one observation, (size,) float32, or of a vector env's batch, (n, size).

        Raise ValueError if an observation has another size.
        """
        whole = self.privileged_space is not None and isinstance(observation, Mapping)
        flat = _flat(self.space, observation[OBSERVATION] if whole else observation)
        if self.privileged_space is not None and whole and privileged:
            flat = np.concatenate([flat, _flat(self.privileged_space, observation[PRIVILEGED])], axis=-1)
        if flat.shape[-1] != (size := self.size(privileged=privileged)):
            raise ValueError(f"an observation must have {size} numbers, got {flat.shape[-1]}")
        return flat


def _copy(row: np.ndarray, observation: Any) -> None:
    row[:] = observation


def _flattener(space: spaces.Space[Any]) -> Callable[[Any], Any] | None:
    """Return a function that flattens an observation; None if it is already flat."""
    if isinstance(space, spaces.Box):
        return None if len(space.shape) == 1 else np.ravel
    return partial(spaces.flatten, space)


def _flat(space: spaces.Space[Any], observation: Any) -> np.ndarray:
    """Flatten one observation to (n,) float32, or a batch to (batch, n)."""
    rows = iterate(batch_space(space), observation) if _is_batch(space, observation) else [observation]
    flattener = _flattener(space) or np.asarray
    flat = np.array([flattener(row) for row in rows], dtype=np.float32)
    return flat if _is_batch(space, observation) else flat[0]


def _is_batch(space: Any, observation: Any) -> bool:
    if isinstance(space, spaces.Dict):
        return _is_batch(*next((inner, observation[name]) for name, inner in space.items()))
    if isinstance(space, spaces.Tuple):
        return _is_batch(space[0], observation[0])
    return np.ndim(observation) > len(space.shape or ())


def _names(space: spaces.Space[Any], part: str, env: gym.Env[Any, Any], key: str) -> tuple[str, ...]:
    """Return a name for each number of a flattened space."""
    if not space.is_np_flattenable:
        raise ConfigError(
            f"{key}: observations must be of a fixed size, as Box, Discrete, Dict and Tuple are, got {space}"
        )
    n = int(spaces.flatdim(space))
    if n == 0:
        raise ConfigError(f"{key}: observations must contain a number, got {space}")
    if isinstance(space, spaces.Dict):
        return tuple(name for k, inner in space.items() for name in _names(inner, str(k), env, key))
    given = getattr(env, f"{part}_names", None)
    if given is not None and len(given) == n:
        return tuple(given)
    return (part,) if n == 1 and part not in (OBSERVATION, PRIVILEGED) else tuple(f"{part}[{i}]" for i in range(n))
