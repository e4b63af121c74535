"""Schemas of the config groups `optimizer`, `trainer` and `callbacks`."""

from ilt.schema import COUNT, Rule, component, key


@component("optimizer", "adamw", "ilt.training.optimizer.adamw")
class AdamW:
    """AdamW on linear weights with decay, on everything else without; linear warm-up, then a cosine."""

    learning_rate: float = key(0.003, "At its peak.", gt=0)
    betas: list[float] = key([0.9, 0.95], "Of the moments.", ge=0, lt=1, length=2)
    weight_decay: float = key(0.1, "Of linear weights.", ge=0)
    warmup_fraction: float = key(0.03, "Share of all steps in which the learning rate rises.", ge=0, lt=1)
    final_learning_rate_fraction: float = key(0.02, "Where the cosine ends, as a fraction of the peak.", ge=0, le=1)


_DEVICES = Rule(lambda v: COUNT.allows(v) or v == "auto", "an integer of at least 1, or auto (all GPUs)")
_INTERVAL = Rule(
    lambda v: COUNT.allows(v) or (isinstance(v, float) and v == 1.0),
    "an integer of at least 1 (steps), or 1.0 (the end of an epoch)",
)


@component("trainer", "lightning", "pytorch_lightning.Trainer", open=True)
class Trainer:
    """Lightning's Trainer. Further keys are its own."""

    accelerator: str = key("cpu", "What it learns on.", choices=("auto", "cpu", "gpu"))
    devices: int | str = key(1, "Processes that learn one model, with equal shares of each batch.", rule=_DEVICES)
    precision: str = key("32-true", "Of the arithmetic.", choices=("32-true", "bf16-mixed", "16-mixed", "64-true"))
    max_steps: int = key(2000, "Batches; −1 to count epochs instead.", ge=-1)
    max_epochs: int = key(-1, "With max_steps=-1 val_check_interval=1.0 check_val_every_n_epoch=1.", ge=-1)
    val_check_interval: int | float = key(
        500, "Steps between validations, each with a rollout evaluation and a checkpoint.", rule=_INTERVAL
    )
    check_val_every_n_epoch: int | None = key(None, "Epochs between validations; null to count steps.", ge=1)
    log_every_n_steps: int = key(50, "Steps between logged losses.", ge=1, identity=False)
    gradient_clip_val: float | None = key(1.0, "Norm that gradients are clipped to; null for none.", gt=0)


@component("callbacks", "rollout", "ilt.training.callbacks.RolloutEvaluation")
class Rollout:
    """The student acts by itself at each validation."""

    n_episodes: int = key(50, "Selection seeds that are run at each validation.", ge=1)


@component("callbacks", "curve", "ilt.training.callbacks.LearningCurve", watches=True)
class Curve:
    """Keeps what was measured while learning."""


@component("callbacks", "ema", "ilt.training.callbacks.EMA")
class EMA:
    """Averages weights exponentially; the averaged ones act, and are kept."""

    decay: float = key(
        0.995, "After n steps at most (1 + n) / (10 + n), so that short trainings are averaged too.", ge=0, lt=1
    )


@component("callbacks", "preemption", "ilt.training.preemption.Preemption", watches=True)
class Preemption:
    """Told to end, it saves, and the same command goes on at that step."""


@component("callbacks", "checkpoint", "pytorch_lightning.callbacks.ModelCheckpoint", open=True, watches=True)
class Checkpoint:
    """Lightning's checkpoints."""
