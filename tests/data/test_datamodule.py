"""Which windows a training step sees is a function of seed and step alone."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ilt.data.datamodule import EpochBatches, RoundBatches, WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace

FOUR = ActionSpace(n_choices=(4,), start=(0,))


def stream(n_windows: int, batch_size: int, n_batches: int, *, seed: int = 0, first_step: int = 0) -> list[list[int]]:
    """The first batches, epoch after epoch, as a trainer draws them."""
    sampler = EpochBatches(n_windows, batch_size, seed=seed, first_step=first_step)
    return [batch.tolist() for batch in islice((batch for _ in iter(int, 1) for batch in sampler), n_batches)]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def test_an_epoch_holds_every_index_once() -> None:
    assert sorted(flat(stream(12, 3, 4))) == list(range(12))


def test_what_does_not_fill_a_batch_waits_for_another_epoch() -> None:
    first, second = flat(stream(11, 3, 3)), flat(stream(11, 3, 6)[3:])
    assert len(set(first)) == len(set(second)) == 9
    assert set(first) != set(second)
    assert set(flat(stream(11, 3, 30))) == set(range(11))


def test_every_epoch_is_shuffled_anew() -> None:
    first, second = flat(stream(50, 5, 10)), flat(stream(50, 5, 20)[10:])
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != list(range(50))


def test_the_seed_decides_the_order() -> None:
    assert stream(50, 5, 25, seed=3) == stream(50, 5, 25, seed=3)
    assert stream(50, 5, 25, seed=3) != stream(50, 5, 25, seed=4)


def test_no_epoch_of_one_seed_is_one_of_another() -> None:
    epochs = [tuple(flat(stream(20, 20, 5, seed=seed)[epoch : epoch + 1])) for seed in range(5) for epoch in range(5)]
    assert len(set(epochs)) == 25


def test_the_order_does_not_depend_on_torchs_own_random_numbers() -> None:
    torch.manual_seed(1)
    first = stream(20, 4, 10)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert stream(20, 4, 10) == first
    assert torch.equal(torch.get_rng_state(), state)  # and draws none of them


@pytest.mark.parametrize("n_windows", [2, 11, 12])  # less than a batch, with a remainder, without
@pytest.mark.parametrize("first_step", range(10))
def test_a_resumed_stream_is_the_tail_of_the_uninterrupted_one(n_windows: int, first_step: int) -> None:
    whole = stream(n_windows, 3, 14)
    assert stream(n_windows, 3, 14 - first_step, first_step=first_step) == whole[first_step:]


def test_fewer_windows_than_a_batch_make_a_batch_of_all() -> None:
    batches = stream(3, 8, 4)
    assert [sorted(batch) for batch in batches] == [[0, 1, 2]] * 4
    assert len(EpochBatches(3, 8, seed=0)) == 1


@pytest.mark.parametrize(("n_windows", "batch_size", "expected"), [(12, 3, 4), (11, 3, 3), (2, 3, 1), (3, 3, 1)])
def test_the_length_of_an_epoch_in_batches(n_windows: int, batch_size: int, expected: int) -> None:
    sampler = EpochBatches(n_windows, batch_size, seed=0)
    assert len(sampler) == expected
    assert len(list(sampler)) == expected
    assert len(list(sampler)) == expected


# --- data that grow ---


def rounds(windows: list[int], n_steps: int, *, first_step: int = 0) -> list[list[int]]:
    """The batches of three rounds of `n_steps`, of 2 windows each; before each one, three windows are added."""
    taken = [first_step]
    sampler = RoundBatches(windows, 2, seed=0, n_steps=n_steps, step=lambda: taken[0])
    batches = []
    for number in range(3):
        if taken[0] < (number + 1) * n_steps:
            batches += [batch.tolist() for batch in sampler]
            taken[0] = (number + 1) * n_steps
        windows += [0, 0, 0]
    return batches


@pytest.mark.parametrize("n_steps", [1, 3, 4, 7])  # less than an epoch, one and a half, two, three and a half
def test_a_round_ends_at_its_step_and_the_next_one_sees_what_there_is_then(n_steps: int) -> None:
    batches = rounds([0] * 4, n_steps)
    assert len(batches) == 3 * n_steps
    for number, n_windows in enumerate((4, 7, 10)):
        seen = flat(batches[number * n_steps : (number + 1) * n_steps])
        assert set(seen) <= set(range(n_windows))
        first_epoch = seen[: 2 * (n_windows // 2)]
        assert len(set(first_epoch)) == len(first_epoch)
    assert max(flat(rounds([0] * 4, 7)[14:])) > 6


@pytest.mark.parametrize("first_step", range(1, 12))
def test_a_resumed_round_is_the_tail_of_the_uninterrupted_one(first_step: int) -> None:
    whole = rounds([0] * 4, 4)
    assert rounds([0] * 4, 4, first_step=first_step) == whole[first_step:]


def test_every_round_is_shuffled_anew() -> None:
    sampler_of = {n: RoundBatches([0] * 20, 20, seed=0, n_steps=1, step=lambda n=n: n) for n in range(3)}  # type: ignore[misc]
    assert len({tuple(flat([batch.tolist() for batch in sampler])) for sampler in sampler_of.values()}) == 3


def test_data_that_grow_hold_what_was_done_and_what_the_expert_would_have_done(two_episodes: Episodes) -> None:
    grown = data(two_episodes, steps_per_round=2, batch_size=6)
    (before, _) = grown.train_dataloader()
    assert "targets" not in before
    grown.extend(replace(two_episodes, extras={"step/label": np.array([3, 3, 3, 3, 3])}))
    (after, _) = grown.train_dataloader()
    targets, actions = after["targets"], after["actions"]
    assert len(targets) == 6
    assert sorted(row.tolist() for row in targets) == sorted([[0, 1], [1, 2], [1, 2], [3, 3], [3, 3], [3, 3]])
    assert sorted(row.tolist() for row in actions) == sorted([[0, 1], [1, 2], [1, 2]] * 2)


# --- what Lightning is given ---


def data(episodes: Episodes, **changes: int) -> WindowData:
    windows = WindowDataset(
        episodes, action_space=FOUR, context_length=2
    )  # three windows: steps 0 1, 1 2; and 0 1 of the second
    return WindowData(windows, windows, **{"batch_size": 2, "seed": 0, **changes})


def test_training_batches_are_whole_and_of_the_documented_shapes(two_episodes: Episodes) -> None:
    (batch,) = data(two_episodes).train_dataloader()
    shapes = {name: (tuple(array.shape), array.dtype) for name, array in batch.items()}
    assert shapes == {
        "observations": ((2, 2, 2), torch.float32),
        "actions": ((2, 2), torch.int64),
        "mask": ((2, 2), torch.bool),
    }


def test_training_batches_hold_the_windows_that_the_sampler_names(two_episodes: Episodes) -> None:
    windows = WindowDataset(two_episodes, action_space=FOUR, context_length=2)
    for indices, batch in zip(EpochBatches(3, 2, seed=5), data(two_episodes, seed=5).train_dataloader(), strict=True):
        expected = windows.__getitems__(indices)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_validation_sees_every_window_once_and_in_order(two_episodes: Episodes) -> None:
    (batch,) = data(two_episodes).val_dataloader()
    assert batch["observations"][:, 0, 0].tolist() == [0, 1, 10]
    assert batch["actions"].tolist() == [[0, 1], [1, 2], [1, 2]]


@pytest.mark.parametrize("batch_size", [1, 2, 8])  # three batches to an epoch, one with a remainder, one of all
def test_a_trainer_is_given_the_stream_batch_by_batch(two_episodes: Episodes, batch_size: int) -> None:
    class Nothing(pl.LightningModule):
        """Learns nothing and keeps what it was given."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.given = torch.nn.Parameter(torch.zeros(1)), list[Tensor]()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            self.given.append(batch["observations"])
            return self.weight.sum()

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            pass

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = Nothing()
    switched_off = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = pl.Trainer(accelerator="cpu", max_steps=7, limit_val_batches=0, **switched_off)
    trainer.fit(module, data(two_episodes, batch_size=batch_size))
    windows = WindowDataset(two_episodes, action_space=FOUR, context_length=2)
    expected = [windows.__getitems__(rows)["observations"] for rows in stream(3, batch_size, 7)]
    assert len(module.given) == 7
    assert all(torch.equal(given, wanted) for given, wanted in zip(module.given, expected, strict=True))
