"""Action spaces, and the conversion of actions between simulator, files and models."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

from ilt.schema import ConfigError


@dataclass(frozen=True, kw_only=True)
class ActionSpace:
    """The actions of an environment: one discrete choice, several at once, or a vector of continuous numbers.

    Policies, experts and files use the *simulator's units*: int64 choices that start at `start`, or float32 numbers
    within the bounds. Models use *model units*: choices that start at 0, or numbers in [−1, 1].

    Attributes:
        n_choices: number of values of each choice; empty for numbers.
        start: smallest value of each choice.
        low, high: finite bounds of each number; empty for choices.
        shape: shape of one action as the simulator takes it; () for a single choice.
    """

    n_choices: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    shape: tuple[int, ...] = ()

    @classmethod
    def of(cls, space: spaces.Space[Any], *, key: str = "env.id") -> "ActionSpace":
        """Describe a Gymnasium space. Raise ConfigError, naming `key`, if its actions are not supported."""
        if isinstance(space, spaces.Discrete):
            return cls(n_choices=(int(space.n),), start=(int(space.start),))
        if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
            start = tuple(int(value) for value in space.start)
            return cls(n_choices=tuple(int(n) for n in space.nvec), start=start, shape=(len(space.nvec),))
        if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            low, high = space.low.ravel(), space.high.ravel()
            if np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all():
                return cls(low=tuple(low.tolist()), high=tuple(high.tolist()), shape=tuple(space.shape))
        raise ConfigError(
            f"{key}: actions must be Discrete, a flat MultiDiscrete, or a Box of floats with finite bounds, got {space}"
        )

    @property
    def space(self) -> spaces.Space[Any]:
        """The Gymnasium space of an action in the simulator's units; numbers are float32, as they are stored."""
        if self.continuous:
            return spaces.Box(self._low32.reshape(self.shape), self._high32.reshape(self.shape), dtype=np.float32)
        if self.flat:
            return spaces.Discrete(self.n_choices[0], start=self.start[0])
        return spaces.MultiDiscrete(list(self.n_choices), start=list(self.start))

    @property
    def continuous(self) -> bool:
        """Whether actions are numbers."""
        return not self.n_choices

    @property
    def dim(self) -> int:
        """Number of choices or numbers in an action."""
        return len(self.n_choices) or len(self.low)

    @property
    def flat(self) -> bool:
        """Whether actions are stored as (n,), as they are for a single choice, instead of (n, dim)."""
        return self.shape == () and not self.continuous

    @property
    def dtype(self) -> type[np.generic]:
        """Dtype of stored actions: float32 or int64."""
        return np.float32 if self.continuous else np.int64

    def includes(self, other: "ActionSpace") -> bool:
        """Return whether all actions of another space, as they are stored, are actions of this one."""
        if (self.continuous, self.flat, self.dim) != (other.continuous, other.flat, other.dim):
            return False
        if self.continuous:
            return bool((self._low32 <= other._low32).all() and (other._high32 <= self._high32).all())
        ends = other._start + other._sizes <= self._start + self._sizes
        return bool(np.all(self._start <= other._start) and np.all(ends))

    def zeros(self, *n: int) -> np.ndarray:
        """Return an array of zeros for actions, of shape `(*n,)` or `(*n, dim)`."""
        return np.zeros(n if self.flat else (*n, self.dim), dtype=self.dtype)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """Convert actions (n,) or (n, dim) from the simulator's units to model units of the same shape."""
        if self.continuous:
            return ((actions - self._center) / self._half).astype(np.float32)
        return actions if not any(self.start) else actions - self._start

    def decode(self, actions: np.ndarray) -> np.ndarray:
        """Convert actions (n,) or (n, dim) from model units to the simulator's units; clip numbers to ±1 first."""
        if self.continuous:
            scaled = self._center + self._half * np.clip(actions, -1.0, 1.0)
            return np.clip(scaled, self._low32, self._high32).astype(np.float32)  # rounding stays within the bounds
        return actions if not any(self.start) else actions + self._start

    def clip(self, actions: np.ndarray) -> np.ndarray:
        """Clip numbers in the simulator's units to their bounds, as float32; return choices unchanged."""
        return np.clip(actions, self._low32, self._high32).astype(np.float32) if self.continuous else actions

    def sample(self, uniform: np.ndarray) -> np.ndarray:
        """Map uniform numbers (n, dim) in [0, 1) to equally likely actions in the simulator's units."""
        if self.continuous:
            return self.decode(2.0 * uniform - 1.0)
        chosen = (uniform * self._sizes).astype(np.int64)
        return self.decode(chosen[:, 0] if self.flat else chosen)

    def for_simulator(self, actions: np.ndarray) -> list[Any]:
        """Return a list of actions (n,) or (n, dim) as `Env.step` takes them: ints, or copies in the space's shape."""
        return actions.tolist() if self.flat else list(actions.reshape(-1, *self.shape).copy())

    def check(self, actions: np.ndarray, n: int, *, source: str) -> np.ndarray:
        """Return the actions of `n` environments as they are stored; numbers are clipped to their bounds.

        Raise ValueError if shape, dtype or values do not fit this space.

        Args:
            source: where the actions come from, such as "the expert", for the error message.
        """
        actions = np.asarray(actions)
        shape = (n,) if self.flat else (n, self.dim)
        if not self.flat and actions.shape == (n, *self.shape):
            actions = actions.reshape(shape)
        kinds = "fiu" if self.continuous else "iu"
        if actions.shape != shape or actions.dtype.kind not in kinds:
            kind = "numbers" if self.continuous else "integers"
            raise ValueError(
                f"{source} must return actions of shape {shape} ({kind}), got {actions.dtype.name} of {actions.shape}"
            )
        if self.continuous:
            if not np.isfinite(actions).all():
                raise ValueError(f"{source} must return finite actions, got {actions}")
            return self.clip(actions)
        if self.flat:
            values = actions.tolist()  # for small arrays, Python's min and max are faster than NumPy's
            inside = min(values) >= self.start[0] and max(values) < self.start[0] + self.n_choices[0]
        else:
            inside = bool(((actions >= self._start) & (actions < self._start + self._sizes)).all())
        if not inside:
            raise ValueError(f"{source} must return actions of {self}, got {actions}")
        return actions.astype(np.int64, copy=False)

    def __str__(self) -> str:
        if self.continuous:
            return f"{self.dim} numbers within {min(self.low):g} … {max(self.high):g}"
        ranges = ", ".join(f"{s} … {s + n - 1}" for s, n in zip(self.start, self.n_choices, strict=True))
        return f"integers {ranges}"

    @cached_property
    def _start(self) -> np.ndarray:
        return np.array(self.start[0] if self.flat else self.start, dtype=np.int64)

    @cached_property
    def _sizes(self) -> np.ndarray:
        return np.array(self.n_choices)

    @cached_property
    def _low32(self) -> np.ndarray:
        return np.array(self.low, dtype=np.float32)

    @cached_property
    def _high32(self) -> np.ndarray:
        return np.array(self.high, dtype=np.float32)

    @cached_property
    def _center(self) -> np.ndarray:
        return (np.array(self.high) + np.array(self.low)) / 2

    @cached_property
    def _half(self) -> np.ndarray:
        return (np.array(self.high) - np.array(self.low)) / 2
