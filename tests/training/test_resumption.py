"""A training that is killed or preempted and then resumed ends like an uninterrupted one."""

import functools
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from ilt.schema import PlainError
from ilt.tracking.store import DamagedArtifactError
from ilt.training.fit import Fitted
from tests.training.toy_training import by_epochs, by_steps, demonstrations, interrupted, train, train_config, untimed

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
SMALL = ["trainer.log_every_n_steps=1", "callbacks.rollout.n_episodes=3", "callbacks.ema.decay=0.8"]
STEPS_OF = {by_steps: 1, by_epochs: 5}
Unit = Callable[[int], list[str]]
Run = Callable[..., tuple[dict[str, Any], Fitted]]


def config(folder: Path, length: list[str], step: int | None = None, number: int = 0) -> DictConfig:
    """Return the config of a training, interrupted at `step` if given."""
    return train_config(folder, *length, *SMALL, *([] if step is None else interrupted(step=step, number=number)))


def global_step(folder: Path) -> int:
    """Return the step of the last checkpoint."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that gives the last checkpoint and results of an uninterrupted training."""

    @functools.cache
    def whole(unit: Unit, every: int) -> tuple[dict[str, Any], Fitted]:
        folder = tmp_path_factory.mktemp("whole")
        checkpoint, fitted = train(config(folder, unit(every)), folder / "run", demonstrations(folder))
        assert checkpoint["global_step"] == 5 * every * STEPS_OF[unit]
        assert len(fitted.rows) == checkpoint["global_step"] + 5  # one loss per step, and five validations
        raw, averaged = (checkpoint[kind]["model.action_head.weight"] for kind in ("current_model_state", "state_dict"))
        assert not torch.allclose(raw, averaged, atol=1e-5)
        return checkpoint, fitted

    return whole


def assert_same(resumed: tuple[dict[str, Any], Fitted], whole: tuple[dict[str, Any], Fitted]) -> None:
    (checkpoint, fitted), (expected, wanted) = resumed, whole
    for kind in ("global_step", "current_model_state", "state_dict", "optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(checkpoint[kind], expected[kind], atol=0, rtol=0)  # raw and averaged weights
    assert untimed(fitted.rows) == untimed(wanted.rows)
    for name in ("last", "best"):
        assert fitted.weights[name].read_bytes() == wanted.weights[name].read_bytes()


@pytest.mark.parametrize(
    ("unit", "every", "killed_before"),
    [
        (by_steps, 3, (8,)),  # resumed from step 6, the second of an epoch
        pytest.param(by_steps, 3, (5,), marks=pytest.mark.slow),  # from step 3, within the first epoch
        (by_steps, 5, (12,)),  # from step 10, the end of an epoch
        pytest.param(by_steps, 5, (7,), marks=pytest.mark.slow),  # from step 5, the end of the first
        pytest.param(by_steps, 7, (6, 20), marks=pytest.mark.slow),  # from the start, and from step 14
        (by_steps, 4, (6, 11, 17)),  # repeatedly
        (by_epochs, 1, (12,)),  # from step 10
        pytest.param(by_epochs, 2, (18, 32), marks=pytest.mark.slow),  # from steps 10 and 30
    ],
)
def test_a_killed_training_ends_like_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: Run, unit: Unit, every: int, killed_before: tuple[int, ...]
) -> None:
    demos = demonstrations(tmp_path)
    for step in killed_before:
        with pytest.raises(RuntimeError, match="killed"):
            train(config(tmp_path, unit(every), step), tmp_path / "run", demos)
    assert_same(train(config(tmp_path, unit(every)), tmp_path / "run", demos), uninterrupted(unit, every))


@pytest.mark.parametrize(
    ("unit", "every", "saved_at"),
    [
        (by_steps, 3, {0: 1}),  # the first step
        (by_steps, 3, {7: 8, 10: 11}),  # within an interval, and again
        pytest.param(by_steps, 3, {4: 5}, marks=pytest.mark.slow),  # the last step of an epoch
        pytest.param(by_steps, 3, {5: 7}, marks=pytest.mark.slow),  # before a validation is due
        (by_steps, 3, {14: 15}),  # the very last
        (by_epochs, 1, {9: 11}),  # before a validation at the end of an epoch
        pytest.param(by_epochs, 2, {14: 15}, marks=pytest.mark.slow),  # at the end of an epoch without one
    ],
)
def test_a_preempted_training_ends_like_an_uninterrupted_one(
    tmp_path: Path, uninterrupted: Run, unit: Unit, every: int, saved_at: dict[int, int]
) -> None:
    demos = demonstrations(tmp_path)
    for (step, saved), number in zip(saved_at.items(), SIGNALS, strict=False):
        with pytest.raises(SystemExit) as ended:
            train(config(tmp_path, unit(every), step, number), tmp_path / "run", demos)
        assert ended.value.code == 128 + number
        assert global_step(tmp_path / "run") == saved
    assert_same(train(config(tmp_path, unit(every)), tmp_path / "run", demos), uninterrupted(unit, every))


