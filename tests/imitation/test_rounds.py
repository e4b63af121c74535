"""The data grow while the student learns, and a student's errors are counted."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ilt.data.datamodule import WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.imitation.rounds import Rounds, confusion
from ilt.models.decoder import Decoder
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from ilt.training.callbacks import EMA
from ilt.training.module import ImitationModule
from tests.toys import recall
from tests.training.test_callbacks import decoder


def play(first: int, n_episodes: int = 4) -> Episodes:
    """Random play, 12 steps each, which an expert calls wrong throughout."""
    episodes = rollout(recall(), RandomPolicy(2), np.arange(first, first + n_episodes))
    return replace(episodes, extras={"step/label": 1 - episodes.actions})


class Seen(pl.Callback):
    """How many windows there are at each step, and in how many of a batch's the expert disagrees with what was done."""

    def __init__(self, windows: WindowDataset) -> None:
        self._windows, self.counts, self.labelled = windows, list[int](), list[bool]()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: dict[str, Tensor], _: int) -> None:
        self.counts.append(len(self._windows))
        self.labelled.append("targets" in batch and bool((batch["targets"] != batch["actions"]).any()))


class Asked:
    """Gives the episodes of a round; keeps who flew it."""

    def __init__(self) -> None:
        self.by: list[tuple[int, Tensor | None]] = []

    def __call__(self, number: int, student: nn.Module | None) -> Episodes:
        weights = None if student is None else student.action_head.weight.detach().clone()  # type: ignore[union-attr, operator]
        self.by.append((number, weights))
        return play(100 * number)


def train(model: Decoder, asked: Asked, *others: pl.Callback, n_rounds: int = 2, every: int = 4) -> Seen:
    """`n_rounds` + 1 times `every` steps, with a validation after every second one."""
    windows = WindowDataset(replace(play(0), extras={}), context_length=4)
    data = WindowData(windows, windows, batch_size=7, seed=0, steps_per_round=every)
    seen = Seen(windows)
    rounds = Rounds(data, n_rounds=n_rounds, every=every, episodes_of=asked)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=(n_rounds + 1) * every,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        log_every_n_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        callbacks=[rounds, *others, seen],
    )
    optimizer = {"learning_rate": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.1}
    module = ImitationModule(model, seed=0, **optimizer, warmup_fraction=0.0, final_learning_rate_fraction=1.0)
    trainer.fit(module, data)
    return seen


def test_a_round_is_added_at_its_step_and_learned_from_at_once() -> None:
    asked = Asked()
    seen = train(decoder(), asked)
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
            self.after.append(self._average_model.module.model.action_head.weight.detach().clone())

    asked, averages, model = Asked(), Averages(), decoder()
    train(model, asked, averages)
    for (_, weights), step in zip(asked.by, (4, 8), strict=True):
        assert weights is not None
        assert torch.equal(weights, averages.after[step - 1])


def test_a_resumed_training_asks_for_the_rounds_that_it_had_and_nobody_flies() -> None:
    windows = WindowDataset(play(0), context_length=4)
    data, asked = WindowData(windows, windows, batch_size=7, seed=0, steps_per_round=4), Asked()
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


def seen_is_done(*actions: list[int]) -> WindowDataset:
    """An expert that does what it sees, as it flew."""
    lengths = np.array([len(episode) for episode in actions])
    episodes = Episodes(
        observations=np.concatenate([[*episode, 9] for episode in actions]).astype(np.float32)[:, None],
        actions=np.concatenate(actions),
        rewards=np.zeros(lengths.sum()),
        lengths=lengths,
        terminated=np.ones(len(actions), dtype=bool),
        truncated=np.zeros(len(actions), dtype=bool),
        seeds=np.arange(len(actions)),
    )
    return WindowDataset(episodes, context_length=2, as_deployed=True)


def test_a_students_errors_are_counted_by_what_the_expert_does() -> None:
    found = confusion(Errs(), seen_is_done([0, 1, 2, 1, 2, 1, 1], [2, 1]), 4, deterministic=True)
    np.testing.assert_allclose(found, [[1, 0, 0, 0], [0, 2 / 5, 3 / 5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_a_student_that_samples_errs_as_often_as_it_would() -> None:
    found = confusion(Errs(), seen_is_done([0, 0]), 4, deterministic=False)
    e = np.e
    np.testing.assert_allclose(found[0], np.array([e, 1, 1, 1]) / (e + 3), rtol=1e-6)
    assert found.sum(axis=1) == pytest.approx(1)
