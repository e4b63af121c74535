"""Batches of windows, in an order that the seed and the step decide alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ilt.demos import WindowDataset

VALIDATION_STEPS = 4_096
"""In one validation batch: about as many as a training batch has, which the caches of a CPU still hold."""


class EpochBatches(Sampler[Any]):
    """Shuffled batches of indices, epoch after epoch; which ones is a function of seed and step alone.

    Every epoch is a permutation of its own; what does not fill a batch at its end is left to the next ones.

    Args:
        n_windows, batch_size: an epoch has n_windows // batch_size batches, but at least one.
        seed: decides every permutation.
        first_step: the training step to begin at, so that a resumed run sees what it had not seen; a function is
            asked when the first batch is.
        rank, n_ranks: of n_ranks processes that learn together, each is given its part of every batch; together they
            see the batches of one.
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
    ) -> None:
        if n_windows < n_ranks:
            raise ValueError(f"trainer.devices must be at most {n_windows}, the windows there are, got {n_ranks}")
        self._n_windows, self._batch_size, self._seed = n_windows, batch_size, seed
        self._next_step = first_step
        self._rank, self._n_ranks = rank, n_ranks

    def __len__(self) -> int:
        return max(self._n_windows // self._batch_size, 1)

    def __iter__(self) -> Iterator[Tensor]:
        if callable(self._next_step):
            self._next_step = self._next_step()
        epoch, done = divmod(self._next_step, len(self))
        self._next_step = (epoch + 1) * len(self)
        generator = torch.Generator().manual_seed(hash((self._seed, epoch)) % 2**63)
        order = torch.randperm(self._n_windows, generator=generator)
        for batch in range(done, len(self)):
            windows = order[batch * self._batch_size : (batch + 1) * self._batch_size]
            yield windows.tensor_split(self._n_ranks)[self._rank]


class WindowLoader(DataLoader[dict[str, Tensor]]):
    """A DataLoader that Lightning may resume in the middle of an epoch: its sampler already stands at the step."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class WindowData(pl.LightningDataModule):
    """Training and validation windows, kept where the model learns. Batches are as `WindowDataset` describes.

    Args:
        train, validation: windows over different episodes.
        batch_size: windows in a training batch, of all processes that learn together.
        seed: decides the order of training batches.
    """

    def __init__(self, train: WindowDataset, validation: WindowDataset, *, batch_size: int, seed: int) -> None:
        super().__init__()
        self._train, self._validation = train, validation
        self._batch_size, self._seed = batch_size, seed

    @property
    def _device(self) -> torch.device:
        """Where the model learns."""
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def train_dataloader(self) -> WindowLoader:
        self._train.to(self._device)
        # Lightning may ask for this loader before it has restored the step of a resumed run
        trainer = self.trainer
        step = (lambda: trainer.global_step) if trainer is not None else 0
        rank, n_ranks = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        batches = EpochBatches(
            len(self._train), self._batch_size, seed=self._seed, first_step=step, rank=rank, n_ranks=n_ranks
        )
        return WindowLoader(self._train, batch_sampler=batches, collate_fn=lambda batch: batch)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        self._validation.to(self._device)
        # as many windows at once as hold some thousands of steps
        batch_size = max(VALIDATION_STEPS // self._validation.context_length, 1)
        return DataLoader(self._validation, batch_size=batch_size, collate_fn=lambda batch: batch)
