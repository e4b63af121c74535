"""Loss, schedule and parameter groups by hand, and training with the module."""

import functools
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from ilt.data.datamodule import WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace
from ilt.models.chunks import ActionChunks
from ilt.models.decoder import Decoder
from ilt.models.heads import ActionHead, Categorical, Regression
from ilt.rollout.policies import FunctionPolicy, Policy, SequencePolicy
from ilt.rollout.run import rollout
from ilt.training.module import ImitationModule, agreement, seed_draws
from ilt.training.optimizer import adamw, decay_groups, warmup_cosine
from tests.models.test_decoder import POSITIONS, TOKENS, each
from tests.rollout.test_chunks import COUNTER
from tests.toys import recall
from tests.training.toy_training import QUIET

FOUR = ActionSpace(n_choices=(4,), start=(0,))

OPTIMIZER: dict[str, Any] = {
    "learning_rate": 0.01,
    "betas": (0.9, 0.95),
    "weight_decay": 0.1,
    "warmup_fraction": 0.1,
    "final_learning_rate_fraction": 0.02,
}


def decoder(**changes: Any) -> Decoder:
    torch.manual_seed(0)
    task = {"observation_dim": 2, "action_space": FOUR, "n_outputs": 4, "context_length": 3}
    return Decoder(**{**task, "n_layer": 1, "n_head": 2, "d_model": 16, **changes})


def module_of(
    model: Any, *, seed: int = 0, space: ActionSpace = FOUR, head: ActionHead | None = None
) -> ImitationModule:
    make_optimizer = functools.partial(adamw, **OPTIMIZER)
    return ImitationModule(model, head or Categorical(action_space=space), seed=seed, make_optimizer=make_optimizer)


def windows_of(episodes: Episodes, context_length: int = 3, space: ActionSpace = FOUR) -> WindowDataset:
    return WindowDataset(episodes, action_space=space, context_length=context_length)


class Recorded(pl.Callback):
    """Records the loss and the learning rate of each training step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def learn(
    model: nn.Module,
    windows: WindowDataset,
    max_steps: int,
    *callbacks: pl.Callback,
    seed: int = 0,
    batch_size: int = 2,
    space: ActionSpace = FOUR,
    head: ActionHead | None = None,
    **changes: Any,
) -> tuple[pl.Trainer, Recorded]:
    recorded, module = Recorded(), module_of(model, seed=seed, space=space, head=head)
    trainer = pl.Trainer(
        **QUIET | {"limit_val_batches": 0} | changes, max_steps=max_steps, callbacks=[*callbacks, recorded]
    )
    trainer.fit(module, WindowData(windows, windows, batch_size=batch_size, seed=0))
    return trainer, recorded


def validated(every: int) -> dict[str, Any]:
    """Return trainer arguments for a validation every `every` steps."""
    return {"limit_val_batches": 1.0, "val_check_interval": every, "check_val_every_n_epoch": None}


# probabilities of the two actions: (½, ½), (¾, ¼); (¼, ¾), and padding at the end of the second window
LOGITS = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]], [[0.0, math.log(3)], [0.0, 0.0]]])
ACTIONS = torch.tensor([[1, 0], [0, 0]])
MASK = torch.tensor([[True, True], [True, False]])


def loss_of(logits: Tensor, actions: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the loss of a training step for these logits."""
    module = module_of(lambda *_: logits.to(dtype), space=ActionSpace(n_choices=(2,), start=(0,)))
    module._trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=7, log_every_n_steps=100)
    batch = {"observations": torch.zeros(2, 2, 1), "actions": actions, "mask": MASK}
    return module.training_step(batch, 0)


def test_the_loss_is_the_mean_cross_entropy_over_real_steps() -> None:
    by_hand = (math.log(2) + math.log(4 / 3) + math.log(4)) / 3
    assert loss_of(LOGITS, ACTIONS).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("computed", [torch.bfloat16, torch.float16, torch.float64])
def test_the_loss_is_at_least_float32(computed: torch.dtype) -> None:
    assert loss_of(LOGITS, ACTIONS, computed).dtype == (torch.float64 if computed == torch.float64 else torch.float32)


