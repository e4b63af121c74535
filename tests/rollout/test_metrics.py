"""Statistics and rates over a set of episodes."""

from dataclasses import replace

import numpy as np
import pytest

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.rollout.metrics import episode_metrics


def test_metrics_of_two_episodes(two_episodes: Episodes, lander: EnvSpec) -> None:
    assert episode_metrics(two_episodes, replace(lander, success_return=5.0)) == pytest.approx(
        {
            "return_mean": -42.0,  # of 6 and −90
            "return_std": 96 / 2**0.5,
            "return_median": -42.0,
            "return_p05": -90 + 0.05 * 96,
            "success_rate": 0.5,
            "crash_rate": 0.5,
            "truncation_rate": 0.5,
            "length_mean": 2.5,
        }
    )


@pytest.mark.parametrize(("success_return", "rate"), [(-90.0, 1.0), (6.0, 0.5), (6.001, 0.0)])
def test_a_return_of_exactly_the_threshold_is_a_success(
    two_episodes: Episodes, lander: EnvSpec, success_return: float, rate: float
) -> None:
    assert episode_metrics(two_episodes, replace(lander, success_return=success_return))["success_rate"] == rate


def test_a_crash_is_a_terminated_episode_with_the_crash_reward_last(two_episodes: Episodes, lander: EnvSpec) -> None:
    crashes = {crash: episode_metrics(two_episodes, replace(lander, crash_reward=crash)) for crash in (-100.0, 10.0)}
    assert {crash: metrics["crash_rate"] for crash, metrics in crashes.items()} == {-100.0: 0.5, 10.0: 0.0}


def test_a_truncated_episode_is_not_a_crash(two_episodes: Episodes, lander: EnvSpec) -> None:
    swapped = replace(two_episodes, terminated=two_episodes.truncated, truncated=two_episodes.terminated)
    assert episode_metrics(swapped, lander)["crash_rate"] == 0.0


def test_a_rate_is_none_where_it_means_nothing(two_episodes: Episodes, lander: EnvSpec) -> None:
    metrics = episode_metrics(two_episodes, replace(lander, success_return=None, crash_reward=None))
    assert (metrics["success_rate"], metrics["crash_rate"]) == (None, None)


def test_one_episode_does_not_spread(two_episodes: Episodes, lander: EnvSpec) -> None:
    metrics = episode_metrics(two_episodes.select(np.array([0])), lander)
    assert (metrics["return_mean"], metrics["return_std"], metrics["return_p05"]) == (6.0, 0.0, 6.0)


def test_metrics_are_plain_numbers_that_json_can_hold(two_episodes: Episodes, lander: EnvSpec) -> None:
    assert {type(value) for value in episode_metrics(two_episodes, lander).values()} == {float}
