"""Policies."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.utils.seeding import np_random
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ilt.envs import EnvSpec
from ilt.rollouts import ContextPolicy, ExpertPolicy, FunctionPolicy, Policy, RandomPolicy, rollout
from ilt.rollouts.policies import sample
from tests.toys import countdown, recall


class Fixed(nn.Module):
    """The same logits for every observation."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, observations: Tensor) -> Tensor:
        return self.logits.expand(len(observations), -1)


class Probe(nn.Module):
    """Keeps what it is shown; its action at a step is that step's first coordinate modulo 4."""

    def __init__(self, context_length: int) -> None:
        super().__init__()
        self.context_length = context_length
        self.weight = nn.Parameter(torch.zeros(1))
        self.drop = nn.Dropout(0.5)
        self.windows: list[list[list[float]]] = []
        self.actions: list[list[list[int]]] = []
        self.modes: list[bool] = []

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        self.windows.append(observations[..., 0].tolist())
        self.actions.append(actions.tolist())
        self.modes.append(self.training or self.drop.training)
        return self.drop(one_hot(observations[..., 0].long() % 4, 4).float())


class Causal(nn.Module):
    """Its action at a step depends on every observation and every past action of the window, and on their order."""

    def __init__(self, context_length: int) -> None:
        super().__init__()
        self.context_length = context_length
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        order = torch.arange(1, observations.shape[1] + 1)
        seen = (observations[..., 0].long() * order).cumsum(dim=1)
        past = (actions * (order + 1)).cumsum(dim=1) - actions * (order + 1)
        return one_hot((seen + past + order) % 3 % 2, 2).float()

    @staticmethod
    def action(observations: list[int], past: list[int]) -> int:
        """The same for the last step of one window, in plain numbers."""
        seen = sum(o * i for i, o in enumerate(observations, start=1))
        return (seen + sum(a * i for i, a in enumerate(past, start=2)) + len(observations)) % 3 % 2


def act(policy: ContextPolicy, observations: dict[int, float]) -> list[int]:
    """Act in some slots, whose observations are given by slot."""
    return policy.act(
        np.array([*observations]), np.array([[value] for value in observations.values()], np.float32)
    ).tolist()


def begin(policy: Policy, *slots: int) -> None:
    policy.begin(np.array(slots), np.array(slots) + 100)


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


def test_a_window_grows_from_the_true_start_and_then_slides() -> None:
    model = Probe(context_length=3)
    policy = ContextPolicy(model)
    begin(policy, 0)
    assert [act(policy, {0: t}) for t in (5, 6, 7, 8, 9)] == [[1], [2], [3], [0], [1]]
    assert model.windows == [[[5]], [[5, 6]], [[5, 6, 7]], [[6, 7, 8]], [[7, 8, 9]]]
    assert [rows[0][:-1] for rows in model.actions] == [[], [1], [1, 2], [2, 3], [3, 0]]


def test_nothing_of_an_ended_episode_is_left_in_its_slot() -> None:
    model = Probe(context_length=3)
    policy = ContextPolicy(model)
    begin(policy, 0)
    for t in range(5):
        act(policy, {0: t})
    begin(policy, 0)
    assert [act(policy, {0: t}) for t in (11, 12)] == [[3], [0]]
    assert model.windows[5:] == [[[11]], [[11, 12]]]
    assert model.actions[6][0][0] == 3


def test_slots_of_different_age_each_act_on_their_own_newest_observation() -> None:
    model = Probe(context_length=3)
    policy = ContextPolicy(model)
    begin(policy, 0, 1)
    act(policy, {0: 1, 1: 20})
    act(policy, {0: 2, 1: 21})
    begin(policy, 1)
    assert act(policy, {0: 3, 1: 30}) == [3, 2]
    assert model.windows[2][0] == [1, 2, 3]
    assert model.windows[2][1][0] == 30
    assert act(policy, {1: 31, 0: 4}) == [3, 0]
    assert [row[:2] for row in model.windows[3]] == [[30, 31], [2, 3]]
    assert [row[:1] for row in model.actions[3]] == [[2], [2]]


def test_slots_may_begin_late_and_rest() -> None:
    model = Probe(context_length=2)
    policy = ContextPolicy(model)
    begin(policy, 1)
    act(policy, {1: 5})
    begin(policy, 4)
    act(policy, {4: 8})
    assert act(policy, {4: 9, 1: 6}) == [1, 2]
    assert model.windows[2] == [[8, 9], [5, 6]]
    assert [row[0] for row in model.actions[2]] == [0, 1]


def test_it_may_look_at_less_than_the_model_was_built_for() -> None:
    model = Probe(context_length=8)
    policy = ContextPolicy(model, context_length=2)
    begin(policy, 0)
    for t in range(4):
        act(policy, {0: t})
    assert model.windows == [[[0]], [[0, 1]], [[1, 2]], [[2, 3]]]


@pytest.mark.parametrize("context_length", [1, 4, 20])
@pytest.mark.parametrize("n_envs", [1, 5])
def test_flying_is_one_pass_over_the_windows_of_the_recorded_episode(context_length: int, n_envs: int) -> None:
    episodes = rollout(recall(), ContextPolicy(Causal(context_length)), np.arange(12), n_envs=n_envs)
    for e in range(12):
        one = episodes.select(np.array([e]))
        bits, actions = one.observations[:, 0].astype(int).tolist(), one.actions.tolist()
        for t, action in enumerate(actions):
            start = max(0, t + 1 - context_length)
            assert action == Causal.action(bits[start : t + 1], actions[start:t])


def test_one_policy_can_fly_twice() -> None:
    policy = ContextPolicy(Causal(4))
    first, second = (rollout(recall(), policy, np.arange(12), n_envs=n) for n in (3, 12))
    assert np.array_equal(first.actions, second.actions)


def test_a_sampled_student_is_decided_by_the_seed_alone() -> None:
    policy = ContextPolicy(Causal(4), deterministic=False)
    reference = rollout(recall(), policy, np.arange(12))
    shuffled = rollout(recall(), policy, np.arange(12)[::-1], n_envs=5)
    assert np.array_equal(shuffled.select(np.arange(12)[::-1]).actions, reference.actions)
    assert not np.array_equal(reference.actions, rollout(recall(), ContextPolicy(Causal(4)), np.arange(12)).actions)


@pytest.mark.parametrize("context_length", [0, -1, 4])
def test_a_context_length_out_of_range_is_refused(context_length: int) -> None:
    with pytest.raises(ValueError, match=f"context_length must be from 1 to the model's 3, got {context_length}"):
        ContextPolicy(Probe(3), context_length=context_length)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_acts_in_evaluation_mode_and_is_put_back_into_its_own(training: bool) -> None:
    model = Probe(context_length=3).train(training)
    policy = ContextPolicy(model)
    begin(policy, 0)
    act(policy, {0: 1})
    assert model.modes == [False]
    assert (model.training, model.drop.training) == (training, training)


def test_acting_leaves_no_graph_behind(lander: EnvSpec) -> None:
    policy = ContextPolicy(Probe(3))
    begin(policy, 0)
    assert not policy.logits(np.array([0]), np.zeros((1, 8), np.float32)).requires_grad


def test_a_context_policy_flies_the_lander(lander: EnvSpec) -> None:
    short = replace(lander, kwargs={"max_episode_steps": 20})
    assert rollout(short, ContextPolicy(Probe(5)), np.arange(3)).lengths.tolist() == [20, 20, 20]
