"""What happens beside the training steps, and that a killed training ends where an uninterrupted one does."""

from pathlib import Path
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
from tests.training.toy_training import (
    BIT,
    by_epochs,
    by_steps,
    context,
    decoder,
    demonstrations,
    train,
    train_config,
    untimed,
    windows,
)

HEAD = Categorical(action_space=BIT)


def fit(model: Decoder, callbacks: list[pl.Callback], **changes: Any) -> pl.Trainer:
    """Eight steps with a validation after every fourth."""
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_steps": 8,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 2,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "callbacks": callbacks,
            **changes,
        }
    )

    def adamw(model: Decoder, **_: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=0.1)

    module = ImitationModule(model, HEAD, seed=0, make_optimizer=adamw)
    trainer.fit(module, WindowData(windows(), windows(), batch_size=7, seed=0))
    return trainer


def evaluation_of(**changes: Any) -> RolloutEvaluation:
    ctx = Context(recall(), Store(Path()), n_envs=4)
    return RolloutEvaluation(**{"ctx": ctx, "head": HEAD, "n_episodes": 6, **changes})


# --- rollouts ---


def test_every_validation_runs_the_student_on_selection_seeds() -> None:
    model, evaluation = decoder(), evaluation_of()
    fit(model, [evaluation])
    assert [entry["step"] for entry in evaluation.history] == [4, 8]
    episodes = rollout(recall(), SequencePolicy(model, HEAD), recall().seeds("selection", 6), n_envs=4)
    measured = {name: value for name, value in episode_metrics(episodes, recall()).items() if value is not None}
    assert "crash_rate" not in measured
    assert evaluation.history[-1] == {"step": 8, **measured}  # no step was taken since


def test_what_was_measured_is_logged() -> None:
    evaluation = evaluation_of()
    metrics = fit(decoder(), [evaluation]).callback_metrics
    for name, value in evaluation.history[-1].items():
        assert name == "step" or metrics[f"rollout/{name}"] == pytest.approx(value), name
    logged = {"return_mean", "return_std", "success_rate", "length_mean", "seconds"}
    assert logged <= {name.removeprefix("rollout/") for name in metrics}


def test_the_students_context_and_manner_are_those_asked_for() -> None:
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


def test_a_sanity_check_is_no_evaluation() -> None:
    evaluation = evaluation_of()
    fit(decoder(), [evaluation], num_sanity_val_steps=1)
    assert [entry["step"] for entry in evaluation.history] == [4, 8]


def test_more_episodes_than_the_selection_block_holds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"env\.seed_blocks\.selection holds 100"):
        evaluation_of(n_episodes=101)


def test_dropout_is_active_again_after_a_rollout() -> None:
    class Probe(pl.Callback):
        def __init__(self) -> None:
            self.checked = 0

        def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, _: int) -> None:
            if trainer.global_step == 4:
                assert [entry["step"] for entry in evaluation.history] == [4]
                assert all(part.training for part in module.modules())
                first, second = (module.model(batch["observations"], batch["actions"]) for _ in range(2))
                assert not torch.allclose(first, second)
                self.checked += 1

    probe, evaluation, model = Probe(), evaluation_of(), decoder(dropout=0.5)
    fit(model, [evaluation, EMA(decay=0.9), probe])
    assert probe.checked == 1


# --- averaged weights ---


