"""Callbacks: rollouts, averaging, the learning curve, pruning and checkpoints."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ilt.data.datamodule import WindowData
from ilt.models.decoder import Decoder
from ilt.models.heads import Categorical
from ilt.models.spec import ModelSpec
from ilt.models.steppers import WindowStepper
from ilt.rollout.metrics import episode_metrics
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.recorded import Context
from ilt.rollout.run import rollout
from ilt.tracking.store import Store
from ilt.training.callbacks import EMA, LearningCurve, Pruning, RolloutEvaluation
from ilt.training.module import ImitationModule
from tests.toys import recall
from tests.training.toy_training import BIT, QUIET, context, decoder, demonstrations, train, train_config, windows

HEAD = Categorical(action_space=BIT)


def fit(model: Decoder, callbacks: list[pl.Callback], **changes: Any) -> pl.Trainer:
    """Train for eight steps with a validation every four."""
    every = {"val_check_interval": 4, "check_val_every_n_epoch": None, "log_every_n_steps": 2}
    trainer = pl.Trainer(**{**QUIET, "max_steps": 8, **every, "callbacks": callbacks, **changes})

    def adamw(model: Decoder, **_: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=0.1)

    module = ImitationModule(model, HEAD, seed=0, make_optimizer=adamw)
    trainer.fit(module, WindowData(windows(), windows(), batch_size=7, seed=0))
    return trainer


def evaluation_of(**changes: Any) -> RolloutEvaluation:
    ctx = Context(recall(), Store(Path()), n_envs=4)
    return RolloutEvaluation(**{"ctx": ctx, "head": HEAD, "n_episodes": 6, **changes})


class Watched(Decoder):
    """Copies the weights of its action head whenever it acts, and counts its training batches."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.acted: list[Tensor] = []
        self.register_buffer("batches", torch.tensor(0))
        self.register_buffer("weight_seen", torch.tensor(0.0))

    def make_stepper(self) -> WindowStepper:
        return Watching(self, self.context_length)

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.training:
            self.batches += 1
            self.weight_seen.copy_(self.action_head.weight[0, 0].detach())
        return super().forward(observations, actions, mask)


class Watching(WindowStepper):
    def step(self, *given: Any) -> np.ndarray:
        self._model.acted.append(self._model.action_head.weight.detach().clone())
        return super().step(*given)


class Raw(pl.Callback):
    """Copies the action head's weights before and after each training step, and records the model's mode."""

    def __init__(self) -> None:
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []
        self.training: list[bool] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.before.append(module.model.action_head.weight.detach().clone())
        self.training.append(all(part.training for part in module.modules()))

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.after.append(module.model.action_head.weight.detach().clone())


def watch(*averaging: EMA) -> SimpleNamespace:
    """Train once with all recording callbacks."""
    model, raw, evaluation, curve = decoder(Watched), Raw(), evaluation_of(), LearningCurve()
    model.set_normalization(torch.tensor([0.3]), torch.tensor([0.7]))
    trainer = fit(model, [raw, evaluation, *averaging, curve])
    return SimpleNamespace(model=model, raw=raw, evaluation=evaluation, curve=curve, trainer=trainer)


@pytest.fixture(scope="module")
def plain() -> SimpleNamespace:
    return watch()


@pytest.fixture(scope="module")
def averaged() -> SimpleNamespace:
    return watch(EMA(decay=0.75))


def test_every_validation_runs_the_student_on_selection_seeds(plain: SimpleNamespace) -> None:
    assert [entry["step"] for entry in plain.evaluation.history] == [4, 8]
    episodes = rollout(recall(), SequencePolicy(plain.model, HEAD), recall().seeds("selection", 6), n_envs=4)
    measured = {name: value for name, value in episode_metrics(episodes, recall()).items() if value is not None}
    assert "crash_rate" not in measured
    assert plain.evaluation.history[-1] == {"step": 8, **measured}  # no further steps were taken


def test_rollout_metrics_are_logged(plain: SimpleNamespace) -> None:
    metrics = plain.trainer.callback_metrics
    for name, value in plain.evaluation.history[-1].items():
        assert name == "step" or metrics[f"rollout/{name}"] == pytest.approx(value), name
    logged = {"return_mean", "return_std", "success_rate", "length_mean", "seconds"}
    assert logged <= {name.removeprefix("rollout/") for name in metrics}


def test_rollouts_use_the_given_context_length_and_sampling() -> None:
    histories = []
    for changes in ({}, {"context_length": 1}, {"deterministic": False}):
        evaluation, model = evaluation_of(**changes, n_episodes=50), decoder()
        torch.nn.init.normal_(model.action_head.weight)
        fit(model, [evaluation])
        policy = SequencePolicy(model, HEAD, **changes)
        episodes = rollout(recall(), policy, recall().seeds("selection", 50), n_envs=4)
        assert evaluation.history[-1]["return_mean"] == episodes.returns.mean()
        histories.append(evaluation.history)
    assert histories[0] != histories[1]
    assert histories[0] != histories[2]


def test_a_sanity_check_does_not_evaluate() -> None:
    evaluation = evaluation_of()
    fit(decoder(), [evaluation], num_sanity_val_steps=1)
    assert [entry["step"] for entry in evaluation.history] == [4, 8]


def test_more_episodes_than_the_selection_block_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"env\.seed_blocks\.selection holds 100"):
        evaluation_of(n_episodes=101)


