"""Two processes that learn together do what one does: the same batches make the same steps."""

import os
import signal
import socket
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from ilt.data.datamodule import EpochBatches
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.spec import EnvSpec
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from ilt.tracking.run_folder import RunFolder
from ilt.tracking.store import Artifact
from ilt.training.fit import Fitted, fit
from ilt.training.module import ImitationModule
from ilt.training.ranks import Machines
from tests.cli.test_train import ROOT, SMOKE, call, environment, only_run
from tests.toys import countdown, recall
from tests.training.test_callbacks import by_steps, decoder, train_config, untimed


class Toy(EnvSpec):
    """Where this class is read, the toy environments are registered."""


SPEC = Toy(**{name: getattr(countdown(), name) for name in ("id", "success_return", "crash_reward", "seed_blocks")})
TWO = ["trainer.devices=2"]


def demonstrations(folder: Path) -> Artifact:
    """Episodes of one to three steps, so that windows of three steps are padded, each by another length."""
    for name in ("demonstrations", "validation"):
        rollout(SPEC, RandomPolicy(3), SPEC.seeds(name, 30)).save(folder / f"{name}.npz")
    return Artifact(folder, {})


def config(folder: Path, *overrides: str) -> DictConfig:
    small = ["dataset.context_length=3", "dataset.batch_size=8", "model.dropout=0.0", "callbacks.ema.decay=0.8"]
    every_step = ["trainer.log_every_n_steps=1", "callbacks.rollout.n_episodes=20"]
    return train_config(folder, *by_steps(2), *small, *every_step, *overrides)


def train(cfg: DictConfig, folder: Path, **report: Any) -> Fitted:
    with RunFolder(folder, {}, resume=True, started=0.0) as run:
        fitted = fit(cfg, SPEC, run, demonstrations(folder.parent), None, **report)
    assert fitted is not None, "pruned"
    return fitted


