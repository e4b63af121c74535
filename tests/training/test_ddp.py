"""Training with two processes takes the same steps on the same batches as with one."""

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
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from ilt.data.datamodule import EpochBatches
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.models.heads import Categorical
from ilt.schema import ConfigError
from ilt.training.fit import Fitted
from ilt.training.module import ImitationModule
from ilt.training.runtime import check_devices
from tests.toys import countdown
from tests.training import toy_training
from tests.training.toy_training import (
    BIT,
    by_steps,
    decoder,
    demonstrations,
    interrupted,
    train_config,
    untimed,
    windows,
)

ROOT = Path(__file__).parents[2]
COUNTDOWN = "tests.toys:ilt-toys/Countdown-v0"
TWO = ["trainer.devices=2"]


def config(folder: Path, *overrides: str) -> DictConfig:
    """Return a config with episodes of one to three steps, so windows of three steps have different padding.

    Double precision makes sums in a different order agree to many digits, even when divided by small numbers.
    """
    small = ["dataset.context_length=3", "dataset.batch_size=8", "model.dropout=0.0", "callbacks.ema.decay=0.8"]
    every_step = ["trainer.log_every_n_steps=1", "callbacks.rollout.n_episodes=20", "trainer.precision=64-true"]
    return train_config(folder, *by_steps(2), *small, *every_step, *overrides, env=COUNTDOWN)


def train(cfg: DictConfig, folder: Path, **report: Any) -> Fitted:
    demos = demonstrations(folder.parent, countdown(), n_episodes=30)
    return toy_training.train(cfg, folder, demos, **report)[1]


def assert_same(fitted: Fitted, expected: Fitted) -> None:
    """Compare to six digits, since several processes sum in a different order."""
    torch.testing.assert_close(untimed(fitted.rows), untimed(expected.rows), atol=1e-6, rtol=1e-6)
    for name in ("last", "best"):
        weights, wanted = load_file(fitted.weights[name]), load_file(expected.weights[name])
        torch.testing.assert_close(weights, wanted, atol=1e-6, rtol=0)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Return the result of training with one process."""
    folder = tmp_path_factory.mktemp("alone")
    return train(config(folder), folder / "run")


def test_two_processes_learn_what_one_learns(tmp_path: Path, alone: Fitted) -> None:
    fitted = train(config(tmp_path, *TWO), tmp_path / "run")
    assert len(fitted.rows) == 10 + 5
    assert_same(fitted, alone)
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_two_processes_learn_chunks_of_actions_and_returns_like_one(tmp_path: Path) -> None:
    both = ["head.chunk=2", "dataset.tokens=returns_states_actions"]  # chunks end with their episode, within a batch
    expected = train(config(tmp_path, *both), tmp_path / "alone")
    assert_same(train(config(tmp_path, *both, *TWO), tmp_path / "run"), expected)


# --- started by torchrun or srun ---

SMALL = ["experiment=smoke", "threads=1", "trainer.accelerator=cpu", "trainer.precision=64-true"]
SMALL += ["evaluation.video=false", "evaluation.n_episodes=2", "model.dropout=0", "model.action_dropout=0"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def start(launcher: list[str], *overrides: str, **environment: str) -> subprocess.Popen[str]:
    command = [*launcher, "-m", "ilt", "train", *SMALL, *overrides]
    env, pipe = {**ENVIRONMENT, **environment}, subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options]


def by_torchrun(*overrides: str) -> list[subprocess.Popen[str]]:
    return [start(torchrun("--standalone", "--nproc-per-node=2"), *TWO, *overrides)]


def by_torchrun_on_two_machines(*overrides: str) -> list[subprocess.Popen[str]]:
    port = free_port()
    options = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [torchrun(*options, f"--node-rank={rank}") for rank in (1, 0)]
    return [start(node, "trainer.num_nodes=2", *overrides) for node in nodes]


def by_srun(*overrides: str) -> list[subprocess.Popen[str]]:
    """Start two ranks with the variables that srun sets, without SLURM."""
    shared = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_JOB_ID": "12"}
    shared |= {"SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1", "SLURM_NODEID": "0", "MASTER_PORT": free_port()}
    ranks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in (1, 0)]
    return [start([sys.executable], *TWO, *overrides, **shared, **rank) for rank in ranks]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Return the weights learned by one process."""
    outputs = tmp_path_factory.mktemp("one")
    process = start([sys.executable], f"outputs={outputs}")
    said = process.communicate()[0]
    assert process.returncode == 0, said
    return weights_in(outputs)


def weights_in(outputs: Path) -> dict[str, torch.Tensor]:
    (path,) = outputs.glob("runs/*/weights/last.safetensors")
    return load_file(path)


