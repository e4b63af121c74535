"""Sequence windows over episodes, gathered from the flat arrays by index and never materialized."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ilt.data.episodes import Episodes
from ilt.envs.actions import ActionSpace

LABEL = "step/label"
"""What `Episodes` call the actions that an expert would have taken, where others were."""


class WindowIndex:
    """Where windows of up to `context_length` steps begin, so that every step of every episode is in one.

    An episode of T steps has windows at 0, stride, 2·stride, … as long as they fit, and one that ends on its last
    step. The first one begins at the true start of the episode; an episode shorter than a window has that one alone.
    Kept is what each episode has, not each window: there may be millions of them.

    Args:
        lengths: (E,) int64, in steps.
    """

    def __init__(self, lengths: np.ndarray, context_length: int, stride: int) -> None:
        last = np.maximum(lengths - context_length, 0)
        counts = last // stride + 1 + (last % stride > 0)
        self._stride, self._last = stride, torch.from_numpy(last)
        self._ends = torch.from_numpy(np.cumsum(counts))
        self._firsts = self._ends - torch.from_numpy(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def to(self, device: torch.device) -> None:
        """Move what is kept to a device."""
        self._last, self._ends, self._firsts = (kept.to(device) for kept in (self._last, self._ends, self._firsts))

    def find(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (n,) by number to their episode (n,) and start (n,) in steps from its beginning, all int64."""
        episode = torch.searchsorted(self._ends, windows, right=True)
        start = torch.minimum((windows - self._firsts[episode]) * self._stride, self._last[episode])
        return episode, start


class WindowDataset(Dataset[dict[str, Tensor]]):
    """Windows of up to K consecutive steps, K = `context_length`; windows shorter than K are padded on the right.

    A batch of B windows is a dictionary:

    - `observations` (B, K, obs_dim) float32: `observations[:, t]` is what was seen when `actions[:, t]` was chosen;
    - `actions` (B, K) or (B, K, dim), in model units: what was done, the model's past inputs;
    - `targets`, of the same shape: what the expert would have done, where that may be something else; without this
      key, it is what was done;
    - `mask` (B, K) bool: True at real steps, False at padding;
    - `scored` (B, K) bool, only with `as_deployed`: the steps at which the model sees what it would see in flight.

    Args:
        episodes: where the windows are cut from; an expert's labels are their `step/label`.
        action_space: of their environment, to turn actions into model units.
        context_length: K, in steps, at least 1.
        stride: steps between the starts of neighboring windows, from 1 to K (a larger one would skip steps).
        as_deployed: for validation. With stride 1, every step is scored exactly once, in the window that ends with it:
            after the K − 1 steps before it, or after all there are since the start of the episode.
    """

    def __init__(
        self,
        episodes: Episodes,
        *,
        action_space: ActionSpace,
        context_length: int,
        stride: int = 1,
        as_deployed: bool = False,
    ) -> None:
        assert 1 <= stride <= context_length
        assert stride == 1 or not as_deployed, "some steps would never be scored"
        if len(episodes) == 0:
            raise ValueError("there are no episodes to cut windows from")
        self._observations = torch.from_numpy(episodes.observations)
        self._action_space = action_space
        self._actions = torch.from_numpy(action_space.encode(episodes.actions))
        labels = action_space.encode(labels_of(episodes)) if LABEL in episodes.extras else None
        self._targets = None if labels is None else torch.from_numpy(labels)
        self.context_length, self._stride = context_length, stride
        self._windows = WindowIndex(episodes.lengths, context_length, stride)
        self._lengths = torch.from_numpy(episodes.lengths)
        self._first_steps = torch.from_numpy(episodes.step_offsets)
        self._positions = torch.arange(context_length)
        self._as_deployed = as_deployed

    def __len__(self) -> int:
        return len(self._windows)

    def to(self, device: torch.device) -> "WindowDataset":
        """Move the demonstrations to a device, so that batches are gathered there and none is copied."""
        self._windows.to(device)
        for name in ("_observations", "_actions", "_lengths", "_first_steps", "_positions"):
            setattr(self, name, getattr(self, name).to(device))
        self._targets = None if self._targets is None else self._targets.to(device)
        return self

    def extend(self, episodes: Episodes) -> None:
        """Add the windows of further episodes behind those that are there. From now on, batches hold `targets`."""
        device, targets = self._positions.device, self._actions if self._targets is None else self._targets
        self._targets = torch.cat(
            [targets, torch.from_numpy(self._action_space.encode(labels_of(episodes))).to(device)]
        )
        for name, more in {
            "_observations": episodes.observations,
            "_first_steps": episodes.step_offsets + len(self._actions),
            "_actions": self._action_space.encode(episodes.actions),
            "_lengths": episodes.lengths,
        }.items():
            setattr(self, name, torch.cat([getattr(self, name), torch.from_numpy(more).to(device)]))
        self._windows = WindowIndex(self._lengths.cpu().numpy(), self.context_length, self._stride)
        self._windows.to(device)

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Gather a whole batch in one step; `DataLoader` calls this with a batch of indices."""
        episode, start = self._windows.find(torch.as_tensor(indices, device=self._positions.device))
        n_real = (self._lengths[episode] - start)[:, None]
        inside = torch.minimum(self._positions, n_real - 1)  # padding repeats the last real step
        steps = (self._first_steps[episode] + start)[:, None] + inside
        batch = {
            "observations": self._observations[steps + episode[:, None]],  # an episode has one observation more
            "actions": self._actions[steps],
            "mask": self._positions < n_real,
        }
        if self._targets is not None:
            batch["targets"] = self._targets[steps]
        if self._as_deployed:
            last = self._positions == n_real.clamp(max=len(self._positions)) - 1
            batch["scored"] = last | ((start == 0)[:, None] & batch["mask"])
        return batch

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One window, without the batch dimension."""
        return {name: array[0] for name, array in self.__getitems__([index]).items()}


