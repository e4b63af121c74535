"""The progress display of training."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ilt.tracking.progress import Progress

EVERY = 0.1
"""Seconds between two updates."""


class TrainingDisplay(Callback):
    """Shows the steps done, the time left and, on a terminal, the last rollout return. Only rank 0 shows it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._updated = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._progress = Progress("training", total=int(trainer.estimated_stepping_batches), unit="steps")
        self._progress.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._progress is not None and time.monotonic() - self._updated >= EVERY:
            self._updated = time.monotonic()
            self._progress.update(trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        mean = trainer.callback_metrics.get("rollout/return_mean")
        if self._progress is not None and self._progress.shown and mean is not None:
            self._progress.update(trainer.global_step, note=f"return {mean:.1f}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._progress is not None:
            self._progress.update(trainer.global_step)
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None
