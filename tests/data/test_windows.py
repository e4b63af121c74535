"""Windows of episodes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset, WindowIndex, observation_statistics, take_episodes, windows_at
from ilt.envs.actions import ActionSpace
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout
from tests.rollout.test_sequence_policy import acting, large_random_model
from tests.toys import MULTI, TENSOR, VECTOR, echo, recall

MANY = ActionSpace(n_choices=(10_000,), start=(0,))


def episodes_of(*lengths: int) -> Episodes:
    """Return episodes whose observation and action at step t of episode e are 100 e + t, so all steps differ."""
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


def windows_of(episodes: Episodes, context_length: int, **options: Any) -> WindowDataset:
    return WindowDataset(episodes, action_space=MANY, context_length=context_length, **options)


def whole(dataset: WindowDataset) -> dict[str, Tensor]:
    """Return all windows as one batch."""
    return dataset.__getitems__(range(len(dataset)))


def assert_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(array, b[name]) for name, array in a.items())


def test_windows_cover_every_step_and_are_distinct() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        lengths, context_length = rng.integers(1, 40, 8), int(rng.integers(1, 20))
        index = WindowIndex(lengths, context_length, stride=int(rng.integers(1, context_length + 1)))
        episode, _, start = (found.numpy() for found in index.find(torch.arange(len(index))))
        for e, length in enumerate(lengths):
            starts = start[episode == e]
            assert {t for s in starts for t in range(s, min(s + context_length, length))} == set(range(length))
            assert (starts[0], starts[-1]) == (0, max(length - context_length, 0))
            assert np.all(np.diff(starts) > 0)


@pytest.mark.parametrize(("context_length", "stride"), [(1, 1), (3, 1), (3, 2), (4, 3), (3, 3), (12, 12), (30, 7)])
def test_windows_start_at_every_stride_and_end_with_their_episode(context_length: int, stride: int) -> None:
    lengths, expected = (1, 7, 2, 5, 3, 6, 12), []
    for e, length in enumerate(lengths):
        last = max(length - context_length, 0)
        for start in sorted({*range(0, last, stride), last}):
            expected.append([100 * e + t for t in range(start, min(start + context_length, length))])
    windows = whole(windows_of(episodes_of(*lengths), context_length, stride=stride))
    for name in ("observations", "actions"):
        found = zip(windows[name].reshape(len(expected), -1), windows["mask"], strict=True)
        assert [row[real].tolist() for row, real in found] == expected


def test_padding_is_on_the_right_and_masked_and_never_contains_the_next_episode() -> None:
    window = windows_of(episodes_of(2, 9), context_length=4)[0]
    assert window["mask"].tolist() == [True, True, False, False]
    assert window["observations"][:2, 0].tolist() == window["actions"][:2].tolist() == [0, 1]
    assert max(window["observations"].max(), window["actions"].max()) < 100


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_batch_is_its_windows_stacked_in_the_documented_shapes(two_episodes: Episodes, as_tensor: bool) -> None:
    dataset, indices = windows_of(two_episodes, context_length=4), [1, 0, 1]
    batch = dataset.__getitems__(torch.tensor(indices) if as_tensor else indices)
    assert_equal(batch, {name: torch.stack([dataset[i][name] for i in indices]) for name in batch})
    assert {name: (tuple(array.shape), array.dtype) for name, array in batch.items()} == {
        "observations": ((3, 4, 2), torch.float32),
        "actions": ((3, 4), torch.int64),
        "mask": ((3, 4), torch.bool),
    }


def test_windows_are_never_materialized() -> None:
    short, long = (windows_of(episodes_of(500, 500), k) for k in (1, 64))
    numbers = [sum(held.numel() for held in vars(each).values() if isinstance(held, Tensor)) for each in (short, long)]
    assert numbers[1] <= numbers[0] + 64  # the positions within a window


def test_no_episodes_have_no_windows(two_episodes: Episodes) -> None:
    with pytest.raises(ValueError, match="there are no episodes to cut windows from"):
        windows_of(two_episodes.first(0), context_length=2)


@pytest.mark.parametrize(("amount", "count"), [(1, 1), (7, 7), (10, 10), (0.01, 1), (0.5, 5), (0.55, 6), (1.0, 10)])
def test_an_amount_is_a_number_or_a_fraction_of_the_first_episodes(amount: int | float, count: int) -> None:
    assert take_episodes(episodes_of(*[2] * 10), amount).seeds.tolist() == list(range(count))
    hundred = episodes_of(*[1] * 100)
    assert [len(take_episodes(hundred, n / 100)) for n in range(1, 101)] == list(range(1, 101))


@pytest.mark.parametrize(("amount", "first", "taken"), [(1, 9, [9]), (2, 3, [3, 4]), (0.5, 5, [5, 6, 7, 8, 9])])
def test_episodes_can_be_taken_from_a_later_one_on(amount: int | float, first: int, taken: list[int]) -> None:
    found = take_episodes(episodes_of(*range(1, 11)), amount, first=first)
    assert found.seeds.tolist() == taken
    assert found.lengths.tolist() == [1 + each for each in taken]
    with pytest.raises(ValueError, match=r"asks for . episodes from dataset\.first_episode=\d+ on, but there are 10"):
        take_episodes(episodes_of(*[2] * 10), amount, first=first + 1 if isinstance(amount, float) else 10)


@pytest.mark.parametrize("amount", [0, -1, 11, 0.0, -0.5, 1.01])
def test_an_amount_of_zero_or_beyond_the_data_is_refused(amount: int | float) -> None:
    with pytest.raises(ValueError, match=r"dataset\.episodes asks for -?\d+ episodes, but there are 10 demonstrations"):
        take_episodes(episodes_of(*[2] * 10), amount)


def test_statistics_count_real_steps_only(two_episodes: Episodes) -> None:
    mean, std = observation_statistics(two_episodes)  # over [0, 0] [1, −1] [2, −2] and [10, 0] [11, −1]
    torch.testing.assert_close(mean, torch.tensor([24 / 5, -4 / 5]))
    torch.testing.assert_close(std, torch.tensor([(226 / 5 - 4.8**2) ** 0.5, (6 / 5 - 0.8**2) ** 0.5]))
    assert mean.dtype == std.dtype == torch.float32


def test_statistics_are_precise_far_from_zero_and_a_constant_has_deviation_one(two_episodes: Episodes) -> None:
    far = episodes_of(1000)
    far.observations[:] = 3e6 + far.observations % 2
    torch.testing.assert_close(observation_statistics(far), (torch.tensor([3e6 + 0.5]), torch.tensor([0.5])))
    two_episodes.observations[:, 1] = 3.0
    mean, std = observation_statistics(two_episodes)
    assert (mean[1], std[1]) == (3.0, 1.0)


@pytest.mark.parametrize("return_conditioned", [False, True])
def test_deviations_have_a_lower_bound(two_episodes: Episodes, return_conditioned: bool) -> None:
    as_is = observation_statistics(two_episodes, return_conditioned=return_conditioned)
    given = {"least_deviation": np.array([0.5, 1.5]), "return_conditioned": return_conditioned}
    mean, std = observation_statistics(two_episodes, **given)
    torch.testing.assert_close(mean, as_is[0])
    torch.testing.assert_close(std[[0, *range(2, len(std))]], as_is[1][[0, *range(2, len(std))]])
    assert as_is[1][1] < 1.5 == std[1]
    two_episodes.observations[:, 1] = 3.0
    assert observation_statistics(two_episodes, **given)[1][1] == 1.5


@pytest.mark.parametrize("context_length", [1, 2, 3, 8])
def test_deployed_windows_score_every_step_once_in_its_context(two_episodes: Episodes, context_length: int) -> None:
    batch = whole(windows_of(two_episodes, context_length, as_deployed=True))
    scored = [(batch["observations"][row, at, 0].item(), at) for row, at in batch["scored"].nonzero().tolist()]
    # with all its previous steps, up to K - 1
    assert sorted(scored) == [(seen, min(seen % 10, context_length - 1)) for seen in (0, 1, 2, 10, 11)]


@pytest.mark.parametrize("context_length", [1, 2, 3])
@pytest.mark.parametrize("longer", [0, 1, 2, 5, 50])
def test_long_deployed_windows_score_every_step_once_in_its_context(context_length: int, longer: int) -> None:
    lengths = (1, 2, 7, 11, 12, 13)
    windows = windows_of(episodes_of(*lengths), context_length, as_deployed=True, window_length=context_length + longer)
    batch = whole(windows)
    assert batch["mask"].shape == (len(windows), context_length + longer)
    assert (batch["mask"] | ~batch["scored"]).all()
    scored = [(batch["actions"][row, at].item(), at) for row, at in batch["scored"].nonzero().tolist()]
    assert sorted(action for action, _ in scored) == [100 * e + t for e, n in enumerate(lengths) for t in range(n)]
    assert all(at >= min(action % 100, context_length - 1) for action, at in scored)


def test_windows_at_a_step_have_the_full_available_context() -> None:
    episodes = episodes_of(2, 5, 4)
    which, observations, actions = windows_at(episodes, 3, action_space=MANY, context_length=3)
    assert which.tolist() == [1, 2]  # the others have ended
    assert observations[..., 0].tolist() == actions.tolist() == [[101, 102, 103], [201, 202, 203]]
    which, observations, actions = windows_at(episodes, 1, action_space=MANY, context_length=3)
    assert which.tolist() == [0, 1, 2]
    assert observations[..., 0].tolist() == actions.tolist() == [[0, 1], [100, 101], [200, 201]]


@pytest.mark.parametrize("step", [0, 3, 11])
def test_windows_at_a_step_reproduce_the_actions_of_the_rollout(step: int) -> None:
    model = large_random_model(recall())
    episodes = rollout(recall(), acting(model), np.arange(20))
    options = {"action_space": model.action_space, "context_length": model.context_length}
    _, observations, actions = windows_at(episodes, step, **options)
    with torch.inference_mode():
        assert torch.equal(model(observations, actions)[:, -1].argmax(dim=1), actions[:, -1])


@pytest.mark.parametrize("space", [MULTI, TENSOR], ids=str)
def test_windows_contain_actions_and_labels_in_model_units(space: spaces.Space[Any]) -> None:
    spec = echo(VECTOR, space)
    described = spec.action_space
    episodes = rollout(spec, RandomPolicy(described), np.arange(5))
    labels = episodes.actions[::-1].copy()
    dataset = WindowDataset(replace(episodes, extras={"step/label": labels}), action_space=described, context_length=3)
    batch, n = whole(dataset), len(dataset)
    assert batch["actions"].shape == batch["targets"].shape == (n, 3, described.dim)
    assert batch["actions"][0].tolist() == described.encode(episodes.actions[:3]).tolist()
    assert batch["targets"][0].tolist() == described.encode(labels[:3]).tolist()
    assert batch["actions"].min() >= (-1 if described.continuous else 0)
    assert batch["actions"].dtype == (torch.float32 if described.continuous else torch.int64)
    dataset.extend(episodes)  # without labels, the actions are the targets
    more = dataset.__getitems__(range(n, 2 * n))
    assert torch.equal(more["targets"], batch["actions"])
    assert torch.equal(more["actions"], batch["actions"])


def test_no_window_contains_hidden_quantities(two_episodes: Episodes) -> None:
    garbage = {"step/privileged": np.full((5, 3), np.nan, dtype=np.float32), "episode/gravity": np.full(2, np.nan)}
    other = replace(two_episodes, extras=garbage)
    assert_equal(whole(windows_of(other, context_length=2)), whole(windows_of(two_episodes, context_length=2)))
    for one, same in zip(observation_statistics(other), observation_statistics(two_episodes), strict=True):
        assert torch.equal(one, same)


def test_an_extended_data_set_equals_one_built_from_all_episodes_and_labels() -> None:
    dataset = windows_of(episodes_of(5, 2), context_length=3, stride=2)
    assert "targets" not in dataset[0]
    for more in (episodes_of(1, 4), episodes_of(6)):
        dataset.extend(replace(more, extras={"step/label": more.actions + 1000}))
    together = Episodes.concatenate([episodes_of(5, 2), episodes_of(1, 4), episodes_of(6)])
    labels = together.actions + 1000 * (np.arange(18) >= 7)
    expected = whole(windows_of(replace(together, extras={"step/label": labels}), context_length=3, stride=2))
    assert_equal(whole(dataset), expected)
    assert set((expected["targets"] - expected["actions"]).unique().tolist()) == {0, 1000}


# --- chunks of actions ---


def test_targets_of_a_chunk_may_be_after_the_window_but_not_after_the_episode() -> None:
    batch = whole(windows_of(episodes_of(4, 1), context_length=2, chunk=3))
    assert batch["actions"].tolist() == [[0, 1], [1, 2], [2, 3], [100, 100]]
    rows = zip(batch["targets"].flatten(0, 1), batch["target_mask"].flatten(0, 1), strict=True)
    assert [targets[mask].tolist() for targets, mask in rows] == [
        [0, 1, 2],
        [1, 2, 3],
        [1, 2, 3],
        [2, 3],
        [2, 3],
        [3],
        [100],
        [],
    ]
    assert batch["targets"].max() == 100  # whatever is masked is of the same episode


@pytest.mark.parametrize("context_length", [1, 2, 5])
@pytest.mark.parametrize("chunk", [2, 3, 9])
def test_every_step_of_a_chunk_is_the_label_of_its_step(context_length: int, chunk: int) -> None:
    episodes = episodes_of(3, 1, 7, 2)
    labeled = replace(episodes, extras={"step/label": episodes.actions + 1000})
    options = {"context_length": context_length, "as_deployed": True}
    batch, plain = (whole(windows_of(labeled, **options, **more)) for more in ({"chunk": chunk}, {}))
    first = batch["target_mask"][..., 0]
    assert torch.equal(first, plain["mask"])
    assert torch.equal(batch["targets"][..., 0][first], plain["targets"][first])
    for name in ("observations", "actions", "mask", "scored"):
        assert torch.equal(batch[name], plain[name])
    ahead = torch.arange(chunk)
    steps, lengths = batch["actions"][..., None] % 100, torch.from_numpy(episodes.lengths)[batch["actions"] // 100]
    assert torch.equal(batch["target_mask"], (steps + ahead < lengths[..., None]) & batch["mask"][..., None])
    expected = batch["actions"][..., None] + ahead + 1000
    assert torch.equal(batch["targets"][batch["target_mask"]], expected[batch["target_mask"]])


def test_a_chunk_of_one_action_changes_no_batch(two_episodes: Episodes) -> None:
    one, plain = (whole(windows_of(two_episodes, context_length=2, **more)) for more in ({"chunk": 1}, {}))
    assert_equal(one, plain)


def test_an_extended_data_set_has_chunks_of_old_and_new_episodes() -> None:
    dataset = windows_of(episodes_of(5, 2), context_length=3, chunk=2)
    dataset.extend(replace(episodes_of(1, 4), extras={"step/label": episodes_of(1, 4).actions + 1000}))
    together = Episodes.concatenate([episodes_of(5, 2), episodes_of(1, 4)])
    labels = together.actions + 1000 * (np.arange(12) >= 7)
    labeled = replace(together, extras={"step/label": labels})
    assert_equal(whole(dataset), whole(windows_of(labeled, context_length=3, chunk=2)))


def test_chunks_of_vectors_of_numbers() -> None:
    spec = echo(VECTOR, TENSOR)
    episodes = rollout(spec, RandomPolicy(spec.action_space), np.arange(2))
    batch = whole(WindowDataset(episodes, action_space=spec.action_space, context_length=2, chunk=3))
    encoded = torch.from_numpy(spec.action_space.encode(episodes.actions))
    assert batch["targets"].shape == (len(batch["mask"]), 2, 3, 6)
    assert torch.equal(batch["targets"][0, 1], encoded[1:4])