def assert_same(fitted: Fitted, expected: Fitted) -> None:
    """To five digits: what several processes have computed is added up in another order."""
    rows, wanted = untimed(fitted.rows), untimed(expected.rows)
    assert [row.keys() for row in rows] == [row.keys() for row in wanted]
    for row, other in zip(rows, wanted, strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    for name in ("last", "best"):
        weights, theirs = load_file(fitted.weights[name]), load_file(expected.weights[name])
        for key, tensor in theirs.items():
            torch.testing.assert_close(weights[key], tensor, atol=1e-5, rtol=0)


class Fall(pl.Callback):
    """Something happens in one of the processes, in the middle of a step."""

    def __init__(self, *, rank: int, step: int, how: str) -> None:
        self._rank, self._step, self._how = rank, step, how

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self._step and trainer.global_rank == self._rank:
            if self._how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            signal.raise_signal(signal.SIGUSR1)


def fall(**what: Any) -> list[str]:
    keys = {"_target_": f"{__name__}.Fall", **what}
    return [f"+callbacks.fall.{name}={value}" for name, value in keys.items()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """What one process learns."""
    folder = tmp_path_factory.mktemp("alone")
    return train(config(folder), folder / "run")


def test_two_processes_learn_what_one_learns(tmp_path: Path, alone: Fitted) -> None:
    fitted = train(config(tmp_path, *TWO), tmp_path / "run")
    assert len(fitted.rows) == 10 + 5
    assert_same(fitted, alone)
    assert not torch.distributed.is_initialized()


NODES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


def test_where_machines_meet_is_told_by_what_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Machines.read(1) == Machines()
    for name in NODES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ValueError, match=r"trainer\.num_nodes=2 needs srun, or .*; NODE_RANK, MASTER_ADDR, MASTER_PORT"
    ):
        Machines.read(2)
    for name, value in zip(NODES, ("1", "first", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    assert Machines.read(2) == Machines(2, 1, "first", 29500)
    monkeypatch.setenv("NODE_RANK", "2")
    with pytest.raises(ValueError, match=r"NODE_RANK must be from 0 to 1 for trainer\.num_nodes=2, got 2"):
        Machines.read(2)


@pytest.mark.slow
def test_two_machines_learn_what_one_learns(tmp_path: Path) -> None:
    """Two processes that meet over the network; each is a machine to the other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = [*SMOKE, "trainer.accelerator=cpu", "evaluation.video=false", "evaluation.n_episodes=2"]
    run += ["model.dropout=0", "model.action_dropout=0"]
    both = [sys.executable, "-m", "ilt", "train", *run, "+trainer.num_nodes=2", f"outputs={tmp_path / 'two'}"]
    machines = [
        subprocess.Popen(
            both,
            cwd=ROOT,
            env={**environment(), "NODE_RANK": str(this), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for this in (1, 0)
    ]
    said = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert f"machine 1 of 2 waits for 127.0.0.1:{port}" in said[0]
    assert "test episodes" not in said[0]  # only the first one scores
    call("train", *run, f"outputs={tmp_path / 'one'}")
    ours, theirs = (load_file(only_run(tmp_path / name) / "weights" / "last.safetensors") for name in ("two", "one"))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_told_to_end_and_resumed_end_where_one_does(tmp_path: Path, alone: Fitted) -> None:
    with pytest.raises(SystemExit) as ended:
        train(config(tmp_path, *TWO, *fall(rank=0, step=4, how="told")), tmp_path / "run")
    assert ended.value.code == 128 + signal.SIGUSR1
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    fitted = train(config(tmp_path, *TWO), tmp_path / "run")
    assert fitted.resumed
    assert_same(fitted, alone)


def test_what_is_compared_holds_padding_shared_out_unequally(tmp_path: Path) -> None:
    demonstrations(tmp_path)
    windows = WindowDataset(Episodes.load(tmp_path / "demonstrations.npz"), context_length=3)
    shares = [
        [int(windows.__getitems__(batch)["mask"].sum()) for batch in EpochBatches(30, 8, seed=0, rank=r, n_ranks=2)]
        for r in (0, 1)
    ]
    assert any(first != second for first, second in zip(*shares, strict=True))
    assert all(share < 4 * 3 for share in shares[0])


@pytest.mark.slow
def test_two_processes_are_pruned_together(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="pruned"):
        train(config(tmp_path, *TWO), tmp_path / "run", report=lambda value, step: step == 4)
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.slow
def test_the_death_of_a_process_is_told_and_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the process of rank 1 ended with exit code -9"):
        train(config(tmp_path, *TWO, *fall(rank=1, step=1, how="killed")), tmp_path / "run")
    assert not torch.distributed.is_initialized()


def test_dropout_draws_differ_between_processes_and_are_those_of_one_in_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []
    monkeypatch.setattr("ilt.training.module.seed_draws", lambda seed, device: draws.append(seed))
    torch.manual_seed(0)
    optimizer = {"learning_rate": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.1, "warmup_fraction": 0.0}
    module = ImitationModule(decoder(), seed=3, **optimizer, final_learning_rate_fraction=1.0)
    batch = WindowDataset(rollout(recall(), RandomPolicy(2), recall().seeds("test", 1)), context_length=4)[0]
    for rank in (0, 1, 2):
        module._trainer = SimpleNamespace(global_rank=rank, world_size=1, global_step=7, log_every_n_steps=100)
        module.training_step({name: array[None] for name, array in batch.items()}, 0)
    assert len(set(draws)) == 3
    assert draws[0] == hash((3, 7)) % 2**63


@pytest.mark.parametrize(("n_windows", "batch_size"), [(30, 8), (5, 8), (12, 6)])
def test_ranks_share_out_the_batches_of_one_process(n_windows: int, batch_size: int) -> None:
    whole = EpochBatches(n_windows, batch_size, seed=3, first_step=2)
    shares = [EpochBatches(n_windows, batch_size, seed=3, first_step=2, rank=r, n_ranks=2) for r in (0, 1)]
    for batch, *parts in islice(zip(whole, *shares, strict=True), 5):
        assert torch.equal(torch.cat(parts), batch)
        assert abs(len(parts[0]) - len(parts[1])) <= 1


def test_fewer_windows_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.devices must be at most 1, the windows there are, got 2"):
        EpochBatches(1, 8, seed=0, rank=0, n_ranks=2)
