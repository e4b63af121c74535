"""The training stage: demonstrations in, weights and a learning curve out."""

import csv
import functools
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger

from ilt.data.config import is_return_conditioned
from ilt.data.datamodule import WindowData, as_they_are
from ilt.data.episodes import Episodes
from ilt.data.mirror import Mirror
from ilt.data.returns import keep_returns_to_go
from ilt.data.sources import check_source, make_source
from ilt.data.windows import observation_statistics, take_episodes
from ilt.experts.base import check_expert_config
from ilt.experts.find import LoadedExpert
from ilt.imitation.base import check_labels, make_imitation
from ilt.imitation.rounds import LabelBudget
from ilt.models.base import SequenceModel, validation_length
from ilt.models.heads import ActionHead
from ilt.models.spec import ModelSpec
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.recorded import Context
from ilt.schema import ConfigError, PlainError, accepted, build, locate, own_keys, plain
from ilt.settings import ROLLS_OUT
from ilt.tracking.checkpoints import newest_whole, read_checkpoint
from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.run_folder import TRAINING, RunFolder
from ilt.tracking.store import Artifact, DamagedArtifactError, read_with_digest, replacing, write_with_digest
from ilt.training.callbacks import LearningCurve, Pruning
from ilt.training.checkpoints import Best, CheckpointFiles, Last
from ilt.training.config import NOT_OF_LIGHTNING
from ilt.training.display import TrainingDisplay
from ilt.training.graphed import clipping, is_compiled, obstacle
from ilt.training.module import ImitationModule
from ilt.training.ranks import joined
from ilt.training.runtime import n_ranks, on_gpus, precision_of, set_up

if TYPE_CHECKING:
    from pytorch_lightning.strategies import Strategy

log = logging.getLogger(__name__)

_AFRESH = "resume=false starts the run over"


@dataclass(frozen=True)
class Fitted:
    """The results of a training run, which are also in `training.json` and `curve.csv`.

    Attributes:
        weights: files of student weights: `last`, and `best` by selection-seed return if there is an environment and
            `callbacks.best`.
        rows: the learning curve, as in `LearningCurve.rows`.
        n_parameters: number of parameters.
        windows_per_second: speed of training steps, without validations; None if this process ran no steps.
        resumed: whether training was resumed from a checkpoint, so that durations cover only the last part.
        imitation: the expert labels and rounds, as `LabelBudget.results` returns them.
        precision: numerical precision of the training, or of its last part; None if it is unknown.
    """

    weights: Mapping[str, Path]
    rows: list[dict[str, float]]
    n_parameters: int
    windows_per_second: float | None
    resumed: bool
    imitation: Mapping[str, Any]
    precision: str | None = None

    def at(self, name: str) -> dict[str, float]:
        """Return the validation and rollout metrics of the `last` or `best` weights."""
        rows = [row for row in self.rows if "val/loss" in row]
        return rows[-1] if name == "last" else max(rows, key=lambda row: row["rollout/return_mean"])

    @classmethod
    def read(cls, folder: Path) -> "Fitted | None":
        """Read the results of a finished training run from its folder; return None if it is not finished."""
        path = folder / TRAINING
        if not path.is_file():
            return None
        kept = read_with_digest(path)
        del kept["digest"]
        weights = {name: folder / "weights" / f"{name}.safetensors" for name in kept.pop("weights")}
        return cls(weights=weights, **kept)

    def write(self, folder: Path) -> None:
        """Write the results to the run's folder."""
        write_csv(folder / "curve.csv", self.rows)
        write_with_digest(folder / TRAINING, {**vars(self), "weights": list(self.weights)})


