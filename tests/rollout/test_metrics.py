"""Statistics and rates over a set of episodes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.rollout.metrics import episode_metrics


def test_metrics_of_two_episodes(two_episodes: Episodes, lander: EnvSpec) -> None:
    metrics = episode_metrics(two_episodes, replace(lander, success_return=5.0))
    assert {type(value) for value in metrics.values()} == {float}  # JSON cannot store NumPy scalars
    assert metrics == pytest.approx(
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


@pytest.mark.parametrize(
    ("changes", "name", "rate"),
    [
        ({"success_return": -90.0}, "success_rate", 1.0),
        ({"success_return": 6.0}, "success_rate", 0.5),  # a return of exactly the threshold is a success
        ({"success_return": 6.001}, "success_rate", 0.0),
        ({"success_return": None}, "success_rate", None),
        ({"crash_reward": 10.0}, "crash_rate", 0.0),  # not the last reward of its episode
        ({"crash_reward": None}, "crash_rate", None),
    ],
)
def test_rates_follow_the_environments_thresholds(
    two_episodes: Episodes, lander: EnvSpec, changes: dict[str, Any], name: str, rate: float | None
) -> None:
    assert episode_metrics(two_episodes, replace(lander, **changes))[name] == rate


def test_a_truncated_episode_is_not_a_crash(two_episodes: Episodes, lander: EnvSpec) -> None:
    swapped = replace(two_episodes, terminated=two_episodes.truncated, truncated=two_episodes.terminated)
    assert episode_metrics(swapped, lander)["crash_rate"] == 0.0


def test_a_single_episode_has_zero_spread(two_episodes: Episodes, lander: EnvSpec) -> None:
    metrics = episode_metrics(two_episodes.select(np.array([0])), lander)
    assert (metrics["return_mean"], metrics["return_std"], metrics["return_p05"]) == (6.0, 0.0, 6.0)
