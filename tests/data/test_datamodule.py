"""The windows that a training step sees depend only on seed and step."""

from itertools import islice

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ilt.data.datamodule import EpochBatches, RoundBatches, WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace


def stream(n_windows: int, batch_size: int, n_batches: int, *, seed: int = 0, first_step: int = 0) -> list[list[int]]:
    """Return the first batches, epoch after epoch, as a trainer draws them."""
    sampler = EpochBatches(n_windows, batch_size, seed=seed, first_step=first_step)
    return [batch.tolist() for batch in islice((batch for _ in iter(int, 1) for batch in sampler), n_batches)]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def test_windows_that_do_not_fill_a_batch_wait_for_another_epoch() -> None:
    first, second = flat(stream(11, 3, 3)), flat(stream(11, 3, 6)[3:])
    assert len(set(first)) == len(set(second)) == 9
    assert set(first) != set(second)
    assert set(flat(stream(11, 3, 30))) == set(range(11))


def test_every_epoch_of_every_seed_has_each_index_once_in_its_own_order() -> None:
    epochs = [flat(stream(20, 5, 20, seed=seed)[4 * e : 4 * e + 4]) for seed in range(5) for e in range(5)]
    assert all(sorted(epoch) == list(range(20)) != epoch for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 25


def test_the_order_does_not_depend_on_torchs_generator() -> None:
    first = stream(20, 4, 10)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert stream(20, 4, 10) == first
    assert torch.equal(torch.get_rng_state(), state)  # and uses none of them


@pytest.mark.parametrize("n_windows", [2, 11, 12])  # less than a batch, with a remainder, without one
@pytest.mark.parametrize("first_step", range(10))
def test_a_resumed_stream_is_the_tail_of_the_uninterrupted_one(n_windows: int, first_step: int) -> None:
    whole = stream(n_windows, 3, 14)
    assert stream(n_windows, 3, 14 - first_step, first_step=first_step) == whole[first_step:]


@pytest.mark.parametrize(("n_windows", "batch_size", "expected"), [(12, 3, 4), (11, 3, 3), (2, 3, 1), (3, 3, 1)])
def test_the_length_of_an_epoch_in_batches(n_windows: int, batch_size: int, expected: int) -> None:
    sampler = EpochBatches(n_windows, batch_size, seed=0)
    assert [len(sampler), len(list(sampler)), len(list(sampler))] == [expected] * 3
    assert len(next(iter(sampler))) == min(n_windows, batch_size)


# --- growing data sets ---


def rounds(n_steps: int, *, first_step: int = 0) -> list[list[int]]:
    """Return the batches, of 2 windows each, of three rounds of `n_steps` on 4, 7 and 10 windows."""
    taken, windows = [first_step], [0] * 4
    sampler = RoundBatches(windows, 2, seed=0, n_steps=n_steps, step=lambda: taken[0])
    batches = []
    for end in (n_steps, 2 * n_steps, 3 * n_steps):
        if taken[0] < end:
            batches += [batch.tolist() for batch in sampler]
            taken[0] = end
        windows += [0, 0, 0]
    return batches


@pytest.mark.parametrize("n_steps", [1, 3, 4, 7])  # 0.5, 1.5, 2 and 3.5 epochs in round 1
def test_a_round_ends_at_its_step_and_the_next_sees_the_added_windows(n_steps: int) -> None:
    batches = rounds(n_steps)
    assert len(batches) == 3 * n_steps
    for number, n_windows in enumerate((4, 7, 10)):
        seen = flat(batches[number * n_steps : (number + 1) * n_steps])
        assert set(seen) <= set(range(n_windows))
        first_epoch = seen[: 2 * (n_windows // 2)]
        assert len(set(first_epoch)) == len(first_epoch)
    assert max(flat(rounds(7)[14:])) > 6


@pytest.mark.parametrize("first_step", range(1, 12))
def test_a_resumed_round_is_the_tail_of_the_uninterrupted_one(first_step: int) -> None:
    assert rounds(4, first_step=first_step) == rounds(4)[first_step:]


def test_every_round_is_reshuffled() -> None:
    orders = [next(iter(RoundBatches([0] * 20, 20, seed=0, n_steps=1, step=lambda n=n: n))) for n in range(3)]  # type: ignore[misc]
    assert len({tuple(order.tolist()) for order in orders}) == 3


# --- dataloaders ---


@pytest.fixture
def windows(two_episodes: Episodes) -> WindowDataset:
    """Return three windows: steps 0 1 and 1 2 of the first episode, 0 1 of the second."""
    return WindowDataset(two_episodes, action_space=ActionSpace(n_choices=(4,), start=(0,)), context_length=2)


def test_validation_sees_every_window_once_and_in_order(windows: WindowDataset) -> None:
    (batch,) = WindowData(windows, windows, batch_size=2, seed=0).val_dataloader()
    assert batch["observations"][:, 0, 0].tolist() == [0, 1, 10]
    assert batch["actions"].tolist() == [[0, 1], [1, 2], [1, 2]]


class Nothing(pl.LightningModule):
    """Learns nothing and records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.given = torch.nn.Parameter(torch.zeros(1)), list[dict[str, Tensor]]()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.given.append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("batch_size", [1, 2, 8])  # epochs of three batches, one batch and a remainder, one small batch
def test_a_trainer_receives_the_stream_batch_by_batch(windows: WindowDataset, batch_size: int) -> None:
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = pl.Trainer(accelerator="cpu", max_steps=7, limit_val_batches=0, **dict.fromkeys(names, False))
    module = Nothing()
    trainer.fit(module, WindowData(windows, windows, batch_size=batch_size, seed=5))
    expected = [windows.__getitems__(rows) for rows in stream(3, batch_size, 7, seed=5)]
    for given, wanted in zip(module.given, expected, strict=True):
        assert given.keys() == wanted.keys()
        assert all(torch.equal(given[name], wanted[name]) for name in wanted)
