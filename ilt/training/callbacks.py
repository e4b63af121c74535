"""Training callbacks: rollout evaluation, pruning, weight averaging, and the learning curve."""

import logging
import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor

from ilt.models.heads import ActionHead
from ilt.rollout.metrics import episode_metrics
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.recorded import Context
from ilt.training.ranks import total

log = logging.getLogger(__name__)


class RolloutEvaluation(Callback):
    """Runs the student on selection seeds at every validation, and logs `rollout/return_mean` and other metrics.

    The trainer's `val_check_interval` and `check_val_every_n_epoch` set how often. The callback must come before a
    weight-averaging callback, which swaps in the averaged weights during validation, so that they act in the rollouts.
    If several processes train together, rank 0 runs the rollouts and broadcasts the metrics.

    Args:
        ctx: the environment and the rollout settings.
        head: the distribution that the student's outputs parametrize.
        n_episodes: number of selection seeds, which are the same each time.
        context_length: how many steps the student sees; None for the model's context length.
        deterministic: whether the student takes its most likely action instead of sampling.

    Attributes:
        history: one entry per evaluation: `step`, `return_mean` and the other metrics.
    """

    def __init__(
        self,
        *,
        ctx: Context,
        head: ActionHead,
        n_episodes: int,
        context_length: int | None = None,
        deterministic: bool = True,
    ) -> None:
        self._ctx, self._head, self._seeds = ctx, head, ctx.env.seeds("selection", n_episodes)
        self._context_length, self._deterministic = context_length, deterministic
        self.history: list[dict[str, float]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        averaging = [i for i, callback in enumerate(callbacks) if isinstance(callback, WeightAveraging)]
        if averaging and averaging[0] < callbacks.index(self):
            raise ValueError("callbacks: rollout must come before ema, or the student acts without averaged weights")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        measured = self._evaluate(trainer.global_step, pl_module) if trainer.is_global_zero else {}
        metrics = trainer.strategy.broadcast(measured)
        for name, value in metrics.items():
            pl_module.log(f"rollout/{name}", value, prog_bar=name == "return_mean", sync_dist=True)
        del metrics["seconds"]
        self.history.append({"step": trainer.global_step, **metrics})

    def _evaluate(self, step: int, pl_module: pl.LightningModule) -> dict[str, float]:
        """Return the metrics of a rollout, without those that the environment does not define, and its `seconds`."""
        started = time.monotonic()
        policy = SequencePolicy(
            pl_module.model,  # type: ignore[arg-type]  # Lightning types every attribute as Tensor or Module
            self._head,
            context_length=self._context_length,
            deterministic=self._deterministic,
        )
        episodes = self._ctx.quiet_rollout(policy, self._seeds)
        metrics = {k: v for k, v in episode_metrics(episodes, self._ctx.env).items() if v is not None}
        seconds = time.monotonic() - started
        names = {"success_rate": "success", "crash_rate": "crashes"}
        rates = "".join(f", {word} {100 * metrics[name]:.0f} %" for name, word in names.items() if name in metrics)
        log.info(
            "step %d: return %.1f%s over %d selection seeds (%.1f s)",
            *(step, metrics["return_mean"], rates, len(episodes), seconds),
        )
        return {**metrics, "seconds": seconds}

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]


class Pruning(Callback):
    """Reports the return of each rollout evaluation, and stops an unpromising training run.

    Args:
        report: takes a mean return on selection seeds and a step, and returns whether to stop. None in processes other
            than rank 0, which broadcasts its answer.

    Attributes:
        pruned: whether the training run was stopped.
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
    """Lightning's weight averaging as an exponential moving average, with a decay that starts small.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), as in TensorFlow's ExponentialMovingAverage. With a
    constant decay, the average after a few hundred steps would still be mostly the random initialization.

    Args:
        decay: final weight of the previous average at a step.
    """

    def __init__(self, *, decay: float) -> None:
        super().__init__(use_buffers=False)
        self._decay, self._n_averaged = decay, 0
        self._parameters: tuple[list[Tensor], list[Tensor]] = [], []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._average_model is not None
        self._n_averaged = int(self._average_model.n_averaged)
        self._parameters = list(self._average_model.module.parameters()), list(pl_module.parameters())

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Update the average, with the counter on the host: `AveragedModel` would read it from a GPU at every step."""
        n = self._n_averaged
        decay = min(self._decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(*self._parameters, 1 - decay)
        self._n_averaged = n + 1

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Any) -> None:
        assert self._average_model is not None
        self._average_model.n_averaged.fill_(self._n_averaged)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        self._copy_buffers(pl_module)
        super()._swap_models(pl_module)

    def _copy_average_to_current(self, pl_module: pl.LightningModule) -> None:
        self._copy_buffers(pl_module)
        super()._copy_average_to_current(pl_module)

    def _copy_buffers(self, pl_module: pl.LightningModule) -> None:
        """Copy the buffers, such as the statistics of BatchNorm, which are not averaged, to the averaged model."""
        assert self._average_model is not None
        for averaged, current in zip(self._average_model.module.buffers(), pl_module.buffers(), strict=True):
            averaged.copy_(current)


class LearningCurve(Callback):
    """Records the metrics of a training run, even if it is resumed.

    Attributes:
        rows: dictionaries with `step` and either `train/loss` or all metrics of a validation.
        batches, seconds: training steps of this process, and their duration in seconds without validations.
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
        if "rollout/return_mean" not in measured and trainer.is_global_zero:  # otherwise, the rollouts are logged
            numbers = [f"{name.removeprefix('val/').replace('_', ' ')} {value:.4g}" for name, value in measured.items()]
            log.info("step %d: validation %s", trainer.global_step, ", ".join(numbers))
        self._since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
