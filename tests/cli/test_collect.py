"""Filters over demonstrations."""

import numpy as np

from ilt.cli.collect import filter_episodes
from ilt.data.episodes import Episodes


def test_without_filters_everything_is_kept(two_episodes: Episodes) -> None:
    kept, dropped = filter_episodes(two_episodes, min_return=None, drop_truncated=False)
    assert kept.seeds.tolist() == [7, 8]
    assert dropped == {"min_return": 0, "drop_truncated": 0}


def test_an_episode_below_the_least_return_is_dropped_and_counted(two_episodes: Episodes) -> None:
    kept, dropped = filter_episodes(two_episodes, min_return=6.0, drop_truncated=False)  # returns are 6 and -90
    assert kept.seeds.tolist() == [7]
    assert np.array_equal(kept.actions, [0, 1, 2])
    assert dropped == {"min_return": 1, "drop_truncated": 0}


def test_each_filter_counts_what_it_would_drop_alone(two_episodes: Episodes) -> None:
    kept, dropped = filter_episodes(two_episodes, min_return=7.0, drop_truncated=True)
    assert len(kept) == 0
    assert dropped == {"min_return": 2, "drop_truncated": 1}
