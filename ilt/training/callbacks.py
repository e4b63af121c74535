"""What happens beside the training steps: the student flies, and a progress display that suits the output."""

import logging
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor

from ilt.envs.spec import EnvSpec
from ilt.rollout.metrics import episode_metrics
from ilt.rollout.run import rollout
from ilt.rollout.sequence_policy import SequencePolicy
from ilt.training.ranks import total

log = logging.getLogger(__name__)


class RolloutEvaluation(Callback):
    """Flies the student on selection seeds at every validation and logs `rollout/return_mean` and its companions.

    How often that is, in steps or in epochs, is the trainer's `val_check_interval` and `check_val_every_n_epoch`.
    It must stand before a weight-averaging callback, which puts the averaged weights in place during validation:
    then it is those that fly. Where several processes learn together, rank 0 flies, and tells the others.

    Args:
        spec: the environment.
        n_episodes: how many selection seeds are flown, the same ones each time.
        n_envs, n_processes: episodes in the air at once in each process, and how many processes fly.
        context_length: steps the student may look back on; None for all that the model allows.
        deterministic: whether the student takes its most likely action, or samples.

    Attributes:
        history: one entry per evaluation: `step`, `return_mean` and the other metrics.
    """

    def __init__(
        self,
        *,
        spec: EnvSpec,
        n_episodes: int,
        n_envs: int,
        n_processes: int = 1,
        context_length: int | None = None,
        deterministic: bool = True,
    ) -> None:
        self._spec, self._seeds = spec, spec.seeds("selection", n_episodes)
        self._n_envs, self._n_processes = n_envs, n_processes
        self._context_length, self._deterministic = context_length, deterministic
        self.history: list[dict[str, float]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        averaging = [i for i, callback in enumerate(callbacks) if isinstance(callback, WeightAveraging)]
        if averaging and averaging[0] < callbacks.index(self):
            raise ValueError("callbacks: rollout must stand before ema, or the student flies without averaged weights")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        flown = self._fly(trainer.global_step, pl_module) if trainer.is_global_zero else {}
        metrics = trainer.strategy.broadcast(flown)
        for name, value in metrics.items():
            pl_module.log(f"rollout/{name}", value, prog_bar=name == "return_mean", sync_dist=True)
        del metrics["seconds"]
        self.history.append({"step": trainer.global_step, **metrics})

    def _fly(self, step: int, pl_module: pl.LightningModule) -> dict[str, float]:
        """The metrics of a flight, and its `seconds`."""
        started = time.monotonic()
        policy = SequencePolicy(
            pl_module.model,  # type: ignore[arg-type]  # Lightning types every attribute as Tensor or Module
            context_length=self._context_length,
            deterministic=self._deterministic,
        )
        episodes = rollout(self._spec, policy, self._seeds, n_envs=self._n_envs, n_processes=self._n_processes)
        metrics = {name: value for name, value in episode_metrics(episodes, self._spec).items() if value is not None}
        rates = {word: metrics.get(name) for word, name in (("success", "success_rate"), ("crashes", "crash_rate"))}
        seconds = time.monotonic() - started
        log.info(
            "step %d: return %.1f%s over %d selection seeds (%.1f s)",
            step,
            metrics["return_mean"],
            "".join(f", {word} {100 * rate:.0f} %" for word, rate in rates.items() if rate is not None),
            len(episodes),
            seconds,
        )
        return {**metrics, "seconds": seconds}

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]


class Pruning(Callback):
    """Reports the return of each rollout evaluation, and ends a training that is not worth going on with.

    Args:
        report: takes a mean return on selection seeds and a step, and says whether to end. None in processes that learn
            beside rank 0, which tells them.

    Attributes:
        pruned: whether it was ended.
    """

    def __init__(self, report: Callable[[float, int], bool] | None) -> None:
        self._report, self.pruned = report, False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        value = float(trainer.callback_metrics["rollout/return_mean"])
        end = self._report(value, trainer.global_step) if self._report is not None else False
        if trainer.strategy.broadcast(end):
            log.info("pruned at step %d, with a return of %.1f", trainer.global_step, value)
            self.pruned = trainer.should_stop = True


class EMA(WeightAveraging):
    """Lightning's weight averaging, exponential, with a decay that begins small.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage: with a
    constant decay, a training of a few hundred steps would end on an average that is mostly its random start.

    Args:
        decay: what remains of the average after a step, in the long run.
    """

    def __init__(self, *, decay: float) -> None:
        def average(averaged: Any, current: Any, n: Tensor | int) -> None:
            torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + int(n)) / (10 + int(n))))  # all at once

        super().__init__(use_buffers=False, multi_avg_fn=average)


class LearningCurve(Callback):
    """Keeps what was measured while learning, through kills and resumptions.

    Attributes:
        rows: dictionaries with `step` and either `train/loss` or everything that a validation measured.
        batches, seconds: training steps taken by this process, and how long they took without validations.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.batches, self.seconds = 0, 0.0
        self._since = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            loss = total(outputs["loss"]) / trainer.world_size
            self.rows.append({"step": trainer.global_step, "train/loss": float(loss)})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds += time.monotonic() - self._since

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        measured = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("val/", "rollout/"))
        }
        self.rows.append({"step": trainer.global_step, **measured})
        self._since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