def test_the_averaged_weights_act(averaged: SimpleNamespace) -> None:
    model, raw, average, by_hand = averaged.model, averaged.raw, averaged.raw.after[0], []
    for n, weight in enumerate(raw.after):
        decay = min(0.75, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weight
        by_hand.append(average)
    half = len(model.acted) // 2
    assert half > 0
    for i, acted in enumerate(model.acted):
        torch.testing.assert_close(acted, by_hand[3 if i < half else 7])
    assert not torch.allclose(by_hand[3], raw.after[3], atol=1e-3)
    assert torch.equal(raw.before[4], raw.after[3])  # training continues with the raw weights
    torch.testing.assert_close(model.action_head.weight.detach(), by_hand[7])


def test_without_averaging_the_raw_weights_act(plain: SimpleNamespace) -> None:
    assert torch.equal(plain.model.acted[0], plain.raw.after[3])
    assert torch.equal(plain.model.acted[-1], plain.raw.after[7])


def test_the_model_returns_to_training_mode_after_a_rollout(plain: SimpleNamespace, averaged: SimpleNamespace) -> None:
    assert plain.raw.training == averaged.raw.training == [True] * 8


def test_averaging_before_the_rollout_is_refused() -> None:
    with pytest.raises(ValueError, match="callbacks: rollout must come before ema"):
        fit(decoder(), [EMA(decay=0.9), evaluation_of()])


def test_buffers_are_not_averaged(averaged: SimpleNamespace) -> None:
    model, raw = averaged.model, averaged.raw
    assert torch.equal(model.observation_mean, torch.tensor([0.3]))
    assert torch.equal(model.observation_std, torch.tensor([0.7]))
    assert model.batches == 8
    assert model.weight_seen == raw.before[-1][0, 0]
    assert not torch.allclose(model.action_head.weight, raw.after[-1], atol=1e-3)


def test_a_short_training_ends_near_its_own_weights_and_not_near_its_start() -> None:
    watched = watch(EMA(decay=0.995))
    average, raw = watched.model.action_head.weight.detach(), watched.raw
    assert (average - raw.after[-1]).norm() < 0.5 * (average - raw.before[0]).norm()


def test_the_curve_contains_losses_and_all_metrics(plain: SimpleNamespace) -> None:
    rows = plain.curve.rows
    assert [row["step"] for row in rows] == [2, 4, 4, 6, 8, 8]
    assert all(set(rows[i]) == {"step", "train/loss"} for i in (0, 1, 3, 4))
    for row in (rows[2], rows[5]):
        assert {"val/loss", "val/action_accuracy", "rollout/return_mean", "rollout/success_rate"} <= set(row)
        assert "train/loss" not in row
    assert plain.curve.batches == 8


def test_curve_and_history_are_restored_from_state(plain: SimpleNamespace) -> None:
    curve, evaluation = LearningCurve(), evaluation_of()
    curve.load_state_dict(plain.curve.state_dict())
    evaluation.load_state_dict(plain.evaluation.state_dict())
    assert (curve.rows, evaluation.history) == (plain.curve.rows, plain.evaluation.history)


@pytest.mark.parametrize(
    ("verdicts", "steps"), [([True, True], [4]), ([False, True], [4, 8]), ([False, False], [4, 8])]
)
def test_an_unpromising_training_is_pruned_at_an_evaluation(verdicts: list[bool], steps: list[int]) -> None:
    reports: list[tuple[float, int]] = []

    def report(value: float, step: int) -> bool:
        reports.append((value, step))
        return verdicts[len(reports) - 1]

    evaluation, pruning = evaluation_of(), Pruning(report)
    trainer = fit(decoder(), [evaluation, EMA(decay=0.75), pruning])
    assert [step for _, step in reports] == steps
    assert [value for value, _ in reports] == pytest.approx([entry["return_mean"] for entry in evaluation.history])
    assert pruning.pruned == any(verdicts)
    assert trainer.global_step == steps[-1]


def test_the_last_checkpoint_is_saved_even_without_improvement(tmp_path: Path) -> None:
    small = ["trainer.max_steps=9", "trainer.val_check_interval=3", "optimizer.learning_rate=1e-9"]
    checkpoint, fitted = train(train_config(tmp_path, *small), tmp_path / "run", demonstrations(tmp_path))
    returns = [row["rollout/return_mean"] for row in fitted.rows if "rollout/return_mean" in row]
    assert len(set(returns)) == 1  # equal in all validations
    assert checkpoint["global_step"] == 9
    assert (fitted.at("last")["step"], fitted.at("best")["step"]) == (9, 3)
    assert fitted.weights["last"].read_bytes() != fitted.weights["best"].read_bytes()


def test_the_exported_weights_are_those_that_acted(tmp_path: Path) -> None:
    demos = demonstrations(tmp_path)
    every = ["trainer.max_steps=6", "trainer.val_check_interval=3"]
    cfg = train_config(tmp_path, *every, "callbacks.rollout.n_episodes=20", "callbacks.ema.decay=0.8")
    _, fitted = train(cfg, tmp_path / "run", demos)
    for name, path in fitted.weights.items():
        env = context(cfg).env
        _, model, head = ModelSpec.load(path)
        episodes = rollout(env, SequencePolicy(model, head), env.seeds("selection", 20))
        assert episodes.returns.mean() == pytest.approx(fitted.at(name)["rollout/return_mean"]), name
