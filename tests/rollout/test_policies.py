"""Policies that look at the present observation alone, and how actions are drawn."""

import numpy as np
import pytest
import torch
from gymnasium.utils.seeding import np_random
from torch import Tensor, nn

from ilt.envs.spec import EnvSpec
from ilt.rollout.policies import ExpertPolicy, FunctionPolicy, Policy, RandomPolicy, sample
from ilt.rollout.run import rollout
from tests.toys import countdown, recall


class Fixed(nn.Module):
    """The same logits for every observation."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, observations: Tensor) -> Tensor:
        return self.logits.expand(len(observations), -1)


@pytest.mark.parametrize(
    ("uniform", "action"), [(0.0, 0), (0.2499, 0), (0.25, 1), (0.4999, 1), (0.5, 3), (0.75, 3), (0.9999, 3)]
)
def test_sample_inverts_the_cumulative_distribution(uniform: float, action: int) -> None:
    assert sample(np.array([[0.25, 0.25, 0.0, 0.5]]), np.array([uniform])).tolist() == [action]


def test_an_impossible_first_action_is_never_sampled() -> None:
    assert sample(np.array([[0.0, 1.0]]), np.array([0.0])).tolist() == [1]


def test_sample_stays_in_range_where_probabilities_add_up_to_less_than_one() -> None:
    assert sample(np.array([[0.5, 0.4999]]), np.array([0.99999])).tolist() == [1]


def test_each_row_is_sampled_by_its_own_number() -> None:
    actions = sample(np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]), np.array([0.1, 0.9, 0.9]))
    assert actions.tolist() == [0, 1, 0]
    assert actions.dtype == np.int64


@pytest.mark.parametrize("policy", [RandomPolicy(2), ExpertPolicy(Fixed(0.0, 1.0), deterministic=False)])
def test_what_a_drawing_policy_does_is_decided_by_the_seed_alone(policy: Policy) -> None:
    seeds = np.arange(2000, 2030)
    order = np.random.default_rng(0).permutation(30)
    reference = rollout(recall(), policy, seeds, n_envs=30)
    shuffled = rollout(recall(), policy, seeds[order], n_envs=7)
    assert np.array_equal(shuffled.actions, reference.select(order).actions)
    assert np.array_equal(rollout(recall(), policy, seeds[4:5]).actions, reference.select(np.array([4])).actions)


@pytest.mark.parametrize("policy", [RandomPolicy(4), ExpertPolicy(Fixed(0.0, 1.0, 1.0, 0.0), deterministic=False)])
def test_a_drawing_policy_repeats_its_flights(lander: EnvSpec, policy: Policy) -> None:
    first, second = (rollout(lander, policy, np.arange(4), n_envs=n) for n in (4, 2))
    assert np.array_equal(first.actions, second.actions)
    assert np.array_equal(first.observations, second.observations)


def test_different_seeds_draw_different_actions() -> None:
    actions = rollout(recall(), RandomPolicy(2), np.arange(20)).actions.reshape(20, 12)
    assert len(np.unique(actions, axis=0)) == 20


def test_every_action_of_the_random_policy_is_equally_likely() -> None:
    actions = rollout(recall(), RandomPolicy(2), np.arange(1000)).actions
    assert np.bincount(actions) / len(actions) == pytest.approx([0.5, 0.5], abs=0.02)


def test_the_random_policy_uses_all_actions_and_no_others() -> None:
    assert np.unique(rollout(countdown(), RandomPolicy(3), np.arange(50)).actions).tolist() == [0, 1, 2]


def test_a_sampled_expert_follows_its_probabilities() -> None:
    policy = ExpertPolicy(Fixed(0.0, float(np.log(3.0))), deterministic=False)
    assert rollout(recall(), policy, np.arange(1000)).actions.mean() == pytest.approx(0.75, abs=0.02)


def test_a_deterministic_expert_takes_its_most_likely_action() -> None:
    policy = ExpertPolicy(Fixed(0.0, 0.2, 0.1), deterministic=True)
    assert rollout(countdown(), policy, np.arange(5)).actions.tolist() == [1] * 12


def test_a_policy_draws_other_numbers_than_the_env_of_the_same_seed() -> None:
    actions = rollout(recall(), RandomPolicy(2), np.arange(100)).actions.reshape(100, 12)
    of_the_env = np.array([np_random(seed)[0].random(12) * 2 for seed in range(100)]).astype(np.int64)
    assert np.mean(actions == of_the_env) == pytest.approx(0.5, abs=0.05)


def test_a_function_flies() -> None:
    policy = FunctionPolicy(lambda observations: observations[:, 0].astype(np.int64) % 3)
    assert rollout(countdown(), policy, [4]).actions.tolist() == [2, 1, 0]