@pytest.mark.slow
@pytest.mark.parametrize("launch", [by_torchrun, by_torchrun_on_two_machines, by_srun])
def test_processes_started_by_a_launcher_learn_what_one_learns(
    tmp_path: Path, expected: dict[str, torch.Tensor], launch: Any
) -> None:
    for words in ("expert, demonstrations, training, scores", "is finished"):  # the second time there is nothing to do
        processes = launch(f"outputs={tmp_path}", "logger=csv")
        said = [process.communicate()[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), said
        assert "".join(said).count(words) == 1
    torch.testing.assert_close(weights_in(tmp_path), expected, atol=1e-6, rtol=0)
    (log,) = tmp_path.glob("runs/*/train.log")
    assert log.read_text().count("step 20: return") == 1
    assert len([*tmp_path.glob("runs/[!.]*")]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (0, signal.SIGUSR1)])
def test_a_process_that_dies_ends_the_others(tmp_path: Path, rank: int, number: int) -> None:
    (process,) = by_torchrun(f"outputs={tmp_path}", *interrupted(rank=rank, step=3, number=number))
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0, said
    assert not [*tmp_path.glob("runs/*/results.json")]
    (checkpoint,) = [*tmp_path.glob("runs/*/checkpoints/last.ckpt")] or [None]
    assert (checkpoint is not None) == (number == signal.SIGUSR1)


def test_the_started_processes_must_match_the_trainer_config(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = OmegaConf.create({"devices": 1, "accelerator": "cpu", "num_nodes": 2, "precision": "32-true"})
    with pytest.raises(ConfigError, match=r"num_nodes must be 1 where neither torchrun nor srun .*, got 2"):
        check_devices(trainer, 8)
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"trainer\.devices and .* \(1 \* 2\) does not match the world size \(3\)"):
        check_devices(trainer, 8)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_devices(trainer, 8)
    with pytest.raises(ConfigError, match=r"dataset\.batch_size must be divisible by trainer\.devices = 2"):
        check_devices(trainer, 7)


# --- started by one process ---


@pytest.mark.slow
def test_two_preempted_and_resumed_processes_end_like_one(tmp_path: Path, alone: Fitted) -> None:
    with pytest.raises(SystemExit) as ended:
        train(config(tmp_path, *TWO, *interrupted(step=4, number=signal.SIGUSR1)), tmp_path / "run")
    assert ended.value.code == 128 + signal.SIGUSR1
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    fitted = train(config(tmp_path, *TWO), tmp_path / "run")
    assert fitted.resumed
    assert_same(fitted, alone)


def test_the_compared_trainings_have_unequal_padding_per_rank(tmp_path: Path) -> None:
    demonstrations(tmp_path, countdown(), n_episodes=30)
    episodes, space = Episodes.load(tmp_path / "demonstrations.npz"), countdown().action_space
    mask = WindowDataset(episodes, action_space=space, context_length=3).__getitems__(range(30))["mask"]
    batches = [EpochBatches(30, 8, seed=0, rank=r, n_ranks=2) for r in (0, 1)]
    shares = [[int(mask[batch].sum()) for batch in of_rank] for of_rank in batches]
    assert any(first != second for first, second in zip(*shares, strict=True))
    assert all(share < 4 * 3 for share in shares[0])


@pytest.mark.slow
def test_two_processes_are_pruned_together(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="pruned"):
        train(config(tmp_path, *TWO), tmp_path / "run", report=lambda value, step: step == 4)
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.slow
def test_the_death_of_a_process_is_reported_and_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the process of rank 1 ended with exit code -9"):
        train(config(tmp_path, *TWO, *interrupted(rank=1, step=1, number=signal.SIGKILL)), tmp_path / "run")
    assert not torch.distributed.is_initialized()


def test_dropout_differs_between_ranks_and_rank_0_matches_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []
    monkeypatch.setattr("ilt.training.module.seed_draws", lambda seed, device: draws.append(seed))
    torch.manual_seed(0)
    module = ImitationModule(decoder(), Categorical(action_space=BIT), seed=3, make_optimizer=torch.optim.SGD)
    batch = windows().__getitems__([0])
    for rank in (0, 1, 2):
        module._trainer = SimpleNamespace(global_rank=rank, world_size=1, global_step=7, log_every_n_steps=100)
        module.training_step(batch, 0)
    assert len(set(draws)) == 3
    assert draws[0] == hash((3, 7)) % 2**63


@pytest.mark.parametrize(("n_windows", "batch_size"), [(30, 8), (5, 8), (12, 6)])
def test_ranks_split_the_batches_of_one_process(n_windows: int, batch_size: int) -> None:
    whole = EpochBatches(n_windows, batch_size, seed=3, first_step=2)
    shares = [EpochBatches(n_windows, batch_size, seed=3, first_step=2, rank=r, n_ranks=2) for r in (0, 1)]
    for batch, *parts in islice(zip(whole, *shares, strict=True), 5):
        assert torch.equal(torch.cat(parts), batch)
        assert abs(len(parts[0]) - len(parts[1])) <= 1


def test_fewer_windows_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trainer\.devices must be at most 1, the windows there are, got 2"):
        EpochBatches(1, 8, seed=0, rank=0, n_ranks=2)
