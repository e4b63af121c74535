"""Sequence windows over episodes, gathered by index from the flat arrays instead of being copied in advance."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ilt.data.config import RETURNS_STATES_ACTIONS
from ilt.data.episodes import Episodes
from ilt.data.returns import seen_by_model
from ilt.envs.actions import ActionSpace

LABEL = "step/label"
"""Key in `Episodes.extras` of the expert's actions, if others were executed."""


class WindowIndex:
    """Where windows of up to `context_length` steps start, such that every step of every episode is in a window.

    An episode of T steps has windows at 0, stride, 2·stride, … as long as they fit, and one that ends on its last
    step. An episode shorter than `context_length` has one window, from its start. The index stores numbers per episode,
    not per window, because there may be millions of windows.

    Args:
        lengths: (E,) int64, lengths of the episodes in steps.
        context_length: K, the longest window in steps.
        stride: steps between the starts of neighboring windows.
    """

    def __init__(self, lengths: np.ndarray, context_length: int, stride: int) -> None:
        last = np.maximum(lengths - context_length, 0)
        counts = last // stride + 1 + (last % stride > 0)
        self._stride, self._last = stride, torch.from_numpy(last)
        self._ends = torch.from_numpy(np.cumsum(counts))
        self._firsts = self._ends - torch.from_numpy(counts)
        self._n_windows = int(counts.sum())  # reading a number from a GPU would wait for it

    def __len__(self) -> int:
        return self._n_windows

    def to(self, device: torch.device) -> None:
        """Move the index to a device."""
        self._last, self._ends, self._firsts = (kept.to(device) for kept in (self._last, self._ends, self._firsts))

    def find(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map window numbers (n,) to their episodes, their numbers and their first steps in the episode, (n,) int64."""
        episode = torch.searchsorted(self._ends, windows, right=True)
        number = windows - self._firsts[episode]
        return episode, number, torch.minimum(number * self._stride, self._last[episode])


class WindowDataset(Dataset[dict[str, Tensor]]):
    """Windows of up to K consecutive steps, K = `context_length`; windows shorter than K are padded on the right.

    A batch of B windows is a dictionary:

    - `observations` (B, K, obs_dim) float32: `observations[:, t]` is what was seen when `actions[:, t]` was chosen;
      with `returns_states_actions`, its last number is the return-to-go, the sum of the rewards from there on;
    - `actions` (B, K) or (B, K, dim), in model units: the executed actions, which the model sees as past inputs;
    - `targets`, of the same shape: the expert's actions; without this key, the targets are `actions`;
    - `mask` (B, K) bool: True at real steps, False at padding;
    - `scored` (B, K) bool, only with `as_deployed`: the steps at which the model sees what it would see in a rollout.

    With `chunk` = H above 1, `targets` are the expert's actions at each step and the H − 1 steps after it, of shape
    (B, K, H) or (B, K, H, dim). They may be after the window. `target_mask` (B, K, H) bool is False after the episode.

    Args:
        episodes: the source of the windows; `step/label` in their extras contains expert labels, if there are any.
        action_space: the environment's actions, to convert them to model units.
        context_length: K, in steps, at least 1.
        stride: steps between the starts of neighboring windows, from 1 to K (a larger one would skip steps).
        as_deployed: whether to add `scored`, for validation. It marks each step once, in the window in which the model
            sees the K − 1 steps before it, or all steps since the start of the episode if they are fewer. Requires
            stride 1. Windows start L − K + 1 steps apart.
        window_length: L, the steps of a window with `as_deployed`; None for K. A window of more than K has L − K + 1
            steps to score, for models whose outputs depend on the last K steps only (`SequenceModel.slides`).
        chunk: H, how many actions are targets at each step.
        tokens: `states_actions`, or `returns_states_actions` for a return-conditioned model.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        action_space: ActionSpace,
        context_length: int,
        stride: int = 1,
        as_deployed: bool = False,
        window_length: int | None = None,
        chunk: int = 1,
        tokens: str = "states_actions",
    ) -> None:
        assert 1 <= stride <= context_length
        assert stride == 1 or not as_deployed, "some steps would never be scored"
        assert window_length is None or (as_deployed and window_length >= context_length)
        if len(episodes) == 0:
            raise ValueError("there are no episodes to cut windows from")
        self._return_conditioned = tokens == RETURNS_STATES_ACTIONS
        self._observations = torch.from_numpy(self._seen(episodes))
        self._action_space = action_space
        self._actions = torch.from_numpy(action_space.encode(episodes.actions))
        labels = action_space.encode(labels_of(episodes)) if LABEL in episodes.extras else None
        self._targets = None if labels is None else torch.from_numpy(labels)
        self.context_length, self.window_length = context_length, window_length or context_length
        self._stride = self.window_length - context_length + 1 if as_deployed else stride
        self._windows = WindowIndex(episodes.lengths, self.window_length, self._stride)
        self._lengths = torch.from_numpy(episodes.lengths)
        self._first_steps = torch.from_numpy(episodes.step_offsets)
        self._positions = torch.arange(self.window_length)
        self._as_deployed, self._chunk = as_deployed, chunk
        self._ahead = torch.arange(chunk)

    def __len__(self) -> int:
        return len(self._windows)

    def _seen(self, episodes: Episodes) -> np.ndarray:
        return seen_by_model(episodes, return_conditioned=self._return_conditioned)

    def to(self, device: torch.device) -> "WindowDataset":
        """Move the demonstrations to a device, so that batches are gathered there instead of being copied to it."""
        self._windows.to(device)
        for name in ("_observations", "_actions", "_lengths", "_first_steps", "_positions", "_ahead"):
            setattr(self, name, getattr(self, name).to(device))
        self._targets = None if self._targets is None else self._targets.to(device)
        return self

    def extend(self, episodes: Episodes) -> None:
        """Append the windows of more episodes. From now on, batches contain `targets`."""
        device, targets = self._positions.device, self._actions if self._targets is None else self._targets
        self._targets = torch.cat(
            [targets, torch.from_numpy(self._action_space.encode(labels_of(episodes))).to(device)]
        )
        for name, more in {
            "_observations": self._seen(episodes),
            "_first_steps": episodes.step_offsets + len(self._actions),
            "_actions": self._action_space.encode(episodes.actions),
            "_lengths": episodes.lengths,
        }.items():
            setattr(self, name, torch.cat([getattr(self, name), torch.from_numpy(more).to(device)]))
        self._windows = WindowIndex(self._lengths.cpu().numpy(), self.window_length, self._stride)
        self._windows.to(device)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Gather a whole batch in one step; `DataLoader` calls this with a batch of indices."""
        episode, number, start = self._windows.find(torch.as_tensor(indices, device=self._positions.device))
        n_real = (self._lengths[episode] - start)[:, None]
        inside = torch.minimum(self._positions, n_real - 1)  # padding repeats the last real step
        first = (self._first_steps[episode] + start)[:, None]
        steps = first + inside
        batch = {
            "observations": self._observations[steps + episode[:, None]],  # each episode has one more observation
            "actions": self._actions[steps],
            "mask": self._positions < n_real,
        }
        if self._chunk > 1:
            ahead, left = self._positions[:, None] + self._ahead, n_real[..., None]
            batch["target_mask"], steps = ahead < left, first[..., None] + torch.minimum(ahead, left - 1)
        if self._targets is not None or self._chunk > 1:
            batch["targets"] = (self._actions if self._targets is None else self._targets)[steps]
        if self._as_deployed:
            unseen = number * self._stride + self.context_length - 1 - start  # by windows before this one
            batch["scored"] = batch["mask"] & (self._positions >= torch.where(number > 0, unseen, 0)[:, None])
        return batch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return one window, without the batch dimension."""
        return {name: array[0] for name, array in self.__getitems__([index]).items()}


