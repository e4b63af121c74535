"""Sequence windows over episodes, gathered from the flat arrays by index and never materialised."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ilt.demos.episodes import Episodes


def window_starts(lengths: np.ndarray, context_length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Where windows of up to `context_length` steps begin, so that every step of every episode is in one.

    An episode of T steps has windows at 0, stride, 2·stride, … as long as they fit, and one that ends on its last
    step. The first one begins at the true start of the episode; an episode shorter than a window has that one alone.

    Args:
        lengths: (E,) int64, in steps.

    Returns:
        episode (N,) and start (N,) in steps from the beginning of that episode, both int64.
    """
    last = np.maximum(lengths - context_length, 0)
    counts = last // stride + 1 + (last % stride > 0)
    episode = np.repeat(np.arange(len(lengths)), counts)
    ordinal = np.arange(len(episode)) - np.repeat(np.cumsum(counts) - counts, counts)
    return episode, np.minimum(ordinal * stride, last[episode])


class WindowDataset(Dataset[dict[str, Tensor]]):
    """Windows of up to K consecutive steps, K = `context_length`; windows shorter than K are padded on the right.

    A batch of B windows is a dictionary:

    - `observations` (B, K, obs_dim) float32: `observations[:, t]` is what was seen when `actions[:, t]` was chosen;
    - `actions` (B, K) int64: what the expert did, at once the model's past inputs and its targets;
    - `mask` (B, K) bool: True at real steps, False at padding;
    - `scored` (B, K) bool, only with `as_flown`: the steps at which the model sees what it would see in flight.

    Args:
        episodes: where the windows are cut from.
        context_length: K, in steps, at least 1.
        stride: steps between the starts of neighbouring windows, from 1 to K (a larger one would skip steps).
        as_flown: for validation. With stride 1, every step is scored exactly once, in the window that ends with it:
            after the K − 1 steps before it, or after all there are since the start of the episode.
    """

    def __init__(self, episodes: Episodes, *, context_length: int, stride: int = 1, as_flown: bool = False) -> None:
        if context_length < 1:
            raise ValueError(f"dataset.context_length must be at least 1, got {context_length}")
        if not 1 <= stride <= context_length:
            raise ValueError(
                f"dataset.stride must be from 1 to dataset.context_length = {context_length}, got {stride}"
            )
        assert stride == 1 or not as_flown, "some steps would never be scored"
        if len(episodes) == 0:
            raise ValueError("there are no episodes to cut windows from")
        self._observations = torch.from_numpy(episodes.observations)
        self._actions = torch.from_numpy(episodes.actions)
        episode, start = window_starts(episodes.lengths, context_length, stride)
        self._first_row = torch.from_numpy(episodes.observation_offsets[episode] + start)
        self._first_step = torch.from_numpy(episodes.step_offsets[episode] + start)
        self._n_real = torch.from_numpy(np.minimum(episodes.lengths[episode] - start, context_length))
        self._positions = torch.arange(context_length)
        self._at_start = torch.from_numpy(start == 0) if as_flown else None

    def __len__(self) -> int:
        return len(self._first_row)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Gather a whole batch in one step; `DataLoader` calls this with a batch of indices."""
        chosen = torch.as_tensor(indices)
        n_real = self._n_real[chosen, None]
        inside = torch.minimum(self._positions, n_real - 1)  # padding repeats the last real step
        batch = {
            "observations": self._observations[self._first_row[chosen, None] + inside],
            "actions": self._actions[self._first_step[chosen, None] + inside],
            "mask": self._positions < n_real,
        }
        if self._at_start is not None:
            last = self._positions == n_real - 1
            batch["scored"] = last | (self._at_start[chosen, None] & batch["mask"])
        return batch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One window, without the batch dimension."""
        return {name: array[0] for name, array in self.__getitems__([index]).items()}


def take_episodes(episodes: Episodes, amount: int | float) -> Episodes:
    """The first episodes, so that a smaller set is part of every larger one.

    Args:
        amount: how many (int), or which fraction of all, in (0, 1] (float), rounded up.
    """
    count = int(np.ceil(round(amount * len(episodes), 9))) if isinstance(amount, float) else amount
    if not 1 <= count <= len(episodes):
        raise ValueError(f"dataset.episodes asks for {count} episodes, but there are {len(episodes)} demonstrations")
    return episodes.select(np.arange(count))


def observation_statistics(episodes: Episodes) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (obs_dim,) float32 over the observations at which an action was chosen.

    Computed over real steps of the flat arrays, so padding has no part in it; a constant coordinate gets deviation 1.
    """
    seen = episodes.observations[episodes.decision_rows()].astype(np.float64)
    mean, std = seen.mean(axis=0), seen.std(axis=0)
    std[std < 1e-6] = 1.0
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
