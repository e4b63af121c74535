"""The data set grows during training, and a student's errors are counted."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ilt.data.datamodule import WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.imitation.dart import confusion
from ilt.imitation.rounds import Rounds
from ilt.models.base import SequenceModel
from ilt.models.heads import ActionHead
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


def first_weights(model: nn.Module) -> Tensor:
    return next(model.parameters()).detach().clone()


def play(first: int, n_episodes: int = 4) -> Episodes:
    """Return episodes of 12 random actions, all labeled wrong by an expert."""
    episodes = rollout(recall(), RandomPolicy(SPACE), np.arange(first, first + n_episodes))
    return replace(episodes, extras={"step/label": 1 - episodes.actions})


class Seen(pl.Callback):
    """Records at each step the number of windows, and whether a label in the batch differs from its action."""

    def __init__(self, windows: WindowDataset) -> None:
        self._windows, self.counts, self.labelled = windows, list[int](), list[bool]()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Tensor], _: int) -> None:
        self.counts.append(len(self._windows))
        self.labelled.append("targets" in batch and bool((batch["targets"] != batch["actions"]).any()))


class Asked:
    """Returns the episodes of a round and records which weights acted."""

    def __init__(self) -> None:
        self.by: list[tuple[int, Tensor | None]] = []

    def __call__(self, number: int, student: nn.Module | None) -> Episodes:
        self.by.append((number, None if student is None else first_weights(student)))
        return play(100 * number)


def train(asked: Asked, *others: pl.Callback) -> Seen:
    """Train for 12 steps with two rounds, after steps 4 and 8, and a validation every 2 steps."""
    windows = WindowDataset(replace(play(0), extras={}), action_space=SPACE, context_length=4)
    data = WindowData(windows, windows, batch_size=7, seed=0, steps_per_round=4)
    seen, rounds = Seen(windows), Rounds(data, n_rounds=2, every=4, episodes_of=asked)
    lengths = {"max_steps": 12, "val_check_interval": 2, "check_val_every_n_epoch": None, "log_every_n_steps": 2}
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    options = {**lengths, **dict.fromkeys(names, False), "num_sanity_val_steps": 1}
    trainer = pl.Trainer(accelerator="cpu", **options, callbacks=[rounds, *others, seen])
    schedule = {"warmup_fraction": 0.0, "final_learning_rate_fraction": 1.0}
    optimizer = partial(adamw, learning_rate=0.1, betas=(0.9, 0.95), weight_decay=0.1, **schedule)
    trainer.fit(ImitationModule(*decoder(), seed=0, make_optimizer=optimizer), data)
    return seen


def test_a_round_is_added_at_its_step_and_trained_on_immediately() -> None:
    asked = Asked()
    seen = train(asked)
    assert seen.counts == [36] * 4 + [72] * 4 + [108] * 4
    assert seen.labelled[:4] == [False] * 4
    assert all(seen.labelled[8:])
    assert [number for number, _ in asked.by] == [1, 2]


def test_the_averaged_weights_act_in_a_round() -> None:
    class Averages(EMA):
        """Records the averaged weights after each step."""

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


def test_confusion_gives_student_action_frequencies_per_expert_action() -> None:
    expected, chosen = np.array([0, 1, 2, 1, 2, 1, 1, 2, 1]), np.array([0, 1, 2, 2, 2, 2, 1, 2, 2])
    by_hand = [[1, 0, 0, 0], [0, 2 / 5, 3 / 5, 0], [0, 0, 1, 0], [0, 0, 0, 1]]  # the expert never does 3
    np.testing.assert_allclose(confusion(expected, chosen, 4), by_hand)
