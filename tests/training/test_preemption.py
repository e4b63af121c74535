"""A training that is told to end saves where it stands, and ends where an uninterrupted one does."""

import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from tests.training.toy_training import by_epochs, by_steps, demonstrations, train, train_config, untimed

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


class Announce(pl.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, *, in_step: int, number: int) -> None:
        self._step, self._number = in_step, number

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self._step:
            signal.raise_signal(self._number)


def announced(step: int, number: int) -> list[str]:
    target = f"+callbacks.announce._target_={__name__}.Announce"
    return [target, f"+callbacks.announce.in_step={step}", f"+callbacks.announce.number={number}"]


SMALL = ["trainer.log_every_n_steps=1", "callbacks.rollout.n_episodes=3", "callbacks.ema.decay=0.8"]


@pytest.mark.parametrize(
    ("length", "steps", "saved_at"),
    [
        (by_steps(3), (0,), (1,)),  # the first step
        (by_steps(3), (7, 10), (8, 11)),  # within an interval, and again
        (by_steps(3), (4,), (5,)),  # the last step of an epoch
        (by_steps(3), (5,), (7,)),  # before a validation is due
        (by_steps(3), (14,), (15,)),  # the last of all
        (by_epochs(1), (9,), (11,)),  # before a validation at the end of an epoch
        (by_epochs(2), (14,), (15,)),  # at the end of an epoch without one
    ],
)
def test_a_preempted_training_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, length: list[str], steps: tuple[int, ...], saved_at: tuple[int, ...]
) -> None:
    demos = demonstrations(tmp_path)
    cfg = train_config(tmp_path, *length, *SMALL)
    whole, fitted = train(cfg, tmp_path / "whole", demos)
    for step, saved, number in zip(steps, saved_at, SIGNALS, strict=False):
        preempted = train_config(tmp_path, *length, *SMALL, *announced(step, number))
        with pytest.raises(SystemExit) as ended:
            train(preempted, tmp_path / "preempted", demos)
        assert ended.value.code == 128 + number
        checkpoint = torch.load(tmp_path / "preempted" / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == saved
    resumed, fitted_again = train(cfg, tmp_path / "preempted", demos)
    for kind in ("current_model_state", "state_dict"):
        for name, tensor in whole[kind].items():
            assert torch.equal(tensor, resumed[kind][name]), (kind, name)
    assert untimed(fitted_again.rows) == untimed(fitted.rows)
    for name in ("last", "best"):
        assert fitted.weights[name].read_bytes() == fitted_again.weights[name].read_bytes()


@pytest.fixture
def requeue() -> Any:
    """What a scheduler's library does with SIGUSR2: notes that it was called."""
    called: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    yield called
    signal.signal(signal.SIGUSR2, before)


def test_what_handled_the_signal_before_has_its_turn_when_all_is_saved(tmp_path: Path, requeue: list[int]) -> None:
    cfg = train_config(tmp_path, *by_steps(3), *SMALL, *announced(4, signal.SIGUSR2))
    with pytest.raises(SystemExit):
        train(cfg, tmp_path / "run", demonstrations(tmp_path))
    assert requeue == [signal.SIGUSR2]
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.parametrize("fails", [False, True])
def test_signals_mean_what_they_meant_when_training_is_over(tmp_path: Path, fails: bool) -> None:
    before: dict[int, Callable[..., Any] | int | None] = {number: signal.getsignal(number) for number in SIGNALS}
    kill = ["+callbacks.kill._target_=tests.training.test_callbacks.Kill", "+callbacks.kill.before_step=3"]
    cfg = train_config(tmp_path, *by_steps(1), *SMALL, *(kill if fails else []))
    with pytest.raises(RuntimeError, match="killed") if fails else nullcontext():
        train(cfg, tmp_path / "run", demonstrations(tmp_path))
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