@pytest.mark.parametrize("garbage", [0.0, 1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("action", [0, -1, 99])
def test_padding_does_not_count_and_gets_no_gradient(garbage: float, action: int) -> None:
    logits, actions = LOGITS.clone(), ACTIONS.clone()
    logits[1, 1, 0], actions[1, 1] = garbage, action
    logits.requires_grad_()
    loss = loss_of(logits, actions)
    assert torch.equal(loss, loss_of(LOGITS, ACTIONS))
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[1, 1], torch.zeros(2))
    by_hand = torch.tensor([[[1 / 2, -1 / 2], [-1 / 4, 1 / 4]], [[-3 / 4, 3 / 4], [0.0, 0.0]]]) / 3
    torch.testing.assert_close(logits.grad, by_hand)


def test_actions_after_the_episode_do_not_count_and_validation_judges_the_first_of_a_chunk() -> None:
    """One window of two steps, with chunks of two actions, of which the last is after the episode."""
    space = ActionSpace(low=(-1.0,), high=(1.0,), shape=(1,))
    outputs, actions = torch.tensor([[[0.1, 0.2], [0.3, 9.0]]]), torch.zeros(1, 2, 1)
    module = module_of(lambda *_: outputs, head=ActionChunks(Regression(action_space=space), chunk=2))
    module._trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=7, log_every_n_steps=100)
    batch = {"observations": torch.zeros(1, 2, 1), "actions": actions, "mask": torch.ones(1, 2, dtype=torch.bool)}
    batch |= {"targets": torch.zeros(1, 2, 2, 1), "target_mask": torch.tensor([[[True, True], [True, False]]])}
    assert module.training_step(batch, 0).item() == pytest.approx((0.01 + 0.04 + 0.09) / 3)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    module.validation_step(batch, 0)
    assert logged == {
        "val/loss": pytest.approx((0.01 + 0.04 + 0.09) / 3),
        "val/action_error": pytest.approx((0.1 + 0.3) / 2),
    }


@pytest.mark.parametrize("execute", [1, 3])
def test_a_student_learns_to_act_in_chunks(execute: int) -> None:
    """The right actions of the next steps are known from the observation, so a chunk can be executed blindly."""
    expert = FunctionPolicy(lambda seen: seen / 10, COUNTER.action_space)
    windows = WindowDataset(
        rollout(COUNTER, expert, np.arange(2)), action_space=COUNTER.action_space, context_length=3, chunk=3
    )
    head = ActionChunks(Regression(action_space=COUNTER.action_space), chunk=3, execute=execute)
    model = decoder(observation_dim=1, action_space=COUNTER.action_space, n_outputs=3)
    model.set_normalization(torch.tensor([4.0]), torch.tensor([2.5]))
    learn(model, windows, 300, batch_size=8, head=head)
    assert rollout(COUNTER, SequencePolicy(model, head), [0]).returns[0] > -0.5  # of nine steps


def test_agreement_is_accuracy_for_choices_and_error_for_numbers() -> None:
    assert agreement(np.array([0, 1, 2]), np.array([0, 1, 1])) == ("action_accuracy", pytest.approx(2 / 3))
    assert agreement(np.array([[0, 1], [2, 1]]), np.array([[0, 1], [0, 1]])) == ("action_accuracy", 0.5)
    numbers = np.array([[0.5, -3.0]], dtype=np.float32), np.array([[0.0, -1.0]], dtype=np.float32)
    assert agreement(*numbers) == ("action_error", 0.25)  # clipped to the bounds, as when acting


def test_the_schedule_by_hand() -> None:
    rates = [warmup_cosine(step, total_steps=10, warmup_fraction=0.2, final_fraction=0.1) for step in range(12)]
    assert rates[:3] == pytest.approx([1 / 2, 1.0, 1.0])  # two steps of warm-up, then the peak
    assert rates[6] == pytest.approx(0.1 + 0.9 / 2)  # half-way down
    assert rates[10] == pytest.approx(0.1)
    assert rates[11] == pytest.approx(0.1)  # stays there
    assert rates[2:11] == sorted(rates[2:11], reverse=True)
    assert warmup_cosine(0, total_steps=10, warmup_fraction=0.0, final_fraction=0.0) == 1.0


def test_every_step_of_a_short_training_has_a_positive_learning_rate() -> None:
    assert all(warmup_cosine(s, total_steps=3, warmup_fraction=0.03, final_fraction=0.0) > 0 for s in range(3))


@each(tokens=TOKENS, positions=POSITIONS)
def test_every_parameter_is_in_exactly_one_group(options: dict[str, str]) -> None:
    model = decoder(**options)
    grouped = [id(p) for group in decay_groups(model, 0.1) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())


def test_only_weights_of_linear_layers_decay() -> None:
    model = decoder(positions="learned")
    decayed, others = decay_groups(model, 0.3)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    linear = {"qkv", "attention_out", "mlp_in", "mlp_out"}
    expected = {f"blocks.0.{name}.weight" for name in linear} | {"embed_state.weight", "action_head.weight"}
    assert {names[id(p)] for p in decayed["params"]} == expected


@pytest.mark.parametrize("tokens", ["states_actions", "states"])
def test_it_overfits_two_episodes(two_episodes: Episodes, tokens: str) -> None:
    trainer, _ = learn(decoder(tokens=tokens), windows_of(two_episodes), 100, **validated(100))
    assert trainer.callback_metrics["val/action_accuracy"] == 1.0
    assert trainer.callback_metrics["val/loss"] < 0.1


def test_the_learning_rate_follows_the_schedule_and_the_first_loss_is_chance(two_episodes: Episodes) -> None:
    _, recorded = learn(decoder(), windows_of(two_episodes), 20)
    # recorded after each step, when the next step's rate is already set
    fractions = [warmup_cosine(s, total_steps=20, warmup_fraction=0.1, final_fraction=0.02) for s in range(1, 21)]
    assert recorded.rates == pytest.approx([0.01 * fraction for fraction in fractions])
    assert recorded.losses[0] == pytest.approx(math.log(4), abs=0.1)


