"""Schemas of the config groups `optimizer`, `trainer` and `callbacks`."""

from ilt.rules import COUNT, LARGEST_COUNT, Rule
from ilt.schema import component, key


@component("optimizer", "adamw", "ilt.training.optimizer.adamw")
class AdamW:
    """AdamW with linear warm-up, then cosine decay. Only linear and recurrent weights are decayed."""

    learning_rate: float = key(0.003, "Peak learning rate.", gt=0)
    betas: list[float] = key([0.9, 0.95], "Decay rates of the first and second moments.", ge=0, lt=1, length=2)
    weight_decay: float = key(0.1, "Weight decay of linear and recurrent weights.", ge=0)
    warmup_fraction: float = key(0.03, "Fraction of all steps during which the learning rate rises.", ge=0, lt=1)
    final_learning_rate_fraction: float = key(0.02, "Final learning rate, as a fraction of the peak.", ge=0, le=1)


_COMPILE = Rule(lambda v: isinstance(v, bool) or v == "auto", "true, false or auto")
_DEVICES = Rule(lambda v: COUNT.allows(v) or v == "auto", "an integer of at least 1, or auto (all GPUs)")
_INTERVAL = Rule(
    lambda v: COUNT.allows(v) or (isinstance(v, float) and v == 1.0),
    "an integer of at least 1 (steps), or 1.0 (the end of an epoch)",
)


_BY_STEPS = "a run is finished at its last step; trainer.max_steps sets the number of steps"
_ALL_BATCHES = "training and validation use all windows; set their number with"
_BY_DEVICES = "it follows from trainer.devices"
_REFUSED = {
    "accumulate_grad_batches": "a resumed run finds its batches by their step; use a larger dataset.batch_size",
    "barebones": "a run needs its checkpoints and rollout evaluations",
    "callbacks": "callbacks have their own group, such as +callbacks.NAME._target_=…",
    "default_root_dir": "a run writes to its folder; use outputs and run_name",
    "enable_checkpointing": "results are made from the checkpoints of callbacks.best and callbacks.last",
    "enable_model_summary": "the log reports the number of parameters",
    "enable_progress_bar": "ilt shows its own progress",
    "fast_dev_run": "a run needs its checkpoints and rollout evaluations; experiment=smoke is short",
    "limit_predict_batches": "nothing is predicted; use evaluation.n_episodes",
    "limit_test_batches": "nothing is tested in batches; use evaluation.n_episodes",
    "limit_train_batches": f"{_ALL_BATCHES} dataset.episodes and dataset.stride",
    "limit_val_batches": f"{_ALL_BATCHES} demos.n_validation_episodes",
    "logger": "loggers have their own group, such as logger=csv",
    "max_time": _BY_STEPS,
    "min_epochs": _BY_STEPS,
    "min_steps": _BY_STEPS,
    "model_registry": "weights are in the run's folder; logger=wandb also stores them as an artifact",
    "num_sanity_val_steps": "validation before the first step would be counted as a rollout evaluation",
    "overfit_batches": "training and validation data are different; dataset.episodes=1 trains on one episode",
    "plugins": "they are objects, which a config cannot contain",
    "reload_dataloaders_every_n_epochs": "a resumed run finds its batches by their step",
    "strategy": _BY_DEVICES,
    "use_distributed_sampler": _BY_DEVICES,
}


@component("trainer", "lightning", "pytorch_lightning.Trainer", refused=_REFUSED)
class Trainer:
    """Lightning's Trainer."""

    accelerator: str = key("cpu", "Type of device to train on.", choices=("auto", "cpu", "gpu"))
    devices: int | str = key(
        1, "Processes per machine that train one model, each with an equal share of every batch.", rule=_DEVICES
    )
    precision: str = key(
        "32-true",
        "Numerical precision of training; `auto` is bf16-mixed on devices with native bfloat16 support (recent GPUs, "
        "and CPUs with AMX or AVX-512 BF16), and 32-true on others.",
        choices=("auto", "32-true", "bf16-mixed", "16-mixed", "64-true"),
    )
    compile: bool | str = key(
        "auto",
        "Whether `torch.compile` compiles the model for training; `auto` does so for long training on a GPU. Unless "
        "false, training steps on one GPU are replayed as a CUDA graph where possible.",
        rule=_COMPILE,
    )
    num_nodes: int = key(1, "Machines that train one model, if torchrun or srun starts the processes.", ge=1)
    max_steps: int = key(800, "Training steps; -1 to count epochs instead.", ge=-1, le=LARGEST_COUNT)
    max_epochs: int = key(
        -1,
        "Training epochs; needs max_steps=-1 val_check_interval=1.0 check_val_every_n_epoch=1.",
        ge=-1,
        le=LARGEST_COUNT,
    )
    val_check_interval: int | float = key(
        200, "Steps between validations; each includes a rollout evaluation and a checkpoint.", rule=_INTERVAL
    )
    check_val_every_n_epoch: int | None = key(None, "Epochs between validations; null to count steps.", ge=1)
    log_every_n_steps: int = key(50, "Steps between logged losses.", ge=1, identity=False)
    gradient_clip_val: float | None = key(1.0, "Norm to which gradients are clipped; null for no clipping.", gt=0)
    gradient_clip_algorithm: str | None = key(
        None, "Whether to clip the norm of all gradients (`norm` or null) or each value.", choices=("norm", "value")
    )
    deterministic: bool | None = key(None, "Allow only deterministic torch operations; see Lightning.")
    benchmark: bool | None = key(None, "Let cuDNN choose its fastest algorithms; see Lightning.")
    detect_anomaly: bool = key(False, "Find the operation that makes a gradient NaN; slow.")
    sync_batchnorm: bool = key(False, "Synchronize BatchNorm statistics across the processes.")


NOT_OF_LIGHTNING = {"compile"}
"""Keys of `trainer` that are not arguments of Lightning's Trainer."""


@component("callbacks", "rollout", "ilt.training.callbacks.RolloutEvaluation")
class Rollout:
    """Runs the student on selection seeds at each validation."""

    n_episodes: int = key(50, "Episodes at each validation, on the same selection seeds each time.", ge=1)


@component("callbacks", "curve", "ilt.training.callbacks.LearningCurve", watches=True)
class Curve:
    """Records the metrics of training."""


@component("callbacks", "ema", "ilt.training.callbacks.EMA")
class EMA:
    """Exponential moving average of the weights. The averaged weights are evaluated and saved."""

    decay: float = key(0.995, "Decay of the average; after n steps at most (1 + n) / (10 + n).", ge=0, lt=1)


@component("callbacks", "preemption", "ilt.training.preemption.Preemption", watches=True)
class Preemption:
    """Saves a checkpoint and exits on SIGTERM, SIGUSR1 or SIGUSR2. The same command resumes from it."""


@component("callbacks", "best", "ilt.training.checkpoints.Best", watches=True)
class Best:
    """Saves the weights with the highest mean return on selection seeds."""


@component("callbacks", "last", "ilt.training.checkpoints.Last", watches=True)
class Last:
    """Saves a checkpoint at every validation. An interrupted run resumes from it."""
