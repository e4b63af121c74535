"""Environments of Gymnasium in which the seed alone would not determine the episode."""

import numpy as np
import pytest

from tests.envs.test_physics import bare, run


@pytest.mark.parametrize("id", ["BipedalWalker-v3"])
def test_an_episode_does_not_depend_on_earlier_ones(id: str) -> None:
    used = bare(id)
    for seed in (9, 3, 8):
        fresh = bare(id)
        np.testing.assert_array_equal(run(used, seed, 300), run(fresh, seed, 300))
