"""Windows over episodes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils.data import DataLoader

from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset, WindowIndex, observation_statistics, take_episodes, windows_at
from ilt.envs.actions import ActionSpace
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from tests.rollout.test_sequence_policy import acting, large_random_model
from tests.toys import MULTI, TENSOR, VECTOR, echo, recall

MANY = ActionSpace(n_choices=(10_000,), start=(0,))


def episodes_of(*lengths: int) -> Episodes:
    """Episodes whose observation and action at step t of episode e are both 100 e + t, so that all steps differ."""
    rows = [100 * e + t for e, length in enumerate(lengths) for t in range(length + 1)]
    steps = [100 * e + t for e, length in enumerate(lengths) for t in range(length)]
    return Episodes(
        observations=np.array(rows, dtype=np.float32)[:, None],
        actions=np.array(steps),
        rewards=np.zeros(len(steps)),
        lengths=np.array(lengths),
        terminated=np.ones(len(lengths), dtype=bool),
        truncated=np.zeros(len(lengths), dtype=bool),
        seeds=np.arange(len(lengths)),
    )


def real_actions(window: dict[str, Tensor]) -> list[int]:
    return window["actions"][window["mask"]].tolist()


def held_bytes(dataset: WindowDataset) -> int:
    """The memory of all tensors that a data set holds, each counted once."""
    storages = [held.untyped_storage() for held in vars(dataset).values() if isinstance(held, Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def all_starts(lengths: np.ndarray, context_length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Episode and start of every window."""
    index = WindowIndex(lengths, context_length, stride)
    episode, start = index.find(torch.arange(len(index)))
    return episode.numpy(), start.numpy()


@pytest.mark.parametrize(
    ("lengths", "context_length", "stride", "expected"),
    [
        ([5], 3, 1, [(0, 0), (0, 1), (0, 2)]),
        ([5], 3, 2, [(0, 0), (0, 2)]),
        ([6], 3, 2, [(0, 0), (0, 2), (0, 3)]),
        ([7], 3, 3, [(0, 0), (0, 3), (0, 4)]),
        ([5], 3, 3, [(0, 0), (0, 2)]),
        ([3], 3, 1, [(0, 0)]),
        ([2], 3, 1, [(0, 0)]),
        ([1], 1, 1, [(0, 0)]),
        ([3], 1, 1, [(0, 0), (0, 1), (0, 2)]),
        ([3, 1, 4], 2, 2, [(0, 0), (0, 1), (1, 0), (2, 0), (2, 2)]),
    ],
)
def test_where_windows_start(
    lengths: list[int], context_length: int, stride: int, expected: list[tuple[int, int]]
) -> None:
    episode, start = all_starts(np.array(lengths), context_length, stride)
    assert list(zip(episode.tolist(), start.tolist(), strict=True)) == expected


def test_every_step_is_in_some_window_and_no_window_occurs_twice() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        lengths = rng.integers(1, 40, 8)
        context_length = int(rng.integers(1, 20))
        stride = int(rng.integers(1, context_length + 1))
        episode, start = all_starts(lengths, context_length, stride)
        for e, length in enumerate(lengths):
            starts = start[episode == e]
            covered = {t for s in starts for t in range(s, min(s + context_length, length))}
            assert covered == set(range(length))
            assert starts[0] == 0
            assert starts[-1] == max(length - context_length, 0)
            assert np.all(np.diff(starts) > 0)


def test_the_true_start_of_every_episode_is_the_start_of_a_window() -> None:
    dataset = WindowDataset(episodes_of(7, 2, 5), action_space=MANY, context_length=4, stride=3)
    first_actions = {real_actions(dataset[i])[0] for i in range(len(dataset))}
    assert {0, 100, 200} <= first_actions


@pytest.mark.parametrize(("context_length", "stride"), [(1, 1), (4, 1), (4, 3), (12, 12), (30, 7)])
def test_windows_are_aligned_with_the_episodes_they_are_cut_from(context_length: int, stride: int) -> None:
    episodes = rollout(recall(), RandomPolicy(recall().action_space), np.arange(4))
    dataset = WindowDataset(episodes, action_space=MANY, context_length=context_length, stride=stride)
    windows = []
    for e in range(len(episodes)):
        one = episodes.select(np.array([e]))
        length = len(one.actions)
        for s in sorted({*range(0, max(length - context_length, 0), stride), max(length - context_length, 0)}):
            steps = range(s, min(s + context_length, length))
            windows.append([(one.observations[t].tolist(), int(one.actions[t])) for t in steps])
    assert len(dataset) == len(windows)
    for window, pairs in zip((dataset[i] for i in range(len(dataset))), windows, strict=True):
        n_real = int(window["mask"].sum())
        pairs_of_window = zip(window["observations"].tolist(), window["actions"].tolist(), strict=True)
        assert list(pairs_of_window)[:n_real] == pairs


def test_padding_is_on_the_right_and_masked() -> None:
    window = WindowDataset(episodes_of(2), action_space=MANY, context_length=4)[0]
    assert window["mask"].tolist() == [True, True, False, False]
    assert window["observations"][:2, 0].tolist() == [0, 1]
    assert window["actions"][:2].tolist() == [0, 1]