def test_the_previous_signal_handler_runs_after_the_checkpoint_is_saved(tmp_path: Path) -> None:
    called: list[int] = []  # stands for a library that requeues the job
    before = signal.signal(signal.SIGUSR2, lambda number, frame: called.append(number))
    try:
        with pytest.raises(SystemExit):
            train(config(tmp_path, by_steps(3), 4, signal.SIGUSR2), tmp_path / "run", demonstrations(tmp_path))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert called == [signal.SIGUSR2]
    assert global_step(tmp_path / "run") == 5


@pytest.mark.parametrize("killed_before", [None, 3])
def test_signal_handlers_are_restored_after_training(tmp_path: Path, killed_before: int | None) -> None:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(RuntimeError, match="killed") if killed_before else nullcontext():
        train(config(tmp_path, by_steps(1), killed_before), tmp_path / "run", demonstrations(tmp_path))
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


@pytest.mark.parametrize("change", ["seed=1", "model.dropout=0.2"])
def test_the_compared_weights_depend_on_seed_and_dropout(tmp_path: Path, uninterrupted: Run, change: str) -> None:
    cfg = config(tmp_path, [*by_steps(3), change])
    changed, _ = train(cfg, tmp_path / "run", demonstrations(tmp_path))
    expected, _ = uninterrupted(by_steps, 3)
    (weight, other) = (state["current_model_state"]["model.action_head.weight"] for state in (changed, expected))
    assert not torch.equal(weight, other)


@pytest.mark.parametrize("lost", ["cut short", "gone"])
def test_a_training_resumed_from_the_previous_checkpoint_ends_the_same(
    tmp_path: Path, uninterrupted: Run, lost: str
) -> None:
    demos, last = demonstrations(tmp_path), tmp_path / "run" / "checkpoints" / "last.ckpt"
    with pytest.raises(RuntimeError, match="killed"):
        train(config(tmp_path, by_steps(3), 8), tmp_path / "run", demos)
    if lost == "gone":  # as after a kill between two renames
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[:-100])
    assert_same(train(config(tmp_path, by_steps(3)), tmp_path / "run", demos), uninterrupted(by_steps, 3))


def test_a_run_that_was_moved_keeps_its_best_weights(tmp_path: Path) -> None:
    demos = demonstrations(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        train(config(tmp_path, by_steps(3), 8), tmp_path / "run", demos)
    (tmp_path / "run").rename(tmp_path / "moved")
    checkpoint, fitted = train(config(tmp_path, by_steps(3)), tmp_path / "moved", demos)
    (state,) = (state for name, state in checkpoint["callbacks"].items() if name.startswith("Best"))
    returns = [row["rollout/return_mean"] for row in fitted.rows if "rollout/return_mean" in row]
    assert state["best_model_score"] == max(returns)
    assert Path(state["best_model_path"]) == (tmp_path / "moved" / "checkpoints" / "best.ckpt")


def test_without_its_best_weights_a_run_says_how_to_continue(tmp_path: Path) -> None:
    demos = demonstrations(tmp_path)
    train(config(tmp_path, by_steps(3)), tmp_path / "run", demos)
    (tmp_path / "run" / "checkpoints" / "best.ckpt").write_bytes(b"")
    with pytest.raises(DamagedArtifactError, match=r"best.ckpt cannot be used: .*; resume=false starts the run over"):
        train(config(tmp_path, by_steps(3)), tmp_path / "run", demos)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "optimizer.learning_rate=1e30",
            "the training diverged: at step .* not finite; a lower optimizer.learning_rate",
        ),
        ("+trainer.max_time='00:00:00:00'", "a callback ended the training at step . of 15"),
    ],
)
def test_a_training_that_diverges_or_ends_early_is_an_error(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(PlainError, match=message):
        train(config(tmp_path, [*by_steps(3), change]), tmp_path / "run", demonstrations(tmp_path))
    assert not (tmp_path / "run" / "training.json").exists()
