from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from ilt.analysis.attention_maps import attention_maps, attention_rows, maps_in_words, maps_of_rows, middle_episode
from ilt.data.episodes import Episodes
from ilt.models.decoder import Decoder
from ilt.models.heads import Categorical
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.run import rollout
from tests.toys import recall


def random_model(context_length: int) -> Decoder:
    torch.manual_seed(0)
    sizes = {"observation_dim": 1, "n_outputs": 2, "n_layer": 2, "n_head": 2, "d_model": 8}
    return Decoder(action_space=recall().action_space, context_length=context_length, **sizes).eval()


def act(model: Decoder, seeds: Sequence[int]) -> Episodes:
    return rollout(recall(), SequencePolicy(model, Categorical(action_space=model.action_space)), seeds)


def test_the_chosen_episode_has_the_median_return() -> None:
    episodes = act(random_model(5), range(5))
    rewards = np.zeros_like(episodes.rewards)
    rewards[episodes.step_offsets] = [3.0, -1.0, 9.0, 4.0, 5.0]
    assert middle_episode(replace(episodes, rewards=rewards)) == 3


def test_maps_are_of_the_first_full_window_half_way_and_the_last_action() -> None:
    model = random_model(5)
    maps = attention_maps(model, act(model, range(3)), 1, context_length=5)
    assert list(maps) == ["first full window (step 4)", "half-way (step 6)", "last action (step 11)"]
    for weights in maps.values():
        assert weights.shape == (2, 2, 9)
        np.testing.assert_allclose(weights.sum(axis=2), 1.0, atol=1e-5)


def test_a_short_episode_has_shorter_windows() -> None:
    model = random_model(20)
    maps = attention_maps(model, act(model, [7]), 0, context_length=20)
    assert [weights.shape[2] for weights in maps.values()] == [13, 23]  # the window never fills up before the end


@pytest.mark.parametrize("tokens_per_step", [1, 2, 3])
def test_maps_survive_a_round_trip_through_rows(tokens_per_step: int) -> None:
    maps = {"early": np.random.default_rng(0).random((2, 3, 5)), "late": np.ones((2, 3, 2 * tokens_per_step))}
    rows = attention_rows(maps, tokens_per_step=tokens_per_step)
    found, tokens = maps_of_rows([{name: str(value) for name, value in row.items()} for row in rows])
    assert tokens == tokens_per_step
    assert list(found) == list(maps)
    assert all(np.array_equal(found[moment], maps[moment]) for moment in maps)


@pytest.mark.parametrize(("tokens_per_step", "steps"), [(1, "2.0"), (2, "1.0")])
def test_maps_are_described_in_words(tokens_per_step: int, steps: str) -> None:
    weights = np.array([[[0.5, 0.0, 0.0, 0.0, 0.5]], [[0.0, 0.0, 1.0, 0.0, 0.0]]])
    assert maps_in_words({"half-way (step 9)": weights}, tokens_per_step=tokens_per_step) == (
        f"Half-way (step 9): layer 1 looks back {steps} steps on average, with 50 % of its weight on the present "
        f"state; layer 2 looks back {steps} steps on average, with 0 % of its weight on the present state."
    )
