"""Preemption: save a checkpoint and exit when a scheduler announces the end of a job."""

import logging
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from ilt.training.ranks import total

log = logging.getLogger(__name__)

ANNOUNCED_BY = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
"""Signals that schedulers send some time before they kill a job; submitit uses SIGUSR2."""


class Preemption(Callback):
    """On SIGTERM, SIGUSR1 or SIGUSR2, saves a checkpoint at the end of the step and ends the process.

    If a validation is due after that step, training ends one step later, since Lightning would not make up for a missed
    validation. After saving, the previous signal handler runs, such as submitit's requeueing; without one, the process
    exits with the shell's exit code for the signal. The same command resumes from there. If several processes train
    together, rank 0 handles the signal and all end together.

    Args:
        dirpath: the folder of `last.ckpt`.
    """

    def __init__(self, *, dirpath: str) -> None:
        self._path = Path(dirpath) / "last.ckpt"
        self._before: dict[int, Any] = {}
        self._received: tuple[int, FrameType | None] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if threading.current_thread() is threading.main_thread():  # only this thread may handle signals
            self._before = {number: signal.getsignal(number) for number in ANNOUNCED_BY}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in self._before:  # replace Lightning's handlers, which would interrupt a validation
            signal.signal(number, self._note if trainer.is_global_zero else signal.SIG_IGN)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        received = self._received is not None
        if trainer.world_size > 1:
            received = bool(total(torch.tensor(int(received), device=pl_module.device)))
        if received and not _validation_is_due(trainer):
            trainer.save_checkpoint(self._path)
            self._end(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._received is not None:  # the last validation has saved everything
            self._end(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number, frame

    def _end(self, trainer: pl.Trainer) -> None:
        if self._received is None:  # rank 0 received it
            raise SystemExit
        number, frame = self._received
        name = signal.Signals(number).name
        log.info("%s: saved at step %d; the same command resumes from there", name, trainer.global_step)
        handler = self._before[number]
        self._restore()
        if callable(handler):
            handler(number, frame)
        raise SystemExit(128 + number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def _validation_is_due(trainer: pl.Trainer) -> bool:
    """Return whether a validation follows the step that was just done."""
    every = trainer.check_val_every_n_epoch
    if every is None:
        return trainer.global_step % trainer.val_check_interval == 0
    return trainer.is_last_batch and (trainer.current_epoch + 1) % every == 0
