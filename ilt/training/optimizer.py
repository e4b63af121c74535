"""The optimizer and its schedule."""

import math
from typing import Any

import torch
from torch import nn


def adamw(
    model: nn.Module,
    *,
    total_steps: int,
    fused: bool | None,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup_fraction: float,
    final_learning_rate_fraction: float,
) -> dict[str, Any]:
    """Build AdamW with linear warm-up and cosine decay, as Lightning takes it. See `decay_groups` for weight decay.

    To use another optimizer, set `optimizer._target_` to the path of a function `(model, *, total_steps, **keys)`. It
    returns a torch optimizer, or anything else that `LightningModule.configure_optimizers` may return.

    Args:
        model: the model to train.
        total_steps: number of training steps.
        fused: whether to use the fused kernel; None for torch's choice of the others.
        learning_rate: peak learning rate.
        betas: decay rates of the first and second moments.
        weight_decay: weight decay of linear and recurrent weights.
        warmup_fraction: fraction of all steps during which the learning rate rises linearly.
        final_learning_rate_fraction: final learning rate, as a fraction of `learning_rate`.
    """
    groups = decay_groups(model, weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=tuple(betas), fused=fused)  # type: ignore[arg-type]
    schedule = {"warmup_fraction": warmup_fraction, "final_fraction": final_learning_rate_fraction}
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total_steps=total_steps, **schedule)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def warmup_cosine(step: int, *, total_steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """Return the learning rate at a step as a fraction of its peak: linear warm-up, then cosine decay."""
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into two groups: weights of linear and recurrent layers, which are decayed, and all others."""
    decayed = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear)}
    recurrent = [layer for layer in model.modules() if isinstance(layer, nn.RNNBase)]
    decayed |= {id(p) for layer in recurrent for name, p in layer.named_parameters() if "weight" in name}
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
