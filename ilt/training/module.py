"""Behavior cloning as a LightningModule: it joins loss, logging and optimizer, and knows no environment."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ilt.training.ranks import total


def bc_loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over real steps.

    Args:
        logits: (B, K, A), `[:, t]` predicts `targets[:, t]`.
        targets: (B, K) int64, what the expert did or would have done.
        mask: (B, K) bool, True at real steps; nothing else counts.
    """
    return cross_entropy(logits[mask], targets[mask])


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed the generator that dropout on this device draws from.

    `torch.manual_seed` would seed every kind of accelerator too, and where there is none remember a stack trace each
    time: milliseconds of every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def warmup_cosine(step: int, *, total_steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """The learning rate at a step as a fraction of its peak: a linear rise, then half a cosine down."""
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices of linear layers decay; biases, norms and embeddings do not."""
    decayed = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear)}
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]


class ImitationModule(pl.LightningModule):
    """Learns P(a_t | s_0, a_0, …, s_t) by cross-entropy at every real step of a window.

    What is random in a training step (dropout) is decided by seed and step, so that a resumed run draws what an
    uninterrupted one would have drawn. Where several processes learn together, each draws its own.

    Args:
        model: maps observations (B, K, obs_dim), actions (B, K) and mask (B, K) to logits (B, K, A).
        seed: decides dropout.
        learning_rate, betas, weight_decay: AdamW's.
        warmup_fraction: share of all steps in which the learning rate rises linearly.
        final_learning_rate_fraction: where the cosine ends, as a fraction of `learning_rate`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        seed: int,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        warmup_fraction: float,
        final_learning_rate_fraction: float,
    ) -> None:
        super().__init__()
        self.model = model
        self._seed = seed
        self._optimizer = {"lr": learning_rate, "betas": tuple(betas)}
        self._weight_decay = weight_decay
        self._schedule = {"warmup_fraction": warmup_fraction, "final_fraction": final_learning_rate_fraction}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        rank = (self.global_rank,) if self.global_rank > 0 else ()  # in rank 0 the draws of a process that is alone
        seed_draws(hash((self._seed, self.global_step, *rank)) % 2**63, self.device)
        logits = self.model(batch["observations"], batch["actions"], batch["mask"])
        loss = bc_loss(logits, batch.get("targets", batch["actions"]), batch["mask"])
        if self.trainer.world_size > 1:  # gradients will be averaged, whatever the share of real steps
            n_real = batch["mask"].sum()
            loss = loss * (n_real * self.trainer.world_size / total(n_real))
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            # not at every step, which takes longer than the optimizer
            self.log("train/loss", loss, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Every process sees all steps, so that there is nothing to add up."""
        logits = self.model(batch["observations"], batch["actions"], batch["mask"])
        targets, scored = batch.get("targets", batch["actions"]), batch.get("scored", batch["mask"])
        n_steps = int(scored.sum())
        correct = (logits.argmax(dim=-1) == targets)[scored].float().mean()
        self.log("val/loss", bc_loss(logits, targets, scored), batch_size=n_steps, sync_dist=True)
        self.log("val/action_accuracy", correct, batch_size=n_steps, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        total_steps = int(self.trainer.estimated_stepping_batches)
        groups = decay_groups(self.model, self._weight_decay)
        fused = self.trainer.precision != "16-mixed"  # whose scaled gradients Lightning does not clip in a fused step
        optimizer = torch.optim.AdamW(groups, fused=fused, **self._optimizer)  # type: ignore[arg-type]
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: warmup_cosine(step, total_steps=total_steps, **self._schedule)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
