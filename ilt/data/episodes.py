"""Episodes as flat, concatenated arrays of observations, actions and rewards, and their file format."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ilt.tracking.reading import UnreadableFileError, read_npz
from ilt.tracking.store import replacing

NO_SEED = -1
"""Stands in `Episodes.seeds` for an episode whose seed is unknown, which cannot be repeated."""

_REQUIRED = ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "seeds")


@dataclass(frozen=True, kw_only=True)
class Episodes:
    """E concatenated episodes; episode e has T_e = lengths[e] steps and T_e + 1 observations.

    `observations[t]` is what was seen when `actions[t]` was chosen, and `rewards[t]` is what that action earned. The
    last observation of an episode is what was seen after its last action. Raise ValueError if shapes, dtypes or lengths
    do not agree.

    Attributes:
        observations: (sum(T+1), obs_dim) float32.
        actions: (sum T,) int64, or (sum T, action_dim) int64 or float32, in the simulator's units.
        rewards: (sum T,) float64.
        lengths: (E,) int64, in steps.
        terminated, truncated: (E,) bool, exactly one of them true for each episode.
        seeds: (E,) int64, the seed given to `env.reset`; `NO_SEED` (−1) if it is unknown.
        extras: other arrays by name: `step/<name>` of shape (sum T, …) and `episode/<name>` of shape (E, …).
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    seeds: np.ndarray
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("rewards", "lengths", "terminated", "truncated", "seeds"):
            if getattr(self, name).ndim != 1:
                raise ValueError(f"Episodes.{name} must have one dimension, got {getattr(self, name).shape}")
        if self.actions.ndim not in (1, 2):
            raise ValueError(f"Episodes.actions must be (sum T,) or (sum T, action_dim), got {self.actions.shape}")
        if self.observations.ndim != 2:
            raise ValueError(f"Episodes.observations must be (sum(T+1), obs_dim), got {self.observations.shape}")
        if self.lengths.min(initial=1) < 1:
            raise ValueError("Episodes.lengths must be at least 1")
        if self.lengths.max(initial=1) > max(len(self.rewards), 1):  # before they are summed, which may overflow
            raise ValueError(f"Episodes.lengths must be at most {len(self.rewards)}, got {self.lengths.max()}")
        n_episodes, n_steps = len(self.lengths), int(self.lengths.sum())
        action_dtype = np.float32 if self.actions.ndim == 2 and self.actions.dtype.kind == "f" else np.int64
        expected = {
            "observations": (n_steps + n_episodes, np.float32),
            "actions": (n_steps, action_dtype),
            "rewards": (n_steps, np.float64),
            "lengths": (n_episodes, np.int64),
            "terminated": (n_episodes, np.bool_),
            "truncated": (n_episodes, np.bool_),
            "seeds": (n_episodes, np.int64),
        }
        for name, (length, dtype) in expected.items():
            array = getattr(self, name)
            if len(array) != length or array.dtype != dtype:
                raise ValueError(
                    f"Episodes.{name} must be {np.dtype(dtype).name} of length {length}, "
                    f"got {array.dtype.name} of length {len(array)}"
                )
        if np.any(self.terminated == self.truncated):
            raise ValueError("each episode must be either terminated or truncated")
        for name, array in self.extras.items():
            wanted = {"step": n_steps, "episode": n_episodes}.get(name.split("/", 1)[0])
            if wanted is not None and len(array) != wanted:
                raise ValueError(f"Episodes.extras[{name!r}] must have length {wanted}, got {len(array)}")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def step_offsets(self) -> np.ndarray:
        """(E,) int64: where each episode starts in arrays of length sum T."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def observation_offsets(self) -> np.ndarray:
        """(E,) int64: where each episode starts in `observations`, which has one more row per episode."""
        return self.step_offsets + np.arange(len(self))

    @property
    def returns(self) -> np.ndarray:
        """(E,) float64: the sum of each episode's rewards."""
        return np.add.reduceat(self.rewards, self.step_offsets) if len(self) else np.zeros(0)

    @property
    def last_rewards(self) -> np.ndarray:
        """(E,) float64: the reward of each episode's last step."""
        return self.rewards[self.step_offsets + self.lengths - 1]

    def select(self, keep: np.ndarray) -> "Episodes":
        """Return the episodes selected by a boolean mask (E,), or those at the given indices, in that order."""
        keep = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep
        steps = _ranges(self.step_offsets[keep], self.lengths[keep])
        rows = _ranges(self.observation_offsets[keep], self.lengths[keep] + 1)
        return Episodes(
            observations=self.observations[rows],
            actions=self.actions[steps],
            rewards=self.rewards[steps],
            lengths=self.lengths[keep],
            terminated=self.terminated[keep],
            truncated=self.truncated[keep],
            seeds=self.seeds[keep],
            extras={name: array[steps if name.startswith("step/") else keep] for name, array in self._indexed_extras()},
        )

    def first(self, count: int) -> "Episodes":
        """Return the first `count` episodes as views, without copying."""
        n_steps = int(self.lengths[:count].sum())
        return Episodes(
            observations=self.observations[: n_steps + count],
            actions=self.actions[:n_steps],
            rewards=self.rewards[:n_steps],
            lengths=self.lengths[:count],
            terminated=self.terminated[:count],
            truncated=self.truncated[:count],
            seeds=self.seeds[:count],
            extras={
                name: array[: n_steps if name.startswith("step/") else count] for name, array in self._indexed_extras()
            },
        )

    def first_steps(self, count: int) -> "Episodes":
        """Return the first `count` steps as views; an episode that is cut short is marked as truncated."""
        ends = np.cumsum(self.lengths)
        assert 1 <= count <= ends[-1]
        n_episodes = int(np.searchsorted(ends, count)) + 1
        episodes, excess = self.first(n_episodes), int(ends[n_episodes - 1]) - count
        if excess == 0:
            return episodes
        last = np.arange(n_episodes) == n_episodes - 1
        return replace(
            episodes,
            observations=episodes.observations[: count + n_episodes],
            actions=episodes.actions[:count],
            rewards=episodes.rewards[:count],
            lengths=episodes.lengths - excess * last,
            terminated=episodes.terminated & ~last,
            truncated=episodes.truncated | last,
            extras={
                name: array[:count] if name.startswith("step/") else array for name, array in episodes.extras.items()
            },
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Episodes"]) -> "Episodes":
        """Concatenate the episodes of all parts, which must have the same extras."""
        assert all(part.extras.keys() == parts[0].extras.keys() for part in parts)
        return cls(
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in _REQUIRED},
            extras={name: np.concatenate([part.extras[name] for part in parts]) for name in parts[0].extras},
        )

    def _indexed_extras(self) -> Iterator[tuple[str, np.ndarray]]:
        for name, array in self.extras.items():
            if not name.startswith(("step/", "episode/")):
                raise ValueError(f"episodes cannot be selected: {name!r} is neither step/… nor episode/…")
            yield name, array

    def save(self, path: Path) -> None:
        """Write one `.npz` file without pickle."""
        arrays = {name: getattr(self, name) for name in _REQUIRED}
        with replacing(path) as new, new.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **self.extras)

    @classmethod
    def load(cls, path: Path) -> "Episodes":
        """Read what `save` wrote, with unknown keys in `extras`. Raise UnreadableFileError if it is not such a file."""
        try:
            arrays = read_npz(path)
        except Exception as error:  # a damaged or foreign file can raise anything
            reason = error or type(error).__name__
            raise UnreadableFileError(f"{path} is not a readable episode file: {reason}") from error
        missing = [name for name in _REQUIRED if name not in arrays]
        if missing:
            raise UnreadableFileError(f"{path} is not an episode file: it lacks {missing}")
        try:
            return cls(**{name: arrays.pop(name) for name in _REQUIRED}, extras=arrays)
        except (ValueError, TypeError) as error:
            raise UnreadableFileError(f"{path} is not an episode file: {error}") from error


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate `arange(start, start + length)` for all pairs of start and length."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
