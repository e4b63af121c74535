"""The data grow while the student learns, and a student's errors are counted."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ilt.data.datamodule import WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace
from ilt.imitation.dart import _beside_the_expert, confusion
from ilt.imitation.rounds import Rounds
from ilt.models.base import SequenceModel
from ilt.models.heads import ActionHead, Categorical, Regression
from ilt.models.spec import ModelSpec
from ilt.registry import load_option
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from ilt.training.callbacks import EMA
from ilt.training.module import ImitationModule
from ilt.training.optimizer import adamw
from tests.toys import recall

SPACE = recall().action_space


def decoder() -> tuple[SequenceModel, ActionHead]:
    torch.manual_seed(0)
    return ModelSpec(
        model={**load_option("model", "nano"), "n_layer": 1, "n_head": 2, "d_model": 8},
        head=load_option("head", "auto"),
        observation_dim=1,
        action_space=SPACE,
        context_length=4,
    ).build()


def growing(episodes: Episodes) -> tuple[WindowDataset, WindowData]:
    windows = WindowDataset(episodes, action_space=SPACE, context_length=4)
    return windows, WindowData(windows, windows, batch_size=7, seed=0, steps_per_round=4)


def first_weights(model: nn.Module) -> Tensor:
    return next(model.parameters()).detach().clone()


def play(first: int, n_episodes: int = 4) -> Episodes:
    """Random play, 12 steps each, which an expert calls wrong throughout."""
    episodes = rollout(recall(), RandomPolicy(SPACE), np.arange(first, first + n_episodes))
    return replace(episodes, extras={"step/label": 1 - episodes.actions})


class Seen(pl.Callback):
    """How many windows there are at each step, and in how many of a batch's the expert disagrees with what was done."""

    def __init__(self, windows: WindowDataset) -> None:
        self._windows, self.counts, self.labelled = windows, list[int](), list[bool]()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Tensor], _: int) -> None:
        self.counts.append(len(self._windows))
        self.labelled.append("targets" in batch and bool((batch["targets"] != batch["actions"]).any()))


class Asked:
    """Gives the episodes of a round; keeps who acted in it."""

    def __init__(self) -> None:
        self.by: list[tuple[int, Tensor | None]] = []

    def __call__(self, number: int, student: nn.Module | None) -> Episodes:
        self.by.append((number, None if student is None else first_weights(student)))
        return play(100 * number)


def train(asked: Asked, *others: pl.Callback) -> Seen:
    """Two rounds, at every fourth of 12 steps, with a validation after every second one."""
    windows, data = growing(replace(play(0), extras={}))
    seen, rounds = Seen(windows), Rounds(data, n_rounds=2, every=4, episodes_of=asked)
    lengths = {"max_steps": 12, "val_check_interval": 2, "check_val_every_n_epoch": None, "log_every_n_steps": 2}
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = {**lengths, **dict.fromkeys(names, False), "num_sanity_val_steps": 1}
    trainer = pl.Trainer(accelerator="cpu", **options, callbacks=[rounds, *others, seen])
    schedule = {"warmup_fraction": 0.0, "final_learning_rate_fraction": 1.0}
    optimizer = partial(adamw, learning_rate=0.1, betas=(0.9, 0.95), weight_decay=0.1, **schedule)
    trainer.fit(ImitationModule(*decoder(), seed=0, make_optimizer=optimizer), data)
    return seen


def test_a_round_is_added_at_its_step_and_learned_from_at_once() -> None:
    asked = Asked()
    seen = train(asked)
    assert seen.counts == [36] * 4 + [72] * 4 + [108] * 4
    assert seen.labelled[:4] == [False] * 4
    assert all(seen.labelled[8:])
    assert [number for number, _ in asked.by] == [1, 2]


def test_the_averaged_weights_decide_a_round() -> None:
    class Averages(EMA):
        """Keeps the averaged weights after each step."""

        def __init__(self) -> None:
            super().__init__(decay=0.9)
            self.after: list[Tensor] = []

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            super().on_train_batch_end(*args, **kwargs)
            assert self._average_model is not None
            self.after.append(first_weights(self._average_model.module.model))

    asked, averages = Asked(), Averages()
    train(asked, averages)
    for (_, weights), step in zip(asked.by, (4, 8), strict=True):
        assert weights is not None
        assert torch.equal(weights, averages.after[step - 1])


def test_a_resumed_training_asks_for_the_rounds_that_it_had_and_nobody_acts() -> None:
    (windows, data), asked = growing(play(0)), Asked()
    rounds = Rounds(data, n_rounds=3, every=4, episodes_of=asked)
    rounds.load_state_dict({"rounds": 2})
    assert asked.by == [(1, None), (2, None)]
    assert len(windows) == 3 * 36
    assert rounds.state_dict() == {"rounds": 2}


# --- the student's errors ---


class Errs(nn.Module):
    """Does what was seen, but for 1 it does 2 where the step before was a 2. Never more than a guess (logit 0 or 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        chosen = observations[..., 0].long()
        before = torch.cat([torch.zeros_like(actions[:, :1]), actions[:, :-1]], dim=1)
        chosen = torch.where((chosen == 1) & (before == 2), 2, chosen)
        return nn.functional.one_hot(chosen, 4).float()


class Half(Errs):
    """Numbers: half of what was seen."""

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        return observations / 2


def beside_an_expert_that_does_what_it_sees(
    model: nn.Module, space: ActionSpace, *actions: list[Any], deterministic: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """What the two do at each step, in model units."""
    seen = [np.array([*episode, episode[0]], dtype=np.float32) for episode in actions]
    episodes = Episodes(
        observations=np.concatenate(seen).reshape(-1, space.dim),
        actions=space.decode(np.concatenate([np.array(each, dtype=space.dtype) for each in actions])),
        rewards=np.zeros(sum(map(len, actions))),
        lengths=np.array([len(each) for each in actions]),
        terminated=np.ones(len(actions), dtype=bool),
        truncated=np.zeros(len(actions), dtype=bool),
        seeds=np.arange(len(actions)),
    )
    head = Regression(action_space=space) if space.continuous else Categorical(action_space=space)
    round = {"validation": episodes, "env": SimpleNamespace(action_space=space), "context_length": 2, "number": 1}
    return _beside_the_expert(SimpleNamespace(**round, model=model, head=head, deterministic=deterministic))  # type: ignore[arg-type]


FOUR = ActionSpace(n_choices=(4,), start=(0,))


def test_a_students_errors_are_counted_by_what_the_expert_does() -> None:
    expected, chosen = beside_an_expert_that_does_what_it_sees(Errs(), FOUR, [0, 1, 2, 1, 2, 1, 1], [2, 1])
    found = confusion(expected, chosen, 4)
    np.testing.assert_allclose(found, [[1, 0, 0, 0], [0, 2 / 5, 3 / 5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_a_student_that_samples_errs_as_often_as_it_would() -> None:
    found = confusion(*beside_an_expert_that_does_what_it_sees(Errs(), FOUR, [0] * 2000, deterministic=False), 4)
    np.testing.assert_allclose(found[0], np.array([np.e, 1, 1, 1]) / (np.e + 3), atol=0.04)
    assert found.sum(axis=1) == pytest.approx(1)


def test_errors_of_numbers_are_in_model_units() -> None:
    space = ActionSpace(low=(0.0, -2.0), high=(4.0, 2.0), shape=(2,))
    expected, chosen = beside_an_expert_that_does_what_it_sees(Half(), space, [[0.5, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(chosen - expected, [[-0.25, 0.5], [-0.5, 0.0]])
