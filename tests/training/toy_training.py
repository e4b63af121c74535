"""Trainings on toy environments that take seconds, run as `ilt train` does."""

import signal
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytorch_lightning as pl
import torch
from gymnasium import spaces
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from ilt.cli import app  # noqa: F401  (registers the schemas with Hydra)
from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.models.decoder import Decoder
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.recorded import Context
from ilt.rollout.run import rollout
from ilt.settings import run_config, training_config
from ilt.tracking.run_folder import RunFolder
from ilt.tracking.store import Artifact, Store
from ilt.training import fit as training
from tests.toys import recall

BIT = ActionSpace(n_choices=(2,), start=(0,))
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "num_sanity_val_steps": 0,
    **dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
}
"""Arguments for a trainer that displays and saves nothing."""


class Follow(gym.Env[np.ndarray, np.ndarray]):
    """Observes a number x from −1 to 1; the right action, worth 1, is 3x + 1. Terminates after 4 steps."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-2, 4, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._t, self._numbers = 0, self.np_random.uniform(-1, 1, (5, 1)).astype(np.float32)
        return self._numbers[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        error = abs(3 * float(self._numbers[self._t, 0]) + 1 - float(action[0]))
        self._t += 1
        return self._numbers[self._t], 1 - error, self._t == 4, False, {}


gym.register("ilt-toys/Follow-v0", Follow)


def follow_expert(observations: np.ndarray) -> np.ndarray:
    """Return the optimal actions in `Follow`."""
    return 3 * observations + 1


def decoder(kind: type[Decoder] = Decoder, **changes: Any) -> Decoder:
    """Return a one-layer transformer for `Recall`."""
    torch.manual_seed(0)
    task = {"observation_dim": 1, "action_space": BIT, "n_outputs": 2, "context_length": 4}
    return kind(**{**task, "n_layer": 1, "n_head": 2, "d_model": 8, **changes})


def windows() -> WindowDataset:
    """Return 36 windows of random play in `Recall`; what is learned from them does not matter."""
    spec = recall()
    episodes = rollout(spec, RandomPolicy(spec.action_space), spec.seeds("demonstrations", 4))
    return WindowDataset(episodes, action_space=spec.action_space, context_length=4)


def train_config(folder: Path, *overrides: str, env: str = "tests.toys:ilt-toys/Recall-v0") -> DictConfig:
    """Return a tiny main config for 36 windows; with batches of seven, an epoch has five steps."""
    changes = ["model=nano", "trainer=smoke", "logger=none", "processes=1", f"outputs={folder}", "run_name=run"]
    changes += ["env=gymnasium", f"env.id={env}", "env.success_return=12.0", "env.crash_reward=-1.0"]
    changes += ["expert=random", "expert.gate_episodes=2", "demos.n_episodes=4", "demos.n_validation_episodes=4"]
    changes += ["dataset.context_length=4", "dataset.batch_size=7", "callbacks.rollout.n_episodes=3"]
    changes += ["evaluation.video=false", "evaluation.n_episodes=4"]
    with initialize_config_module("ilt.conf", version_base="1.3"):
        return compose("train", [*changes, *overrides])


def context(cfg: DictConfig) -> Context:
    """Return the context that `pipeline.prepare` makes, without changing the number of threads."""
    return Context(EnvSpec.from_config(cfg.env), Store(Path(cfg.outputs)), n_envs=4)


def run_folder(cfg: DictConfig, path: Path) -> RunFolder:
    """Return the run's folder as `ilt train` opens it."""
    return RunFolder(path, run_config(cfg), training_config(cfg), resume=True, started=0.0)


def demonstrations(folder: Path, env: EnvSpec | None = None, n_episodes: int = 4) -> Artifact:
    """Return demonstrations by random play, by default in `Recall`."""
    env = env or recall()
    for name in ("demonstrations", "validation"):
        policy = RandomPolicy(env.action_space)
        rollout(env, policy, env.seeds(name, n_episodes)).save(folder / f"{name}.npz")
    return Artifact(folder, {})


def train(cfg: DictConfig, folder: Path, demos: Artifact, **report: Any) -> tuple[dict[str, Any], training.Fitted]:
    """Run only the training stage; return its last checkpoint and result. Raise AssertionError if it was pruned."""
    with RunFolder(folder, {}, {}, resume=True, started=0.0) as run:
        fitted = training.fit(context(cfg), cfg, run, demos, demos, **report)
    assert fitted is not None, "pruned"
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True), fitted


def untimed(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return a learning curve without its timings."""
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows]


def by_steps(every: int) -> list[str]:
    """Return overrides for five validations, one every `every` steps."""
    return [f"trainer.max_steps={5 * every}", f"trainer.val_check_interval={every}"]


def by_epochs(every: int) -> list[str]:
    """Return overrides for five validations, one every `every` epochs."""
    in_all = ["trainer.max_steps=-1", f"trainer.max_epochs={5 * every}"]
    return [*in_all, "trainer.val_check_interval=1.0", f"trainer.check_val_every_n_epoch={every}"]


class Interrupt(pl.Callback):
    """Sends one rank a signal in the middle of a step; with `number=0`, raises an error before the step."""

    def __init__(self, *, step: int, number: int, rank: int = 0) -> None:
        self._step, self._number, self._rank = step, number, rank

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step and not self._number:
            raise RuntimeError("killed")

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (trainer.global_step, trainer.global_rank) == (self._step, self._rank) and self._number:
            signal.raise_signal(self._number)


def interrupted(**keys: int) -> list[str]:
    """Return overrides that add an `Interrupt`."""
    target = f"+callbacks.interrupt._target_={__name__}.Interrupt"
    return [target, *(f"+callbacks.interrupt.{name}={value:d}" for name, value in keys.items())]
