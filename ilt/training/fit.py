"""The training stage of `ilt train`: demonstrations in, weights and a learning curve out."""

import csv
import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger

from ilt.config import run_config
from ilt.data.datamodule import WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset, observation_statistics, take_episodes
from ilt.envs.spec import EnvSpec
from ilt.imitation.algorithms import Imitation
from ilt.models.decoder import Decoder
from ilt.rollout.workers import n_processes
from ilt.tracking.run_folder import RESULTS, RunFolder
from ilt.tracking.store import Artifact, open_artifact
from ilt.training.callbacks import LearningCurve, Pruning
from ilt.training.display import TrainingDisplay
from ilt.training.module import ImitationModule
from ilt.training.ranks import Machines, joined, leave_signals_to_the_first
from ilt.training.runtime import n_nodes, n_ranks, on_gpus, prepare, set_up

if TYPE_CHECKING:
    from pytorch_lightning.strategies import Strategy
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """What training left behind.

    Attributes:
        weights: files of student weights: `last`, and `best` by selection-seed return.
        rows: the learning curve, as `LearningCurve` keeps it.
        n_parameters: trainable ones.
        windows_per_second: of training steps alone; None if this process made none.
        resumed: whether training went on from a checkpoint, so that its seconds are those of the last part only.
        imitation: the labels that it was given.
    """

    weights: Mapping[str, Path]
    rows: list[dict[str, float]]
    n_parameters: int
    windows_per_second: float | None
    resumed: bool
    imitation: Imitation

    def at(self, name: str) -> dict[str, float]:
        """What was measured on validation demonstrations and selection seeds when these weights were saved."""
        rows = [row for row in self.rows if "rollout/return_mean" in row]
        return rows[-1] if name == "last" else max(rows, key=lambda row: row["rollout/return_mean"])


def fit(
    cfg: DictConfig,
    spec: EnvSpec,
    run: RunFolder,
    demos: Artifact,
    logger: Logger | None,
    *,
    report: Callable[[float, int], bool] | None = None,
) -> Fitted | None:
    """Train on the demonstrations, from the run's last checkpoint if there is one; leave weights in the run folder.

    Further processes that `trainer.devices` asks for, and further machines, take part in the training and nothing else.

    Args:
        report: as `Pruning` takes it. None is returned if it ended the training.
    """
    checkpoint = run.last_checkpoint
    if checkpoint is not None:
        log.info("resuming from %s", checkpoint)
    ours, theirs = ([Pruning(report)], [Pruning(None)]) if report is not None else ([], [])
    unlocked = RunFolder(run.path, run.config, resume=True, started=0.0)  # the lock is this process's
    arguments = cfg, spec, unlocked, demos, checkpoint, theirs
    told = {
        "run": str(run.path.absolute()),
        "demonstrations": str(demos.path.absolute()),
        "checkpoint": checkpoint and str(checkpoint.absolute()),
        "pruning": report is not None,
    }
    machines = Machines.read(n_nodes(cfg))
    with joined(
        _learn_beside, arguments, n_ranks=n_ranks(cfg), on_gpus=on_gpus(cfg), machines=machines, told=told
    ) as strategy:
        model, curve, imitation = _learn(cfg, spec, run, demos, checkpoint, ours, strategy, logger)
    if any(callback.pruned for callback in ours):
        return None
    write_csv(run.path / "curve.csv", curve.rows)
    return Fitted(
        weights={name: _export(model, run, name) for name in ("last", "best")},
        rows=curve.rows,
        n_parameters=sum(p.numel() for p in model.parameters()),
        windows_per_second=curve.batches * cfg.dataset.batch_size / curve.seconds if curve.batches else None,
        resumed=checkpoint is not None,
        imitation=imitation,
    )


def accompany(cfg: DictConfig, folder: Path) -> bool:
    """What a further machine has to do of a run: nothing but its part in the training, once the first one begins it.

    Returns:
        whether this is a further machine. RuntimeError if the first one trains another run.
    """
    machines = Machines.read(n_nodes(cfg))
    if machines.this == 0:
        return False
    if (folder / RESULTS).exists():
        return True
    spec, _ = prepare(cfg)
    log.info("machine %d of %d waits for %s:%d", machines.this, machines.count, machines.host, machines.port)
    told = machines.hear()
    leave_signals_to_the_first()
    if told["run"] != str(folder.absolute()):
        raise RuntimeError(f"this machine has come to learn in {folder}, but {machines.host} learns in {told['run']}")
    run = RunFolder(folder, run_config(cfg), resume=True, started=0.0)  # the lock is the first machine's
    checkpoint = Path(told["checkpoint"]) if told["checkpoint"] else None
    pruning = [Pruning(None)] if told["pruning"] else []
    arguments = cfg, spec, run, open_artifact(Path(told["demonstrations"])), checkpoint, pruning
    with joined(_learn_beside, arguments, n_ranks=n_ranks(cfg), on_gpus=on_gpus(cfg), machines=machines) as strategy:
        _learn(*arguments, strategy)
    return True