class Watched(Decoder):
    """Keeps a copy of its action_head whenever it acts."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.acted: list[Tensor] = []

    def make_stepper(self) -> WindowStepper:
        return Watching(self, self.context_length)


class Watching(WindowStepper):
    def step(self, *given: Any) -> np.ndarray:
        self._model.acted.append(self._model.action_head.weight.detach().clone())
        return super().step(*given)


class Raw(pl.Callback):
    """Keeps a copy of the action_head before and after each training step."""

    def __init__(self) -> None:
        self.before: list[Tensor] = []
        self.after: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.before.append(module.model.action_head.weight.detach().clone())

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.after.append(module.model.action_head.weight.detach().clone())


def test_it_is_the_averaged_weights_that_act() -> None:
    model, raw, ema = decoder(Watched), Raw(), EMA(decay=0.75)
    fit(model, [raw, evaluation_of(), ema])
    average, by_hand = raw.after[0], []
    for n, weight in enumerate(raw.after):
        decay = min(0.75, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weight
        by_hand.append(average)
    half = len(model.acted) // 2
    assert half > 0
    for acted in model.acted[:half]:
        torch.testing.assert_close(acted, by_hand[3])
    for acted in model.acted[half:]:
        torch.testing.assert_close(acted, by_hand[7])
    assert not torch.allclose(by_hand[3], raw.after[3], atol=1e-3)
    assert torch.equal(raw.before[4], raw.after[3])  # and training goes on with the raw ones
    torch.testing.assert_close(model.action_head.weight.detach(), by_hand[7])


def test_without_averaging_it_is_the_raw_weights_that_act() -> None:
    model, raw = decoder(Watched), Raw()
    fit(model, [raw, evaluation_of()])
    assert torch.equal(model.acted[0], raw.after[3])
    assert torch.equal(model.acted[-1], raw.after[7])


def test_averaging_before_the_rollout_is_refused() -> None:
    with pytest.raises(ValueError, match="callbacks: rollout must stand before ema"):
        fit(decoder(), [EMA(decay=0.9), evaluation_of()])


def test_normalization_is_not_blurred_by_averaging() -> None:
    model = decoder()
    model.set_normalization(torch.tensor([0.3]), torch.tensor([0.7]))
    fit(model, [evaluation_of(), EMA(decay=0.9)])
    assert torch.equal(model.observation_mean, torch.tensor([0.3]))
    assert torch.equal(model.observation_std, torch.tensor([0.7]))


class Counting(Decoder):
    """Counts the batches that it was trained on."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.register_buffer("batches", torch.tensor(0))
        self.register_buffer("weight_seen", torch.tensor(0.0))

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.training:
            self.batches += 1
            self.weight_seen.copy_(self.action_head.weight[0, 0].detach())
        return super().forward(observations, actions, mask)


def test_buffers_are_those_of_the_model_and_not_averaged() -> None:
    model, raw = decoder(Counting), Raw()
    fit(model, [raw, EMA(decay=0.75)])
    assert model.batches == 8
    assert model.weight_seen == raw.before[-1][0, 0]
    assert not torch.allclose(model.action_head.weight, raw.after[-1], atol=1e-3)


# --- the learning curve ---


def test_the_curve_holds_losses_and_all_that_was_measured() -> None:
    curve = LearningCurve()
    fit(decoder(), [evaluation_of(), curve])
    assert [row["step"] for row in curve.rows] == [2, 4, 4, 6, 8, 8]
    losses, measured = [curve.rows[i] for i in (0, 1, 3, 4)], [curve.rows[i] for i in (2, 5)]
    assert all(set(row) == {"step", "train/loss"} for row in losses)
    for row in measured:
        assert {"val/loss", "val/action_accuracy", "rollout/return_mean", "rollout/success_rate"} <= set(row)
        assert "train/loss" not in row
    assert curve.batches == 8


def test_the_curve_keeps_its_rows_through_a_state() -> None:
    curve, other = LearningCurve(), LearningCurve()
    curve.rows = [{"step": 1, "train/loss": 0.5}, {"step": 2, "val/loss": 0.25}]
    other.load_state_dict(curve.state_dict())
    assert other.rows == curve.rows


def test_the_evaluation_keeps_its_history_through_a_state() -> None:
    evaluation, other = evaluation_of(), evaluation_of()
    evaluation.history = [{"step": 4, "return_mean": 1.5}]
    other.load_state_dict(evaluation.state_dict())
    assert other.history == evaluation.history


# --- pruned ---


@pytest.mark.parametrize(
    ("verdicts", "steps"), [([True, True], [4]), ([False, True], [4, 8]), ([False, False], [4, 8])]
)
def test_a_training_not_worth_going_on_with_ends_at_an_evaluation(verdicts: list[bool], steps: list[int]) -> None:
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


# --- killed and resumed ---


class Kill(pl.Callback):
    """Ends the process, as far as training is concerned, before a step."""

    def __init__(self, *, before_step: int) -> None:
        self._step = before_step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            raise RuntimeError("killed")


