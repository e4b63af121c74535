"""Imitation as a LightningModule, which joins model, loss, logging and optimizer, independently of the environment."""

import functools
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
from ilt.training.graphed import GraphedStep, set_capturable
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
        compiled: whether `torch.compile` compiles the model for training.
        clip: clips the gradients of parameters in a `GraphedStep`, which makes all training steps, from batches of
            window indices (`WindowData.as_indices`). None for Lightning's steps.
    """

    def __init__(
        self,
        model: SequenceModel,
        head: ActionHead,
        *,
        seed: int,
        make_optimizer: Callable[..., Any],
        compiled: bool = False,
        clip: Callable[[Any], object] | None = None,
    ) -> None:
        super().__init__()
        self.model, self._head = model, head
        self._seed, self._make_optimizer = seed, make_optimizer
        self._compiled, self._clip = compiled, clip
        self.automatic_optimization = clip is None

    @functools.cached_property
    def _model(self) -> Callable[..., Tensor]:
        """The model as training calls it. Compiled as a module, it would be a second one in checkpoints."""
        return torch.compile(self.model.forward, dynamic=False) if self._compiled else self.model

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        rank = (self.global_rank,) if self.global_rank > 0 else ()  # rank 0 draws as a single process does
        seed_draws(hash((self._seed, self.global_step, *rank)) % 2**63, self.device)
        loss = self._loss_of_batch(batch) if self.automatic_optimization else self._graphed(batch["windows"])
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            # not at every step: logging takes longer than the optimizer
            self._check("loss", loss)
            self.log("train/loss", loss.clone(), prog_bar=True, sync_dist=True)
        if not self.automatic_optimization:
            self._count_step()
        return loss

    def _loss_of_batch(self, batch: dict[str, Tensor]) -> Tensor:
        mask = batch["mask"]
        outputs = self._model(batch["observations"], batch["actions"], mask)
        loss = self._loss(at_least_float32(outputs[mask]), batch, mask)
        if self.trainer.world_size > 1:  # DDP averages gradients, whatever the share of real targets
            n_real = batch.get("target_mask", mask).sum()
            loss = loss * (n_real * self.trainer.world_size / total(n_real))
        return loss

    def _graphed(self, windows: Tensor) -> Tensor:
        """Make a training step with the windows of these indices (B,) int64. Return the loss."""
        assert self._clip is not None
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if (data.n_windows, len(windows)) != self._graphed_for:  # a round has added data at other addresses
            self._graphed_for = data.n_windows, len(windows)
            optimizer: Any = self.optimizers(use_pl_optimizer=False)
            self._step = GraphedStep(self._loss_of_windows, list(self.model.parameters()), optimizer, self._clip)
        return self._step(windows)

    _graphed_for = 0, 0

    def _loss_of_windows(self, windows: Tensor) -> Tensor:
        """Return the loss of the windows of these indices (B,) int64, without reading anything back from the device."""
        batch = self.trainer.datamodule.gather(windows)  # type: ignore[attr-defined]
        batch = self.trainer.precision_plugin.convert_input(batch)
        kind = self.device.type
        # cached conversions of the weights would be those of the warm-up, which a graph never repeats
        with torch.autocast(kind, enabled=torch.is_autocast_enabled(kind), cache_enabled=False):
            outputs = self._model(batch["observations"], batch["actions"], batch["mask"])
            return mean_loss(self._head, at_least_float32(outputs), batch)

    def _count_step(self) -> None:
        """Do what Lightning does after a step of its own."""
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        steps = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        steps.increment_ready()
        steps.increment_completed()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue at the checkpoint's step, whichever way steps were made.

        Lightning counts automatic and manual steps separately, and an optimizer for a graph has tensors elsewhere.
        """
        loop = checkpoint["loops"]["fit_loop"]
        manual = loop["epoch_loop.manual_optimization.optim_step_progress"]
        automatic = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        for progress in (manual["total"], automatic["total"]):
            progress.update(ready=checkpoint["global_step"], completed=checkpoint["global_step"])
        for group in (group for kept in checkpoint["optimizer_states"] for group in kept["param_groups"]):
            if not self.automatic_optimization or group.get("capturable"):  # torch places the state accordingly
                group.update(lr=float(group["lr"]), fused=self._fused, capturable=False)

    def on_train_start(self) -> None:
        """Prepare the optimizer for a graph, if there is one."""
        self._graphed_for = 0, 0
        for optimizer in [] if self.automatic_optimization else self.trainer.optimizers:
            set_capturable(optimizer, self.device)

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
        n_steps = int(self.trainer.estimated_stepping_batches)
        return self._make_optimizer(self.model, total_steps=n_steps, fused=self._fused)

    @property
    def _fused(self) -> bool | None:
        """Whether the optimizer is fused: in mixed precision Lightning cannot clip the gradients of one that is."""
        return True if not self.automatic_optimization or "mixed" not in str(self.trainer.precision) else None


def mean_loss(head: ActionHead, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Return the head's mean loss over the real actions of a batch, with shapes that do not depend on their number.

    Args:
        head: whose loss is a mean over rows, so that it can be computed row by row.
        outputs: (B, K, n_outputs).
        batch: see `WindowDataset`.
    """
    targets, mask = batch.get("targets", batch["actions"]), batch["mask"]
    step_head = head
    if isinstance(head, ActionChunks):
        step_head, outputs, mask = head.step_head, head.split(outputs), batch["target_mask"]
    rows = mask.ndim - 1
    loss_of_row = torch.vmap(lambda output, target: step_head.loss(output[None], target[None]))
    losses = loss_of_row(outputs.flatten(0, rows), targets.flatten(0, rows))
    return torch.where(mask.flatten(), losses, 0.0).sum() / mask.sum()


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