def fit(
    ctx: Context,
    cfg: DictConfig,
    run: RunFolder,
    demos: Artifact,
    expert: LoadedExpert | None,
    logger: Logger | None = None,
    *,
    report: Callable[[float, int], bool] | None = None,
) -> Fitted | None:
    """Train on the demonstrations, from the run's last checkpoint if there is one. Write weights to the run's folder.

    The other processes of `trainer.devices` only take part in training. Return None if `report` stopped the run.

    Args:
        cfg: a complete config of `ilt train`.
        report: as in `Pruning`.
    """
    checkpoint = newest_whole(run.checkpoints / "last.ckpt", advice=_AFRESH)
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    pruning, others_pruning = ([Pruning(report)], [Pruning(None)]) if report is not None else ([], [])
    # only this process holds the lock
    unlocked = RunFolder(run.path, run.config, run.identity, resume=True, started=0.0)
    arguments = ctx, cfg, unlocked, demos, expert, checkpoint, others_pruning
    with joined(_learn_beside, arguments, n_ranks=n_ranks(cfg.trainer), on_gpus=on_gpus(cfg.trainer)) as strategy:
        spec, model, curve, labels = _learn(ctx, cfg, run, demos, expert, checkpoint, pruning, strategy, logger)
    if any(callback.pruned for callback in pruning):
        return None
    has_best = ctx.env.simulated and cfg.callbacks.get("best") is not None
    fitted = Fitted(
        weights={name: _export(spec, model, run, name) for name in ("last", *(["best"] if has_best else []))},
        rows=curve.rows,
        n_parameters=sum(p.numel() for p in model.parameters()),
        windows_per_second=curve.batches * cfg.dataset.batch_size / curve.seconds if curve.batches else None,
        resumed=checkpoint is not None,
        imitation=labels.results(),
        precision=precision_of(cfg.trainer),
    )
    fitted.write(run.path)
    return fitted


def _learn_beside(ctx: Context, cfg: DictConfig, *arguments: Any) -> None:
    """Train in a process other than rank 0."""
    set_up(cfg.threads)
    _learn(ctx, cfg, *arguments)


def _learn(
    ctx: Context,
    cfg: DictConfig,
    run: RunFolder,
    demos: Artifact,
    expert: LoadedExpert | None,
    checkpoint: Path | None,
    pruning: list[Pruning],
    strategy: "Strategy | None",
    logger: Logger | None = None,
) -> tuple[ModelSpec, SequenceModel, LearningCurve, LabelBudget]:
    """Train. All processes do the same, except for the strategy, which knows the rank, and the logger."""
    pl.seed_everything(cfg.seed, verbose=False)
    demonstrations = take_episodes(
        Episodes.load(demos.file("demonstrations.npz")), cfg.dataset.episodes, first=cfg.dataset.first_episode
    )
    if is_return_conditioned(cfg.dataset):
        demonstrations = keep_returns_to_go(demonstrations)
    labels = _labels(ctx, cfg, run, demos, expert, demonstrations)
    spec = model_spec(ctx, cfg)
    model, head = spec.build()
    space, validation = ctx.env.action_space, Episodes.load(demos.file("validation.npz"))
    known = {"action_space": space, "chunk": cfg.head.chunk}
    augmented = Mirror(ctx.env).with_images if cfg.dataset.mirror else as_they_are
    first = augmented(labels.first)
    deployed = {"as_deployed": True, "window_length": validation_length(model, cfg.dataset.context_length)}
    data = WindowData(
        build("dataset", cfg.dataset, known={"episodes": first, **known}),
        build(
            "dataset",
            {**plain(cfg.dataset), "stride": 1},
            known={"episodes": validation, **deployed, **known},
        ),
        batch_size=cfg.dataset.batch_size,
        seed=cfg.seed,
        steps_per_round=labels.steps_per_round,
        augmented=augmented,
    )
    statistics = observation_statistics(
        first,
        least_deviation=ctx.env.observations.expected_deviation / len(labels.first),
        return_conditioned=model.return_conditioned,
    )
    model.set_normalization(*statistics)
    if model.target_return is not None:
        target = cfg.evaluation.target_return
        model.target_return.fill_(demonstrations.returns.max() if target is None else target)
    precision = precision_of(cfg.trainer)
    if cfg.trainer.precision == "auto":
        log.info("trainer.precision=auto: training in %s on this device", precision)
    if precision == "64-true":
        model.double()  # before the copy for weight averaging, which Lightning does not convert
    n_parameters = sum(p.numel() for p in model.parameters())
    n_episodes, n_steps = len(labels.first), len(labels.first.actions)
    ending = "" if n_episodes == 1 else "s"
    log.info("%d demonstration%s, %d steps; a model of %d parameters", n_episodes, ending, n_steps, n_parameters)
    make_optimizer = functools.partial(_make_optimizer, cfg.optimizer)
    callbacks = _make_callbacks(ctx, cfg, run.checkpoints, head)
    reason = obstacle(cfg, model, callbacks)
    data.as_indices = graphed = reason is None
    compiled = is_compiled(cfg, model, graphed=graphed)
    if on_gpus(cfg.trainer):
        way = "are replayed as a CUDA graph" if graphed else f"launch their kernels one by one: {reason}"
        log.info("training steps %s%s", way, ", with a compiled model" if compiled else "")
    module = ImitationModule(
        model,
        head,
        seed=cfg.seed,
        make_optimizer=make_optimizer,
        compiled=compiled,
        clip=clipping(cfg.trainer) if graphed else None,
    )
    trainer = _make_trainer(
        cfg,
        run,
        [*labels.callbacks(data, head), *callbacks, *pruning],
        strategy,
        logger,
        precision=precision,
        graphed=graphed,
    )
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    n_steps = int(trainer.estimated_stepping_batches)
    if trainer.global_step < n_steps and not any(callback.pruned for callback in pruning):
        raise PlainError(
            f"a callback ended the training at step {trainer.global_step} of {n_steps}, but "
            "a run is finished at its last step"
        )
    return spec, model, next(callback for callback in callbacks if isinstance(callback, LearningCurve)), labels


