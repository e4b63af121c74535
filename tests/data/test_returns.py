"""Returns-to-go in windows: what they are, and that a cut changes none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ilt.data.episodes import Episodes
from ilt.data.returns import keep_returns_to_go, returns_to_go, seen_by_model
from ilt.data.windows import WindowDataset, observation_statistics, windows_at
from ilt.envs.actions import ActionSpace

FOUR = ActionSpace(n_choices=(4,), start=(0,))
TO_GO = [6.0, 5.0, 3.0, -90.0, -100.0]  # rewards are 1, 2, 3 and 10, −100


def windows_of(episodes: Episodes, **options: Any) -> WindowDataset:
    return WindowDataset(
        episodes, action_space=FOUR, context_length=2, **{"tokens": "returns_states_actions", **options}
    )


def test_the_return_to_go_is_what_the_episode_earns_from_the_step_on(two_episodes: Episodes) -> None:
    assert returns_to_go(two_episodes).tolist() == TO_GO


def test_of_a_target_return_is_left_what_was_not_earned_before_the_step(two_episodes: Episodes) -> None:
    assert returns_to_go(two_episodes, target_return=50.0).tolist() == [50.0, 49.0, 47.0, 50.0, 40.0]


def test_long_recordings_lose_no_precision() -> None:
    n, rng = 2000, np.random.default_rng(0)
    rewards = rng.normal(1000.0, 1.0, 100 * n)
    episodes = Episodes(
        observations=np.zeros((101 * n, 1), np.float32), actions=np.zeros(100 * n, np.int64), rewards=rewards,
        lengths=np.full(n, 100), terminated=np.ones(n, bool), truncated=np.zeros(n, bool), seeds=np.arange(n),
    )  # fmt: skip
    exact = np.flip(np.cumsum(np.flip(rewards.reshape(n, 100), axis=1), axis=1), axis=1)
    np.testing.assert_allclose(returns_to_go(episodes), exact.ravel(), atol=1e-5)


def test_a_window_has_the_return_to_go_as_the_last_number_of_each_observation(two_episodes: Episodes) -> None:
    batch = windows_of(two_episodes).__getitems__([0, 1, 2])
    assert batch["observations"].tolist() == [
        [[0, 0, 6], [1, -1, 5]],
        [[1, -1, 5], [2, -2, 3]],
        [[10, 0, -90], [11, -1, -100]],
    ]
    assert batch["observations"].dtype == torch.float32
    without = windows_of(two_episodes, tokens="states_actions").__getitems__([0, 1, 2])
    assert torch.equal(without["observations"], batch["observations"][..., :-1])
    assert torch.equal(without["actions"], batch["actions"])


def test_data_that_grow_have_returns_too(two_episodes: Episodes) -> None:
    grown = windows_of(two_episodes)
    grown.extend(two_episodes)
    assert grown[3]["observations"].tolist() == grown[0]["observations"].tolist() == [[0, 0, 6], [1, -1, 5]]


def test_an_episode_that_is_cut_short_keeps_its_returns_to_go(two_episodes: Episodes) -> None:
    cut = two_episodes.first_steps(2)
    assert returns_to_go(cut).tolist() == [3.0, 2.0]
    kept = keep_returns_to_go(two_episodes).first_steps(2)
    assert returns_to_go(kept).tolist() == TO_GO[:2]
    assert windows_of(kept)[0]["observations"][:, -1].tolist() == TO_GO[:2]


def test_statistics_include_the_returns_to_go(two_episodes: Episodes) -> None:
    mean, std = observation_statistics(two_episodes, return_conditioned=True)
    plain_mean, plain_std = observation_statistics(two_episodes)
    torch.testing.assert_close(mean, torch.cat([plain_mean, torch.tensor([np.mean(TO_GO)]).float()]))
    torch.testing.assert_close(std, torch.cat([plain_std, torch.tensor([np.std(TO_GO)]).float()]))


def test_windows_of_a_rollout_count_down_from_its_target(two_episodes: Episodes) -> None:
    options = {"action_space": FOUR, "context_length": 2, "target_return": 50.0}
    _, observations, _ = windows_at(two_episodes, 1, **options)
    assert observations[..., -1].tolist() == [[50, 49], [50, 40]]


@pytest.mark.parametrize("return_conditioned", [False, True])
def test_nothing_depends_on_what_follows_the_last_action(two_episodes: Episodes, return_conditioned: bool) -> None:
    seen = seen_by_model(two_episodes, return_conditioned=return_conditioned)
    assert seen.shape == (7, 2 + return_conditioned)
    assert seen.dtype == np.float32
    if return_conditioned:
        assert seen[[3, 6], -1].tolist() == [0, 0]
        relabeled = replace(two_episodes, extras={"step/return_to_go": np.arange(5)})
        assert seen_by_model(relabeled, return_conditioned=True)[:, -1].tolist() == [0, 1, 2, 0, 3, 4, 0]
