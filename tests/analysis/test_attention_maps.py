"""Which moments of which episode are looked at, and what is said of them."""

from dataclasses import replace

import numpy as np
import pytest

from ilt.analysis.attention_maps import attention_maps, maps_in_words, middle_episode
from ilt.rollout.run import rollout
from ilt.rollout.sequence_policy import SequencePolicy
from tests.rollout.test_sequence_policy import large_random_model
from tests.toys import recall


def test_the_episode_is_neither_the_best_nor_the_worst() -> None:
    episodes = rollout(recall(), SequencePolicy(large_random_model(recall())), np.arange(5))
    rewards = np.zeros_like(episodes.rewards)
    rewards[episodes.step_offsets] = [3.0, -1.0, 9.0, 4.0, 5.0]
    assert middle_episode(replace(episodes, rewards=rewards)) == 3


def test_moments_are_a_full_window_half_way_and_the_last_action() -> None:
    model = large_random_model(recall())
    episodes = rollout(recall(), SequencePolicy(model), np.arange(3))
    maps = attention_maps(model, episodes, 1, context_length=5)
    assert list(maps) == ["first full window (step 4)", "half-way (step 6)", "last action (step 11)"]
    for weights in maps.values():
        assert weights.shape == (2, 2, 9)
        np.testing.assert_allclose(weights.sum(axis=2), 1.0, atol=1e-5)


def test_a_short_episode_has_shorter_windows() -> None:
    model = large_random_model(recall(), context_length=20)
    maps = attention_maps(model, rollout(recall(), SequencePolicy(model), [7]), 0, context_length=20)
    assert [weights.shape[2] for weights in maps.values()] == [13, 23]  # the window is never full before the end


@pytest.mark.parametrize(("tokens_per_step", "steps"), [(1, "2.0"), (2, "1.0")])
def test_maps_in_words(tokens_per_step: int, steps: str) -> None:
    weights = np.array([[[0.5, 0.0, 0.0, 0.0, 0.5]], [[0.0, 0.0, 1.0, 0.0, 0.0]]])
    assert maps_in_words({"half-way (step 9)": weights}, tokens_per_step=tokens_per_step) == (
        f"Half-way (step 9): layer 1 looks back {steps} steps on average, with 50 % of its weight on the present "
        f"state; layer 2 looks back {steps} steps on average, with 0 % of its weight on the present state."
    )