def labels_of(episodes: Episodes) -> np.ndarray:
    """What the expert would have done at every step, as `actions` are; without labels, what was done."""
    return episodes.extras.get(LABEL, episodes.actions)


def windows_at(
    episodes: Episodes, step: int, *, action_space: ActionSpace, context_length: int
) -> tuple[np.ndarray, Tensor, Tensor]:
    """What a student looks at when it chooses the action of one step, in each episode that gets there.

    Args:
        step: how many steps lie behind it.

    Returns:
        which of the episodes these are (n,) int64; and their windows, observations (n, L, obs_dim) and actions
        (n, L[, dim]) in model units, with L = `context_length`, or all steps there are since the start of the episode.
    """
    which = np.flatnonzero(episodes.lengths > step)
    places = np.arange(max(step + 1 - context_length, 0), step + 1)
    rows = episodes.observation_offsets[which, None] + places
    steps = episodes.step_offsets[which, None] + places
    return (
        which,
        torch.from_numpy(episodes.observations[rows]),
        torch.from_numpy(action_space.encode(episodes.actions[steps])),
    )


def take_episodes(episodes: Episodes, amount: int | float) -> Episodes:
    """The first episodes, so that a smaller set is part of every larger one.

    Args:
        amount: how many (int), or which fraction of all, in (0, 1] (float), rounded up.
    """
    count = int(np.ceil(round(amount * len(episodes), 9))) if isinstance(amount, float) else amount
    if not 1 <= count <= len(episodes):
        raise ValueError(f"dataset.episodes asks for {count} episodes, but there are {len(episodes)} demonstrations")
    return episodes.first(count)


def observation_statistics(episodes: Episodes) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (obs_dim,) float32 over the observations at which an action was chosen.

    Computed over real steps of the flat arrays, so padding has no part in it; a constant coordinate gets deviation 1.
    """
    seen = np.ones(len(episodes.observations), dtype=bool)
    seen[episodes.observation_offsets + episodes.lengths] = False  # the last one of each episode
    blocks = [slice(first, first + 100_000) for first in range(0, len(seen), 100_000)]  # or copies would be made of all
    n_steps = seen.sum()

    def mean_of(values: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        chosen = (episodes.observations[block][seen[block]].astype(np.float64) for block in blocks)
        return sum(values(rows).sum(axis=0) for rows in chosen) / n_steps

    mean = mean_of(lambda rows: rows)
    std = np.sqrt(mean_of(lambda rows: (rows - mean) ** 2))
    std[std < 1e-6] = 1.0
    return torch.from_numpy(mean).float(), torch.from_numpy(std).float()
