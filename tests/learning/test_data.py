"""Which windows a training step sees is a function of seed and step alone; and flying sees the same windows."""

from itertools import islice
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from ilt.demos import Episodes, WindowDataset
from ilt.envs import EnvSpec
from ilt.learning import WindowData
from ilt.learning.data import EpochBatches
from ilt.models import Decoder
from ilt.rollouts import ContextPolicy, rollout
from tests.toys import countdown


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


def data(episodes: Episodes, **changes: int) -> WindowData:
    windows = WindowDataset(episodes, context_length=2)  # three windows: steps 0 1, 1 2; and 0 1 of the second
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
    windows = WindowDataset(two_episodes, context_length=2)
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
    windows = WindowDataset(two_episodes, context_length=2)
    expected = [windows.__getitems__(rows)["observations"] for rows in stream(3, batch_size, 7)]
    assert len(module.given) == 7
    assert all(torch.equal(given, wanted) for given, wanted in zip(module.given, expected, strict=True))


# --- online logits are offline logits ---


class Recording(ContextPolicy):
    """Keeps the logits of every step, by the seed of the episode."""

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        super().begin(slots, seeds)
        if not hasattr(self, "online"):
            self.online: dict[int, list[Tensor]] = {}
            self.flown: dict[int, int] = {}
        self.flown.update(zip(slots.tolist(), seeds.tolist(), strict=True))
        self.online.update({seed: [] for seed in seeds.tolist()})

    def logits(self, slots: np.ndarray, observations: np.ndarray) -> Tensor:
        logits = super().logits(slots, observations)
        for slot, row in zip(slots.tolist(), logits, strict=True):
            self.online[self.flown[slot]].append(row)
        return logits


def large_random_model(spec: EnvSpec, **changes: Any) -> Decoder:
    """Weights so large that every token shows in the logits."""
    torch.manual_seed(0)
    observation_dim, n_actions = spec.sizes()
    sizes = {"context_length": 5, "n_layer": 2, "n_head": 2, "d_model": 16}
    model = Decoder(observation_dim=observation_dim, n_actions=n_actions, **{**sizes, **changes})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.set_normalisation(torch.full((observation_dim,), 0.1), torch.full((observation_dim,), 0.5))
    return model


def offline_logits(model: Decoder, episodes: Episodes, e: int, length: int) -> Tensor:
    """(T, A): every step's logits from a window of the last `length` steps, cut by hand and padded on the right."""
    steps = slice(episodes.step_offsets[e], episodes.step_offsets[e] + episodes.lengths[e])
    rows = slice(episodes.observation_offsets[e], episodes.observation_offsets[e] + episodes.lengths[e])
    seen, done = torch.from_numpy(episodes.observations[rows]), torch.from_numpy(episodes.actions[steps])
    logits = []
    for t in range(len(done)):
        start = max(t + 1 - length, 0)
        n_real, n_padded = t + 1 - start, length - (t + 1 - start)
        observations = torch.cat([seen[start : t + 1], torch.full((n_padded, seen.shape[1]), 77.0)])
        actions = torch.cat([done[start : t + 1], torch.zeros(n_padded, dtype=torch.int64)])
        mask = torch.arange(length) < n_real
        with torch.inference_mode():
            logits.append(model.eval()(observations[None], actions[None], mask[None])[0, n_real - 1])
    return torch.stack(logits)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokens": "states"},
        {"positions": "learned"},
        {"positions": "none", "context_length": 1},
        {"positions": "learned", "tokens": "states"},
    ],
    ids=str,
)
def test_online_logits_are_offline_logits(lander: EnvSpec, options: dict[str, Any]) -> None:
    model = large_random_model(lander, **options)
    policy = Recording(model, deterministic=False)
    episodes = rollout(lander, policy, lander.seeds("validation", 5), n_envs=3)
    assert episodes.lengths.min() > 3 * model.context_length
    for e, seed in enumerate(episodes.seeds.tolist()):
        online = torch.stack(policy.online[seed])
        torch.testing.assert_close(
            online, offline_logits(model, episodes, e, model.context_length), atol=1e-5, rtol=1e-5
        )


def test_online_logits_are_those_of_one_pass_over_the_windows_of_training(lander: EnvSpec) -> None:
    model = large_random_model(lander)
    policy = Recording(model, deterministic=False)
    episodes = rollout(lander, policy, lander.seeds("validation", 4), n_envs=3)
    for e, seed in enumerate(episodes.seeds.tolist()):
        windows = WindowDataset(episodes.select(np.array([e])), context_length=model.context_length)
        batch = windows.__getitems__(range(len(windows)))
        with torch.inference_mode():
            logits = model.eval()(batch["observations"], batch["actions"], batch["mask"])
        offline = torch.cat([logits[0], logits[1:, -1]])  # the start of the episode, then one step more per window
        torch.testing.assert_close(torch.stack(policy.online[seed]), offline, atol=1e-5, rtol=1e-5)


def test_online_is_offline_in_episodes_shorter_than_a_window_and_slots_used_again() -> None:
    spec, model = countdown(), large_random_model(countdown())
    policy = Recording(model, deterministic=False)
    episodes = rollout(spec, policy, spec.seeds("validation", 10), n_envs=3)
    assert sorted(set(episodes.lengths.tolist())) == [1, 2, 3]
    for e, seed in enumerate(episodes.seeds.tolist()):
        offline = offline_logits(model, episodes, e, model.context_length)
        torch.testing.assert_close(torch.stack(policy.online[seed]), offline, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 3])
def test_flying_with_less_context_sees_the_last_steps_alone(lander: EnvSpec, length: int) -> None:
    model = large_random_model(lander)
    policy = Recording(model, context_length=length, deterministic=False)
    episodes = rollout(lander, policy, lander.seeds("validation", 3), n_envs=3)
    for e, seed in enumerate(episodes.seeds.tolist()):
        offline = offline_logits(model, episodes, e, length)
        torch.testing.assert_close(torch.stack(policy.online[seed]), offline, atol=1e-5, rtol=1e-5)


def test_flying_does_not_use_dropout_and_training_goes_on_with_it(lander: EnvSpec) -> None:
    model = large_random_model(lander, dropout=0.5, action_dropout=0.5).train()
    policy = Recording(model)
    episodes = rollout(lander, policy, lander.seeds("validation", 2), n_envs=2)
    assert all(module.training for module in model.modules())
    for e, seed in enumerate(episodes.seeds.tolist()):
        offline = offline_logits(model, episodes, e, model.context_length)
        torch.testing.assert_close(torch.stack(policy.online[seed]), offline, atol=1e-5, rtol=1e-5)