def test_padding_never_reaches_into_the_next_episode() -> None:
    window = WindowDataset(episodes_of(2, 9), action_space=MANY, context_length=4)[0]
    assert window["actions"].max() < 100
    assert window["observations"].max() < 100


def test_the_last_observation_of_an_episode_is_in_no_window() -> None:
    dataset = WindowDataset(episodes_of(3, 5), action_space=MANY, context_length=2)
    seen = dataset.__getitems__(range(len(dataset)))["observations"]
    assert not {3.0, 105.0} & set(seen.flatten().tolist())


def test_shapes_and_dtypes_of_a_batch(two_episodes: Episodes) -> None:
    batch = WindowDataset(two_episodes, action_space=MANY, context_length=4).__getitems__([0, 1, 0])
    assert {name: (tuple(array.shape), array.dtype) for name, array in batch.items()} == {
        "observations": ((3, 4, 2), torch.float32),
        "actions": ((3, 4), torch.int64),
        "mask": ((3, 4), torch.bool),
    }


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_batch_is_its_windows_stacked(as_tensor: bool) -> None:
    dataset = WindowDataset(episodes_of(7, 2, 5), action_space=MANY, context_length=4)
    indices = [3, 0, 4, 3]
    batch = dataset.__getitems__(torch.tensor(indices) if as_tensor else indices)
    for name, array in batch.items():
        assert torch.equal(array, torch.stack([dataset[i][name] for i in indices]))


def test_a_data_loader_gathers_whole_batches(two_episodes: Episodes) -> None:
    dataset = WindowDataset(two_episodes, action_space=MANY, context_length=2)
    loader: DataLoader[dict[str, Tensor]] = DataLoader(dataset, batch_size=3, collate_fn=lambda batch: batch)
    (batch,) = loader
    assert batch["actions"].tolist() == [[0, 1], [1, 2], [1, 2]]


def test_windows_are_never_materialized() -> None:
    episodes = episodes_of(500, 500)
    short, long = (WindowDataset(episodes, action_space=MANY, context_length=k) for k in (1, 64))
    assert held_bytes(long) <= held_bytes(short) + 64 * 8  # the positions within a window
    assert all(held.numel() < len(long) * 64 for held in vars(long).values() if isinstance(held, Tensor))


def test_no_episodes_have_no_windows(two_episodes: Episodes) -> None:
    with pytest.raises(ValueError, match="there are no episodes to cut windows from"):
        WindowDataset(two_episodes.select(np.zeros(0, np.int64)), action_space=MANY, context_length=2)


@pytest.mark.parametrize(("amount", "count"), [(1, 1), (7, 7), (10, 10), (0.01, 1), (0.5, 5), (0.55, 6), (1.0, 10)])
def test_a_number_or_a_fraction_of_the_first_episodes(amount: int | float, count: int) -> None:
    assert take_episodes(episodes_of(*[2] * 10), amount).seeds.tolist() == list(range(count))


def test_n_percent_of_100_episodes_are_n() -> None:
    episodes = episodes_of(*[1] * 100)
    assert [len(take_episodes(episodes, n / 100)) for n in range(1, 101)] == list(range(1, 101))


@pytest.mark.parametrize("amount", [0, -1, 11, 0.0, -0.5, 1.01])
def test_no_episodes_or_more_than_there_are_cannot_be_taken(amount: int | float) -> None:
    with pytest.raises(ValueError, match=r"dataset\.episodes asks for -?\d+ episodes, but there are 10 demonstrations"):
        take_episodes(episodes_of(*[2] * 10), amount)


def test_statistics_count_real_steps_only(two_episodes: Episodes) -> None:
    mean, std = observation_statistics(two_episodes)  # of [0, 0] [1, −1] [2, −2] and [10, 0] [11, −1]
    torch.testing.assert_close(mean, torch.tensor([24 / 5, -4 / 5]))
    torch.testing.assert_close(std, torch.tensor([(226 / 5 - 4.8**2) ** 0.5, (6 / 5 - 0.8**2) ** 0.5]))
    assert mean.dtype == std.dtype == torch.float32


def test_statistics_keep_their_precision_far_from_zero() -> None:
    far = episodes_of(1000)
    far.observations[:] = 3e6 + far.observations % 2
    mean, std = observation_statistics(far)
    torch.testing.assert_close((mean, std), (torch.tensor([3e6 + 0.5]), torch.tensor([0.5])))


def test_a_constant_coordinate_has_deviation_one(two_episodes: Episodes) -> None:
    two_episodes.observations[:, 1] = 3.0
    mean, std = observation_statistics(two_episodes)
    assert (mean[1], std[1]) == (3.0, 1.0)


