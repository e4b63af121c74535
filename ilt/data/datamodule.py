"""Batches of windows, in an order that depends only on the seed and the training step."""

from collections.abc import Callable, Iterator, Sized
from itertools import chain, islice, repeat
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset

VALIDATION_STEPS = 4_096
"""Steps in a validation batch: about as many as in a training batch, and few enough for a CPU's caches."""


class EpochBatches(Sampler[Any]):
    """Shuffled batches of indices, epoch after epoch, which depend only on the seed and the step.

    Every epoch has its own permutation. Windows that do not fill a last batch are dropped from the epoch.

    Args:
        n_windows, batch_size: an epoch has n_windows // batch_size batches, but at least one.
        seed: determines every permutation.
        first_step: training step to start at, so that a resumed run continues with batches that it has not seen; a
            function is called when the first batch is requested.
        rank, n_ranks: rank and number of the processes that train together; each gets its share of every batch.
        device: device of the indices; copying each batch of them from the CPU would wait for a GPU's previous step.
    """

    def __init__(
        self,
        n_windows: int,
        batch_size: int,
        *,
        seed: int,
        first_step: int | Callable[[], int] = 0,
        rank: int = 0,
        n_ranks: int = 1,
        device: torch.device | None = None,
    ) -> None:
        if n_windows < n_ranks:
            raise ValueError(f"trainer.devices must be at most {n_windows}, the windows there are, got {n_ranks}")
        self._n_windows, self._batch_size, self._seed = n_windows, batch_size, seed
        self._next_step = first_step
        self._rank, self._n_ranks, self._device = rank, n_ranks, device

    def __len__(self) -> int:
        return max(self._n_windows // self._batch_size, 1)

    def __iter__(self) -> Iterator[Tensor]:
        if callable(self._next_step):
            self._next_step = self._next_step()
        epoch, done = divmod(self._next_step, len(self))
        self._next_step = (epoch + 1) * len(self)
        generator = torch.Generator().manual_seed(hash((self._seed, epoch)) % 2**63)
        order = torch.randperm(self._n_windows, generator=generator).to(self._device)
        for batch in range(done, len(self)):
            windows = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            yield windows.tensor_split(self._n_ranks)[self._rank]


class RoundBatches(Sampler[Any]):
    """`EpochBatches` of growing data: every round starts new epochs over all the data collected so far.

    Args:
        windows: the training windows; their number is read at the start of each round.
        batch_size, seed: as in `EpochBatches`.
        n_steps: training steps from one round to the next.
        step: returns the training step of the next batch.
        device: as in `EpochBatches`.
    """

    def __init__(
        self,
        windows: Sized,
        batch_size: int,
        *,
        seed: int,
        n_steps: int,
        step: Callable[[], int] = lambda: 0,
        device: torch.device | None = None,
    ) -> None:
        self._windows, self._batch_size, self._seed = windows, batch_size, seed
        self._n_steps, self._step, self._device = n_steps, step, device

    def __len__(self) -> int:
        return self._n_steps

    def __iter__(self) -> Iterator[Tensor]:
        number, done = divmod(self._step(), self._n_steps)
        seed = hash((self._seed, number))
        epochs = repeat(
            EpochBatches(len(self._windows), self._batch_size, seed=seed, first_step=done, device=self._device)
        )
        yield from islice(chain.from_iterable(epochs), self._n_steps - done)


class WindowLoader(DataLoader[dict[str, Tensor]]):
    """A DataLoader that Lightning may resume mid-epoch: its sampler already starts at the right step."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the global step determines where the sampler starts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing; see `state_dict`."""


class _Indices(Dataset[dict[str, Tensor]]):
    """Batches of window indices, `windows` (B,) int64, whose windows are gathered within the training step."""

    def __init__(self, windows: Sized) -> None:
        self._windows = windows

    def __len__(self) -> int:
        return len(self._windows)

    def __getitems__(self, indices: Tensor) -> dict[str, Tensor]:
        return {"windows": indices}


def as_they_are(episodes: Episodes) -> Episodes:
    """Return the episodes."""
    return episodes


class WindowData(pl.LightningDataModule):
    """Training and validation windows, stored on the model's device. `WindowDataset` describes the batches.

    Args:
        train, validation: windows over different episodes.
        batch_size: windows in a training batch, summed over all processes that train together.
        seed: determines the order of training batches.
        steps_per_round: training steps between rounds, at which episodes may be added; None for no rounds.
        augmented: maps added episodes to those that are trained on, such as them and their mirror images; already
            applied to `train`.

    Attributes:
        as_indices: whether a training batch contains only the indices of its `windows`, for `gather`.
    """

    as_indices = False

    def __init__(
        self,
        train: WindowDataset,
        validation: WindowDataset,
        *,
        batch_size: int,
        seed: int,
        steps_per_round: int | None = None,
        augmented: Callable[[Episodes], Episodes] = as_they_are,
    ) -> None:
        super().__init__()
        self._train, self._validation = train, validation
        self._batch_size, self._seed, self._steps_per_round = batch_size, seed, steps_per_round
        self._augmented = augmented

    def extend(self, episodes: Episodes) -> None:
        """Add episodes to the training windows, from the next round on."""
        assert self._steps_per_round is not None
        self._train.extend(self._augmented(episodes))

    @property
    def n_windows(self) -> int:
        """The number of training windows, which changes when episodes are added."""
        return len(self._train)

    def gather(self, windows: Tensor) -> dict[str, Tensor]:
        """Return the training batch of these windows (B,) int64."""
        return self._train.__getitems__(windows)

    @property
    def _device(self) -> torch.device:
        """The device of the model."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def train_dataloader(self) -> WindowLoader:
        self._train.to(self._device)
        # Lightning may ask for this loader before it has restored the step of a resumed run
        trainer = self.trainer
        step = (lambda: trainer.global_step) if trainer is not None else (lambda: 0)
        rank, n_ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        order: Any = {"seed": self._seed, "device": self._device}
        batches = (
            EpochBatches(len(self._train), self._batch_size, first_step=step, rank=rank, n_ranks=n_ranks, **order)
            if self._steps_per_round is None
            else RoundBatches(self._train, self._batch_size, n_steps=self._steps_per_round, step=step, **order)
        )
        found = _Indices(self._train) if self.as_indices else self._train
        return WindowLoader(found, batch_sampler=batches, collate_fn=lambda batch: batch)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        self._validation.to(self._device)
        batch_size = max(VALIDATION_STEPS // self._validation.window_length, 1)
        return DataLoader(self._validation, batch_size=batch_size, collate_fn=lambda batch: batch)