@pytest.mark.parametrize(
    ("length", "n_steps", "killed_before"),
    [
        (by_steps(3), 15, (8,)),  # resumed from step 6, the second of an epoch
        (by_steps(3), 15, (5,)),  # from step 3, within the first epoch
        (by_steps(5), 25, (12,)),  # from step 10, the end of an epoch
        (by_steps(5), 25, (7,)),  # from step 5, the end of the first
        (by_steps(7), 35, (6, 20)),  # from the beginning, and from step 14
        (by_steps(4), 20, (6, 11, 17)),  # again and again
        (by_epochs(1), 25, (12,)),  # from step 10
        (by_epochs(2), 50, (18, 32)),  # from steps 10 and 30
    ],
)
def test_a_killed_training_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, length: list[str], n_steps: int, killed_before: tuple[int, ...]
) -> None:
    demos = demonstrations(tmp_path)
    small = [*length, "trainer.log_every_n_steps=1", "callbacks.rollout.n_episodes=3", "callbacks.ema.decay=0.8"]
    cfg = train_config(tmp_path, *small)
    whole, fitted = train(cfg, tmp_path / "whole", demos)
    for step in killed_before:
        kill = [f"+callbacks.kill._target_={__name__}.Kill", f"+callbacks.kill.before_step={step}"]
        with pytest.raises(RuntimeError, match="killed"):
            train(train_config(tmp_path, *small, *kill), tmp_path / "killed", demos)
    resumed, fitted_again = train(cfg, tmp_path / "killed", demos)
    assert whole["global_step"] == n_steps
    assert resumed["global_step"] == n_steps
    for kind in ("current_model_state", "state_dict"):  # the raw weights, and the averaged ones
        assert whole[kind].keys() == resumed[kind].keys()
        for name, tensor in whole[kind].items():
            assert torch.equal(tensor, resumed[kind][name]), (kind, name)
    raw, averaged = (whole[kind]["model.action_head.weight"] for kind in ("current_model_state", "state_dict"))
    assert not torch.allclose(raw, averaged, atol=1e-5)
    for parameter, state in whole["optimizer_states"][0]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, resumed["optimizer_states"][0]["state"][parameter][name])
    assert whole["lr_schedulers"] == resumed["lr_schedulers"]
    assert untimed(fitted_again.rows) == untimed(fitted.rows)
    assert len(fitted.rows) == n_steps + 5  # a loss for every step, and five validations
    for name in ("last", "best"):
        assert fitted.weights[name].read_bytes() == fitted_again.weights[name].read_bytes()


def test_the_last_checkpoint_is_the_last_even_where_nothing_became_better(tmp_path: Path) -> None:
    small = ["trainer.max_steps=9", "trainer.val_check_interval=3", "optimizer.learning_rate=1e-9"]
    checkpoint, fitted = train(train_config(tmp_path, *small), tmp_path / "run", demonstrations(tmp_path))
    returns = [row["rollout/return_mean"] for row in fitted.rows if "rollout/return_mean" in row]
    assert len(set(returns)) == 1  # of three validations
    assert checkpoint["global_step"] == 9
    assert (fitted.at("last")["step"], fitted.at("best")["step"]) == (9, 3)
    assert fitted.weights["last"].read_bytes() != fitted.weights["best"].read_bytes()


def test_dropout_and_the_seed_matter_to_what_is_compared_above(tmp_path: Path) -> None:
    demos = demonstrations(tmp_path)
    small = ["trainer.max_steps=3", "trainer.val_check_interval=3", "callbacks.rollout.n_episodes=3"]
    weights = {}
    for name, change in {"as it is": "seed=0", "seed": "seed=1", "dropout": "model.dropout=0.2"}.items():
        cfg = train_config(tmp_path, *small)
        cfg.merge_with_dotlist([change])
        state, _ = train(cfg, tmp_path / name, demos)
        weights[name] = state["current_model_state"]["model.action_head.weight"]
    assert not torch.equal(weights["as it is"], weights["seed"])
    assert not torch.equal(weights["as it is"], weights["dropout"])


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


def test_a_short_training_ends_near_its_own_weights_and_not_near_its_start() -> None:
    model, raw = decoder(Watched), Raw()
    fit(model, [raw, evaluation_of(), EMA(decay=0.995)])
    average, start, end = model.action_head.weight.detach(), raw.before[0], raw.after[-1]
    assert (average - end).norm() < 0.5 * (average - start).norm()