def model_spec(ctx: Context, cfg: DictConfig) -> ModelSpec:
    """Return the spec of the student that a config describes."""
    return ModelSpec(
        model=plain(cfg.model),
        head=plain(cfg.head),
        observation_dim=ctx.env.observations.dim + (conditioned := is_return_conditioned(cfg.dataset)),
        action_space=ctx.env.action_space,
        context_length=cfg.dataset.context_length,
        return_conditioned=conditioned,
        observation_names=ctx.env.observations.keyed_names,
    )


def check_components(ctx: Context, cfg: DictConfig) -> None:
    """Build a config's components, before any long work. Raise ConfigError, naming the key, if one does not fit."""
    check_labels(cfg.imitation, cfg.expert)
    check_source(cfg.demos, cfg.expert, ctx.env)
    if cfg.dataset.mirror:
        Mirror(ctx.env)
    for expert in (cfg.expert, *make_source(cfg.demos).experts.values()):
        check_expert_config(expert, ctx.env)
    deployed = {"as_deployed": True, "window_length": None}
    known = {"episodes": None, "action_space": None, "chunk": cfg.head.chunk, **deployed}
    given = accepted(_located("dataset", cfg), own_keys("dataset", cfg.dataset), known, prefix="dataset")
    if cfg.head.chunk > 1 and "chunk" not in given:
        raise ConfigError(
            f"head.chunk must be 1, got {cfg.head.chunk}: dataset._target_={cfg.dataset['_target_']} has no parameter "
            "`chunk`, the number of actions that are targets at each step"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model, head = model_spec(ctx, cfg).build()
        _check_acting(model, head, target=cfg.model["_target_"])
    _make_optimizer(cfg.optimizer, model, total_steps=1, fused=None)
    _make_callbacks(ctx, cfg, Path(), head)
    options = {name: value for name, value in own_keys("trainer", cfg.trainer).items() if name not in NOT_OF_LIGHTNING}
    accepted(_located("trainer", cfg), options, {}, prefix="trainer")


def _located(group: str, cfg: DictConfig) -> Any:
    return locate(cfg[group]["_target_"], key=f"{group}._target_")


def _check_acting(model: SequenceModel, head: ActionHead, *, target: str) -> None:
    """Raise ConfigError unless a student can process a window and act; its outputs are not judged."""
    space, length, slots = model.action_space, model.context_length, np.arange(2)
    observations = np.zeros((2, length, model.observation_dim), dtype=np.float32)
    try:
        actions = torch.from_numpy(space.zeros(2, length))
        outputs = model.eval()(torch.from_numpy(observations), actions, torch.ones(2, length, dtype=torch.bool))
        wanted = (2, length, model.n_outputs)
        if outputs.shape != wanted:
            raise ValueError(f"its outputs must be of shape {wanted}, got {tuple(outputs.shape)}")
        seen = observations[:, 0, : model.observation_dim - model.return_conditioned]
        policy = SequencePolicy(model, head)
        policy.reset(slots, slots)
        for _ in range(2):
            space.check(policy.act(slots, seen), 2, source="it")
    except Exception as error:
        raise ConfigError(f"model._target_={target} cannot act: {type(error).__name__}: {error}") from error


def _labels(
    ctx: Context,
    cfg: DictConfig,
    run: RunFolder,
    demos: Artifact,
    expert: LoadedExpert | None,
    demonstrations: Episodes,
) -> LabelBudget:
    algorithm = make_imitation(cfg.imitation)
    return LabelBudget(
        ctx,
        algorithm,
        name=cfg.imitation._target_.rsplit(".", 1)[-1].lower(),
        demos=demos,
        demonstrations=demonstrations,
        first_seed=make_source(cfg.demos).n_episodes,
        expert=expert,
        identity=run.identity,
        context_length=cfg.evaluation.context_length or cfg.dataset.context_length,
        deterministic=cfg.evaluation.deterministic,
        n_steps=cfg.trainer.max_steps,
    )


def _make_optimizer(values: Any, model: torch.nn.Module, **known: Any) -> Any:
    return build("optimizer", values, known={"model": model, **known})


def _make_callbacks(ctx: Context, cfg: DictConfig, folder: Path, head: ActionHead) -> list[pl.Callback]:
    """Build the config's callbacks, in order. Raise ConfigError, naming the key, if one is wrong."""
    known = {
        "ctx": ctx,
        "head": head,
        "context_length": cfg.evaluation.context_length,
        "deterministic": cfg.evaluation.deterministic,
        "dirpath": str(folder.resolve()),
    }
    made = []
    for name, values in cfg.callbacks.items():
        if values is not None and (ctx.env.simulated or name not in ROLLS_OUT):
            made.append(build("callbacks", values, known=known, prefix=f"callbacks.{name}"))
            if not isinstance(made[-1], pl.Callback):
                raise ConfigError(f"callbacks.{name}._target_ must be a Lightning callback, got {values['_target_']}")
            if isinstance(made[-1], pl.callbacks.EarlyStopping | pl.callbacks.Timer):
                raise ConfigError(
                    f"callbacks.{name} ends the training early, but a run is finished at its last step: "
                    "evaluation.reported_checkpoint=best reports the best weights"
                )
            if not isinstance(made[-1], needed := _NEEDED.get(str(name), pl.Callback)):
                raise ConfigError(f"callbacks.{name}._target_ must be a {needed.__name__}, got {values['_target_']}")
    return made


_NEEDED = {"curve": LearningCurve, "best": Best, "last": Last}
"""Classes of the callbacks that results are made from."""


def _make_trainer(
    cfg: DictConfig,
    run: RunFolder,
    callbacks: list[pl.Callback],
    strategy: "Strategy | None",
    logger: Logger | None,
    *,
    precision: str,
    graphed: bool,
) -> pl.Trainer:
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # batches are gathered by one index operation, which is faster than a transfer from worker processes
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # a resumed run has checkpoints in this folder
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    # few demonstrations make short epochs, and logging counts steps
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    # Lightning uses a deprecated function of torch's pytree
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    # torch warns about the optimizer's step before a graph is captured
    warnings.filterwarnings("ignore", message=".*capturable=True.*")
    options = {
        **{name: value for name, value in own_keys("trainer", cfg.trainer).items() if name not in NOT_OF_LIGHTNING},
        **({"gradient_clip_val": None, "gradient_clip_algorithm": None} if graphed else {}),  # the step clips
        "precision": precision,
        "devices": n_ranks(cfg.trainer),
        "strategy": strategy or "auto",
        "use_distributed_sampler": False,  # the batch sampler distributes batches
        "callbacks": [*callbacks, TrainingDisplay()],
        "logger": logger or False,
        "plugins": [CheckpointFiles()],
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(run.path),
    }
    return _located("trainer", cfg)(**options)


def _export(spec: ModelSpec, model: SequenceModel, run: RunFolder, name: str) -> Path:
    """Export the weights that a checkpoint's validation used (averaged, if there is averaging) as safetensors."""
    source = run.checkpoints / f"{name}.ckpt"
    try:
        checkpoint = read_checkpoint(source)
    except UnreadableFileError as error:
        raise DamagedArtifactError(f"{error}; {_AFRESH}") from error
    state: dict[str, torch.Tensor] = checkpoint["state_dict"]
    model.float().load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    path = run.path / "weights" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    spec.save(model, path)
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one line per row. The columns are the keys of all rows, in order of first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