def labels_of(episodes: Episodes) -> np.ndarray:
    """Return the expert's action at every step, shaped like `actions`; without labels, the executed actions."""
    return episodes.extras.get(LABEL, episodes.actions)


def windows_at(
    episodes: Episodes,
    step: int,
    *,
    action_space: ActionSpace,
    context_length: int,
    target_return: float | None = None,
) -> tuple[np.ndarray, Tensor, Tensor]:
    """Return what a student sees when it chooses the action at a step, for every episode that is long enough.

    Args:
        step: index of the step in its episode.
        target_return: what a return-conditioned student aims for; None for other students.

    Returns:
        indices of these episodes (n,) int64, and their windows: observations (n, L, obs_dim) and actions
        (n, L[, dim]) in model units, with L = min(step + 1, context_length).
    """
    conditioned = target_return is not None
    seen = seen_by_model(episodes, return_conditioned=conditioned, target_return=target_return)
    which = np.flatnonzero(episodes.lengths > step)
    places = np.arange(max(step + 1 - context_length, 0), step + 1)
    rows = episodes.observation_offsets[which, None] + places
    steps = episodes.step_offsets[which, None] + places
    return (
        which,
        torch.from_numpy(seen[rows]),
        torch.from_numpy(action_space.encode(episodes.actions[steps])),
    )


def take_episodes(episodes: Episodes, amount: int | float, *, first: int = 0) -> Episodes:
    """Return the first episodes, so that a smaller set is part of every larger one.

    Args:
        amount: a number (int), or a fraction of all in (0, 1] (float) that is rounded up to whole episodes.
        first: how many episodes to leave out before them.

    Raises:
        ValueError: there are fewer episodes than that.
    """
    count = int(np.ceil(round(amount * len(episodes), 9))) if isinstance(amount, float) else amount
    if not 1 <= count <= len(episodes) - first:
        which = f" from dataset.first_episode={first} on" if first else ""
        raise ValueError(
            f"dataset.episodes asks for {count} episodes{which}, but there are {len(episodes)} demonstrations"
        )
    return episodes.first(count) if first == 0 else episodes.select(np.arange(first, first + count))


def observation_statistics(
    episodes: Episodes, *, least_deviation: np.ndarray | float = 0.0, return_conditioned: bool = False
) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (obs_dim,) float32 of the observations at which an action was chosen.

    A constant coordinate gets a deviation of 1. For a return-conditioned model, the last numbers are those of the
    returns-to-go.

    Args:
        least_deviation: (dim,), the lower bound of deviations, without that of the return-to-go. One or two episodes
            hardly vary, and dividing by their deviations would blow up all other states.
    """
    observations = seen_by_model(episodes, return_conditioned=return_conditioned)
    seen = np.ones(len(episodes.observations), dtype=bool)
    seen[episodes.observation_offsets + episodes.lengths] = False  # the final observation of each episode
    blocks = [slice(first, first + 100_000) for first in range(0, len(seen), 100_000)]  # avoids a copy of everything
    n_steps = seen.sum()

    def mean_of(values: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        chosen = (observations[block][seen[block]].astype(np.float64) for block in blocks)
        return sum(values(rows).sum(axis=0) for rows in chosen) / n_steps

    mean = mean_of(lambda rows: rows)
    std = np.sqrt(mean_of(lambda rows: (rows - mean) ** 2))
    n_seen = len(std) - return_conditioned
    std[:n_seen] = np.maximum(std[:n_seen], least_deviation)
    std[std < 1e-6] = 1.0
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