def test_dropout_depends_only_on_the_seed(two_episodes: Episodes) -> None:
    class Draws(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            torch.rand(3)

    runs = [learn(decoder(dropout=0.5), windows_of(two_episodes), 5, *draws, seed=3) for draws in ([], [Draws()])]
    assert runs[0][1].losses == runs[1][1].losses  # exactly equal


def test_dropout_differs_between_steps_and_seeds(two_episodes: Episodes) -> None:
    draws = []

    class Noise(AlwaysOne):
        def forward(self, observations: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
            draws.append(torch.rand(1).item())
            return super().forward(observations, actions, mask)

    for seed in (0, 1):
        learn(Noise(), windows_of(two_episodes), 3, seed=seed)
    assert len(set(draws)) == 6


def test_seed_draws_gives_the_same_numbers_as_torch_manual_seed() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    seed_draws(5, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)


def test_training_steps_do_not_call_manual_seed(two_episodes: Episodes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            monkeypatch.setattr(torch, "manual_seed", lambda seed: pytest.fail("torch.manual_seed takes milliseconds"))

    trainer, _ = learn(decoder(dropout=0.5), windows_of(two_episodes), 5, Refusing())
    assert trainer.global_step == 5


class Logged(Logger):
    """Records logged metrics."""

    name, version = "logged", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append({**metrics, "step": step or 0})

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


def test_the_loss_is_logged_every_n_steps(two_episodes: Episodes) -> None:
    logged, windows = Logged(), windows_of(two_episodes, 1)  # five steps per epoch
    _, recorded = learn(decoder(), windows, 10, logger=logged, log_every_n_steps=3, batch_size=1)
    rows = [row for row in logged.rows if "train/loss" in row]
    assert [row["step"] for row in rows] == [2, 5, 8]  # counted from 0
    assert [row["train/loss"] for row in rows] == pytest.approx([recorded.losses[i] for i in (2, 5, 8)])


class AlwaysOne(nn.Module):
    """Predicts action 1 with probability 5/8 for any input, and the others with 1/8 each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: set[int] = set()

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        self.seen |= set(actions[mask].tolist())
        return torch.tensor([0.0, math.log(5), 0.0, 0.0]).expand(*actions.shape, 4) + self.weight


def test_validation_counts_only_real_steps(two_episodes: Episodes) -> None:
    data = WindowData(windows_of(two_episodes), windows_of(two_episodes), batch_size=2, seed=0)
    (metrics,) = pl.Trainer(**QUIET).validate(module_of(AlwaysOne()), data, verbose=False)
    assert metrics["val/action_accuracy"] == pytest.approx(2 / 5)  # the actions are 0 1 2, 1 2
    assert metrics["val/loss"] == pytest.approx((2 * math.log(8 / 5) + 3 * math.log(8)) / 5)


def test_expert_labels_are_the_targets_where_they_are_known(two_episodes: Episodes) -> None:
    labeled = replace(two_episodes, extras={"step/label": np.ones(5, dtype=np.int64)})
    model = AlwaysOne()
    trainer, _ = learn(model, windows_of(labeled), 1, log_every_n_steps=1, **validated(1))
    assert model.seen == {0, 1, 2}
    assert trainer.callback_metrics["val/action_accuracy"] == 1
    for name in ("train/loss", "val/loss"):
        assert trainer.callback_metrics[name].item() == pytest.approx(math.log(8 / 5))


class Remembers(Policy):
    """The optimal policy of `Recall`: the bit of the previous step, 0 at the start."""

    def __init__(self) -> None:
        self._before: dict[int, int] = {}

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._before.update(dict.fromkeys(slots.tolist(), 0))

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        actions = np.array([self._before[slot] for slot in slots.tolist()])
        self._before.update(zip(slots.tolist(), observations[:, 0].astype(int).tolist(), strict=True))
        return actions


def returns_after_learning_to_recall(max_steps: int, **changes: Any) -> np.ndarray:
    """Return the returns, at most 12 each, on unseen seeds of a student trained on 40 optimal demonstrations."""
    spec, space = recall(), recall().action_space
    model = decoder(observation_dim=1, action_space=space, n_outputs=2, d_model=32, **changes)
    demonstrations = rollout(spec, Remembers(), spec.seeds("demonstrations", 40))
    assert (demonstrations.returns == 12).all()
    learn(model, windows_of(demonstrations, model.context_length, space), max_steps, batch_size=32, space=space)
    return rollout(spec, SequencePolicy(model, Categorical(action_space=space)), spec.seeds("test", 50)).returns


def test_the_transformer_remembers_the_previous_observation() -> None:
    assert returns_after_learning_to_recall(300, context_length=12, n_layer=2).tolist() == [12.0] * 50


def test_state_tokens_are_enough_to_remember() -> None:
    returns = returns_after_learning_to_recall(300, context_length=12, tokens="states", positions="learned")
    assert returns.mean() > 11.5


def test_a_student_without_context_cannot_remember() -> None:
    assert returns_after_learning_to_recall(100, context_length=1).mean() < 9