def _learn_beside(cfg: DictConfig, *arguments: Any) -> None:
    """The whole life of a further process of a training."""
    set_up(cfg)
    _learn(cfg, *arguments)


def _learn(
    cfg: DictConfig,
    spec: EnvSpec,
    run: RunFolder,
    demos: Artifact,
    checkpoint: Path | None,
    pruning: list[Pruning],
    strategy: "Strategy | None",
    logger: Logger | None = None,
) -> tuple[Decoder, LearningCurve, Imitation]:
    """The same in every process that takes part, but for the strategy, which knows which one it is, and the logger."""
    pl.seed_everything(cfg.seed, verbose=False)
    demonstrations = take_episodes(Episodes.load(demos.file("demonstrations.npz")), cfg.dataset.episodes)
    imitation = Imitation(cfg, spec, demos, demonstrations)
    train = imitation.first
    validation = Episodes.load(demos.file("validation.npz"))
    data = WindowData(
        WindowDataset(train, context_length=cfg.dataset.context_length, stride=cfg.dataset.stride),
        WindowDataset(validation, context_length=cfg.dataset.context_length, as_deployed=True),
        batch_size=cfg.dataset.batch_size,
        seed=cfg.seed,
        steps_per_round=imitation.steps_per_round,
    )
    observation_dim, n_actions = spec.sizes()
    model: Decoder = instantiate(
        cfg.model,
        observation_dim=observation_dim,
        n_actions=n_actions,
        context_length=cfg.dataset.context_length,
        tokens=cfg.dataset.tokens,
    )
    model.set_normalization(*observation_statistics(train))
    n_parameters = sum(p.numel() for p in model.parameters())
    log.info("%d demonstrations, %d steps; a model of %d parameters", len(train), len(train.actions), n_parameters)
    module = ImitationModule(model, seed=cfg.seed, **OmegaConf.to_object(cfg.optimizer))  # type: ignore[arg-type]
    callbacks = _make_callbacks(cfg, spec, run)
    trainer = _make_trainer(cfg, run, [*imitation.callbacks(data), *callbacks, *pruning], strategy, logger)
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return model, next(callback for callback in callbacks if isinstance(callback, LearningCurve)), imitation


def _make_callbacks(cfg: DictConfig, spec: EnvSpec, run: RunFolder) -> list[pl.Callback]:
    """The config's callbacks in its order, with what only this run knows."""
    known: dict[str, dict[str, Any]] = {
        "rollout": {
            "spec": spec,
            "n_envs": cfg.n_envs,
            "n_processes": n_processes(cfg),
            "context_length": cfg.evaluation.context_length,
            "deterministic": cfg.evaluation.deterministic,
        },
        **{name: {"dirpath": str(run.checkpoints.resolve())} for name in ("best", "last", "preemption")},
    }
    return [
        # not as arguments of `instantiate`, which would turn the EnvSpec, a dataclass, into a config
        instantiate(callback, _partial_=True)(**known.get(str(name), {}))
        for name, callback in cfg.callbacks.items()
        if callback is not None
    ]


def _make_trainer(
    cfg: DictConfig, run: RunFolder, callbacks: list[pl.Callback], strategy: "Strategy | None", logger: Logger | None
) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # batches are gathered in one index, which is faster than handing them over from another process
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # on a resumed run the folder of checkpoints is meant not to be empty
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    # few demonstrations make short epochs, and what is logged goes by steps
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    # Lightning asks torch's pytree in a way that torch will drop
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    return instantiate(
        cfg.trainer,
        devices=n_ranks(cfg),
        strategy=strategy or "auto",
        use_distributed_sampler=False,  # batches are shared out by the data themselves
        callbacks=[*callbacks, TrainingDisplay()],
        logger=logger or False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=str(run.path),
    )


def _export(model: Decoder, run: RunFolder, name: str) -> Path:
    """The weights that a checkpoint's validation flew (averaged, if there is averaging), as safetensors."""
    checkpoint = torch.load(run.checkpoints / f"{name}.ckpt", weights_only=True, map_location="cpu")
    state: dict[str, Tensor] = checkpoint["state_dict"]
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    path = run.path / "weights" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    model.save(path)
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line per row; the columns are all keys of all rows, in the order in which they first come up."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
