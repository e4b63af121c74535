"""The optimizer and its schedule."""

import math
from typing import Any

import torch
from torch import nn


def adamw(
    model: nn.Module,
    *,
    total_steps: int,
    fused: bool,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup_fraction: float,
    final_learning_rate_fraction: float,
) -> dict[str, Any]:
    """AdamW with decay on linear weights alone, a linear warm-up and a cosine down, as Lightning takes it.

    Another optimizer is any function `(model, *, total_steps, **keys)` that returns a torch optimizer or what
    `LightningModule.configure_optimizers` may return; name it as `optimizer._target_`.

    Args:
        model: whose parameters are trained.
        total_steps: of the whole training.
        fused: whether the step may be one kernel, which Lightning does not let clip gradients in mixed precision.
        warmup_fraction: share of all steps in which the learning rate rises linearly.
        final_learning_rate_fraction: where the cosine ends, as a fraction of `learning_rate`.
    """
    groups = decay_groups(model, weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=tuple(betas), fused=fused)  # type: ignore[arg-type]
    schedule = {"warmup_fraction": warmup_fraction, "final_fraction": final_learning_rate_fraction}
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total_steps=total_steps, **schedule)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def warmup_cosine(step: int, *, total_steps: int, warmup_fraction: float, final_fraction: float) -> float:
    """The learning rate at a step as a fraction of its peak: a linear rise, then half a cosine down."""
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
    return final_fraction + (1 - final_fraction) * (1 + math.cos(math.pi * progress)) / 2


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: matrices of linear and recurrent layers decay; biases, norms and embeddings do not."""
    decayed = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Linear)}
    recurrent = [layer for layer in model.modules() if isinstance(layer, nn.RNNBase)]
    decayed |= {id(p) for layer in recurrent for name, p in layer.named_parameters() if "weight" in name}
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