@pytest.mark.parametrize("context_length", [1, 2, 3, 8])
def test_as_flown_every_step_is_scored_once_with_the_context_it_has_in_flight(
    two_episodes: Episodes, context_length: int
) -> None:
    windows = WindowDataset(two_episodes, action_space=MANY, context_length=context_length, as_deployed=True)
    batch = windows.__getitems__(range(len(windows)))
    scored = [
        (row, position, batch["observations"][row, position, 0].item())
        for row, position in batch["scored"].nonzero().tolist()
    ]
    assert sorted(seen for _, _, seen in scored) == [0, 1, 2, 10, 11]
    for _, position, seen in scored:
        assert position == min(seen % 10, context_length - 1)  # as many steps before it as there are, up to K - 1


def test_at_a_step_a_student_looks_back_as_far_as_it_can() -> None:
    episodes = episodes_of(2, 5, 4)
    which, observations, actions = windows_at(episodes, 3, action_space=MANY, context_length=3)
    assert which.tolist() == [1, 2]  # the others have ended
    assert observations[..., 0].tolist() == actions.tolist() == [[101, 102, 103], [201, 202, 203]]
    which, observations, actions = windows_at(episodes, 1, action_space=MANY, context_length=3)
    assert which.tolist() == [0, 1, 2]
    assert observations[..., 0].tolist() == actions.tolist() == [[0, 1], [100, 101], [200, 201]]


@pytest.mark.parametrize("step", [0, 3, 11])
def test_what_a_student_looked_at_makes_it_do_what_it_did(step: int) -> None:
    spec, model = recall(), large_random_model(recall())
    episodes = rollout(spec, acting(model), np.arange(20))
    _, observations, actions = windows_at(
        episodes, step, action_space=spec.action_space, context_length=model.context_length
    )
    with torch.inference_mode():
        assert torch.equal(model(observations, actions)[:, -1].argmax(dim=1), actions[:, -1])


@pytest.mark.parametrize("space", [MULTI, TENSOR], ids=str)
def test_windows_hold_actions_and_labels_in_model_units(space: spaces.Space[Any]) -> None:
    spec = echo(VECTOR, space)
    described = spec.action_space
    episodes = rollout(spec, RandomPolicy(described), np.arange(5))
    labels = episodes.actions[::-1].copy()
    dataset = WindowDataset(replace(episodes, extras={"step/label": labels}), action_space=described, context_length=3)
    batch = dataset.__getitems__(range(len(dataset)))
    assert batch["actions"].shape == batch["targets"].shape == (len(dataset), 3, described.dim)
    assert batch["actions"][0].tolist() == described.encode(episodes.actions[:3]).tolist()
    assert batch["targets"][0].tolist() == described.encode(labels[:3]).tolist()
    assert batch["actions"].min() >= (-1 if described.continuous else 0)
    assert batch["actions"].dtype == (torch.float32 if described.continuous else torch.int64)
    n = len(dataset)
    dataset.extend(episodes)  # whose labels are what was done
    more = dataset.__getitems__(range(n, 2 * n))
    assert torch.equal(more["targets"], batch["actions"])
    assert torch.equal(more["actions"], batch["actions"])


def test_what_is_hidden_from_a_student_is_in_no_window(two_episodes: Episodes) -> None:
    garbage = {"step/privileged": np.full((5, 3), np.nan, dtype=np.float32), "episode/gravity": np.full(2, np.nan)}
    plain, other = (
        WindowDataset(replace(two_episodes, extras=extras), action_space=MANY, context_length=2).__getitems__([0, 1, 2])
        for extras in ({}, garbage)
    )
    assert plain.keys() == other.keys()
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    statistics = (observation_statistics(replace(two_episodes, extras=extras)) for extras in ({}, garbage))
    for one, same in zip(*statistics, strict=True):
        assert torch.equal(one, same)


# --- labels of an expert ---


def with_labels(episodes: Episodes) -> Episodes:
    """The label of every step is what was done and 1,000."""
    return replace(episodes, extras={"step/label": episodes.actions + 1000})


def test_windows_of_labelled_episodes_tell_what_was_done_from_what_should_have_been() -> None:
    dataset = WindowDataset(with_labels(episodes_of(5, 2)), action_space=MANY, context_length=3)
    batch = dataset.__getitems__(range(len(dataset)))
    assert torch.equal(batch["targets"], batch["actions"] + 1000)
    assert "targets" not in WindowDataset(episodes_of(5, 2), action_space=MANY, context_length=3)[0]


def test_a_data_set_that_was_extended_is_one_of_all_episodes() -> None:
    dataset = WindowDataset(episodes_of(5, 2), action_space=MANY, context_length=3, stride=2)
    dataset.extend(with_labels(episodes_of(1, 4)))
    dataset.extend(with_labels(episodes_of(6)))
    together = Episodes.concatenate([episodes_of(5, 2), episodes_of(1, 4), episodes_of(6)])
    labels = np.concatenate([together.actions[:7], together.actions[7:] + 1000])
    whole = WindowDataset(
        replace(together, extras={"step/label": labels}), action_space=MANY, context_length=3, stride=2
    )
    assert len(dataset) == len(whole)
    ours, theirs = (each.__getitems__(range(len(whole))) for each in (dataset, whole))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
