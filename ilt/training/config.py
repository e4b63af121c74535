"""Schemas of the config groups `optimizer`, `trainer` and `callbacks`."""

from ilt.schema import COUNT, LARGEST_COUNT, Rule, component, key


@component("optimizer", "adamw", "ilt.training.optimizer.adamw")
class AdamW:
    """AdamW with weight decay on linear and recurrent weights only; linear warm-up, then cosine decay."""

    learning_rate: float = key(0.003, "Peak learning rate.", gt=0)
    betas: list[float] = key([0.9, 0.95], "Decay rates of the two moments.", ge=0, lt=1, length=2)
    weight_decay: float = key(0.1, "Weight decay of linear and recurrent weights.", ge=0)
    warmup_fraction: float = key(0.03, "Fraction of all steps in which the learning rate rises.", ge=0, lt=1)
    final_learning_rate_fraction: float = key(0.02, "Final learning rate, as a fraction of the peak.", ge=0, le=1)


_DEVICES = Rule(lambda v: COUNT.allows(v) or v == "auto", "an integer of at least 1, or auto (all GPUs)")
_INTERVAL = Rule(
    lambda v: COUNT.allows(v) or (isinstance(v, float) and v == 1.0),
    "an integer of at least 1 (steps), or 1.0 (the end of an epoch)",
)


_BY_STEPS = "a run is finished at its last step; trainer.max_steps says how many there are"
_ALL_BATCHES = "training and validation use all windows; dataset.episodes and dataset.stride say how many there are"
_BY_DEVICES = "it follows from trainer.devices"
_REFUSED = {
    "accumulate_grad_batches": "a resumed run finds its batches by their step; use a larger dataset.batch_size",
    "barebones": "a run needs its checkpoints and rollout evaluations",
    "callbacks": "callbacks are a group of their own, such as +callbacks.NAME._target_=…",
    "default_root_dir": "a run writes to its folder; use outputs and run_name",
    "enable_checkpointing": "results are made from the checkpoints of callbacks.best and callbacks.last",
    "enable_model_summary": "the log says how many parameters there are",
    "enable_progress_bar": "ilt shows its own",
    "fast_dev_run": "a run needs its checkpoints and rollout evaluations; experiment=smoke is short",
    "limit_predict_batches": "nothing is predicted; use evaluation.n_episodes",
    "limit_test_batches": "nothing is tested in batches; use evaluation.n_episodes",
    "limit_train_batches": _ALL_BATCHES,
    "limit_val_batches": f"{_ALL_BATCHES}, and demos.n_validation_episodes",
    "logger": "loggers are a group of their own, such as logger=csv",
    "max_time": _BY_STEPS,
    "min_epochs": _BY_STEPS,
    "min_steps": _BY_STEPS,
    "model_registry": "weights are in the run's folder; logger=wandb keeps them as an artifact, too",
    "num_sanity_val_steps": "validation before the first step would be counted as a rollout evaluation",
    "overfit_batches": "training and validation data are different; dataset.episodes=1 trains on one episode",
    "plugins": "they are objects, which a config cannot hold",
    "reload_dataloaders_every_n_epochs": "a resumed run finds its batches by their step",
    "strategy": _BY_DEVICES,
    "use_distributed_sampler": _BY_DEVICES,
}


@component("trainer", "lightning", "pytorch_lightning.Trainer", refused=_REFUSED)
class Trainer:
    """Lightning's Trainer."""

    accelerator: str = key("cpu", "Device type.", choices=("auto", "cpu", "gpu"))
    devices: int | str = key(1, "Processes that train one model, with equal shares of each batch.", rule=_DEVICES)
    precision: str = key("32-true", "Precision.", choices=("32-true", "bf16-mixed", "16-mixed", "64-true"))
    num_nodes: int = key(1, "Machines that train one model, where torchrun or srun starts the processes.", ge=1)
    max_steps: int = key(2000, "Training steps; −1 to count epochs instead.", ge=-1, le=LARGEST_COUNT)
    max_epochs: int = key(
        -1, "Needs max_steps=-1 val_check_interval=1.0 check_val_every_n_epoch=1.", ge=-1, le=LARGEST_COUNT
    )
    val_check_interval: int | float = key(
        500, "Steps between validations, each with a rollout evaluation and a checkpoint.", rule=_INTERVAL
    )
    check_val_every_n_epoch: int | None = key(None, "Epochs between validations; null to count steps.", ge=1)
    log_every_n_steps: int = key(50, "Steps between logged losses.", ge=1, identity=False)
    gradient_clip_val: float | None = key(1.0, "Norm that gradients are clipped to; null for none.", gt=0)
    gradient_clip_algorithm: str | None = key(
        None, "Clip the norm of all gradients (null), or each value.", choices=("norm", "value")
    )
    deterministic: bool | None = key(None, "Refuse operations of torch that do not repeat; see Lightning.")
    benchmark: bool | None = key(None, "Let cuDNN choose its fastest algorithms; see Lightning.")
    detect_anomaly: bool = key(False, "Look for the operation that makes a gradient NaN, which is slow.")
    sync_batchnorm: bool = key(False, "Share the statistics of a model's BatchNorm among trainer.devices.")


@component("callbacks", "rollout", "ilt.training.callbacks.RolloutEvaluation")
class Rollout:
    """Rollout evaluation of the student at each validation."""

    n_episodes: int = key(50, "Selection seeds that are run at each validation.", ge=1)


@component("callbacks", "curve", "ilt.training.callbacks.LearningCurve", watches=True)
class Curve:
    """Keeps the metrics of the training."""


@component("callbacks", "ema", "ilt.training.callbacks.EMA")
class EMA:
    """Exponential moving average of the weights; the averaged weights act and are saved."""

    decay: float = key(
        0.995, "Decay; after n steps at most (1 + n) / (10 + n), for the sake of short trainings.", ge=0, lt=1
    )


@component("callbacks", "preemption", "ilt.training.preemption.Preemption", watches=True)
class Preemption:
    """Saves a checkpoint on SIGTERM, SIGUSR1 or SIGUSR2 and ends; the same command resumes from it."""


@component("callbacks", "best", "ilt.training.checkpoints.Best", watches=True)
class Best:
    """Saves the weights with the highest mean return on selection seeds."""


@component("callbacks", "last", "ilt.training.checkpoints.Last", watches=True)
class Last:
    """Saves a checkpoint at every validation, from which a killed run resumes."""
