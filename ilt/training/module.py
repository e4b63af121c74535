"""Imitation as a LightningModule, which joins model, loss, logging and optimizer, independently of the environment."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ilt.models.attention import at_least_float32
from ilt.models.base import SequenceModel
from ilt.models.chunks import ActionChunks
from ilt.models.heads import ActionHead
from ilt.schema import PlainError
from ilt.training.ranks import total


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout draws from on this device.

    `torch.manual_seed` would also seed every kind of accelerator. On a machine without one, it records a stack trace
    each time, which costs milliseconds per step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


class ImitationModule(pl.LightningModule):
    """Learns P(a_t | s_0, a_0, …, s_t) by the action head's loss at every real step of a window.

    Dropout depends only on seed and step, so that a resumed run draws the same numbers as an uninterrupted one. If
    several processes train together, each draws different numbers.

    Args:
        model: maps observations (B, K, obs_dim), actions (B, K[, dim]) and mask (B, K) to outputs (B, K, n_outputs).
        head: the distribution that the outputs parametrize.
        seed: determines dropout.
        make_optimizer: takes the model, `total_steps` and `fused`; see `ilt.training.optimizer.adamw`.
    """

    def __init__(
        self, model: SequenceModel, head: ActionHead, *, seed: int, make_optimizer: Callable[..., Any]
    ) -> None:
        super().__init__()
        self.model, self._head = model, head
        self._seed, self._make_optimizer = seed, make_optimizer

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        rank = (self.global_rank,) if self.global_rank > 0 else ()  # rank 0 draws as a single process does
        seed_draws(hash((self._seed, self.global_step, *rank)) % 2**63, self.device)
        outputs, mask = self.model(batch["observations"], batch["actions"], batch["mask"]), batch["mask"]
        loss = self._loss(at_least_float32(outputs[mask]), batch, mask)
        if self.trainer.world_size > 1:  # DDP averages gradients, whatever the share of real targets
            n_real = batch.get("target_mask", mask).sum()
            loss = loss * (n_real * self.trainer.world_size / total(n_real))
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            # not at every step: logging takes longer than the optimizer
            self._check("loss", loss)
            self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log loss and agreement. Every process sees all steps, so there is nothing to sum."""
        outputs = self.model(batch["observations"], batch["actions"], batch["mask"])
        scored = batch.get("scored", batch["mask"])
        outputs, targets = at_least_float32(outputs[scored]), batch.get("targets", batch["actions"])[scored]
        options = {"batch_size": len(targets), "sync_dist": True}
        loss = self._loss(outputs, batch, scored)
        self._check("validation loss", loss)
        self.log("val/loss", loss, **options)  # type: ignore[arg-type]
        present = targets[:, 0] if "target_mask" in batch else targets  # a chunk begins with the present action
        chosen, wanted = self._head.mode(outputs.cpu().numpy()), present.cpu().numpy()
        name, value = agreement(chosen, wanted)
        self.log(f"val/{name}", value, prog_bar=True, **options)  # type: ignore[arg-type]

    def _loss(self, outputs: Tensor, batch: dict[str, Tensor], at: Tensor) -> Tensor:
        """Return the head's loss of outputs (N, n_outputs) at the N steps of a batch that `at` (B, K) marks."""
        targets = batch.get("targets", batch["actions"])[at]
        if isinstance(self._head, ActionChunks):
            return self._head.loss(outputs, targets, batch["target_mask"][at])
        return self._head.loss(outputs, targets)

    def on_validation_epoch_start(self) -> None:
        """Raise PlainError if a weight is not finite, before anything is saved."""
        for name, parameter in self.model.named_parameters():
            self._check(f"weight {name}", parameter)

    def _check(self, what: str, value: Tensor) -> None:
        if not value.isfinite().all():
            raise PlainError(
                f"the training diverged: at step {self.global_step} the {what} is not finite; a lower "
                "optimizer.learning_rate or trainer.gradient_clip_val may help"
            )

    def configure_optimizers(self) -> Any:
        # in mixed precision Lightning cannot clip the gradients of a fused optimizer
        fused = "mixed" not in str(self.trainer.precision)
        return self._make_optimizer(self.model, total_steps=int(self.trainer.estimated_stepping_batches), fused=fused)


def agreement(chosen: np.ndarray, wanted: np.ndarray) -> tuple[str, float]:
    """Measure how well actions (n,) or (n, dim) agree with the wanted ones, both in model units.

    Returns:
        the name and value of the metric: `action_accuracy`, the fraction of equal actions, for choices; or
        `action_error`, the mean absolute error, for numbers.
    """
    if wanted.dtype.kind == "f":
        return "action_error", float(np.abs(np.clip(chosen, -1, 1) - wanted).mean())
    same = chosen == wanted
    return "action_accuracy", float((same if same.ndim == 1 else same.all(axis=1)).mean())
