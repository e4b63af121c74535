"""Policies without memory, the sampling of actions, and `predict`."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.models.heads import Categorical
from ilt.rollout.policies import FunctionPolicy, NetworkPolicy, Policy, RandomPolicy, SequencePolicy
from ilt.rollout.run import rollout
from tests.rollout.test_sequence_policy import acting, large_random_model
from tests.toys import HIDING, MULTI, TENSOR, VECTOR, countdown, echo, recall


def discrete(n: int) -> ActionSpace:
    return ActionSpace(n_choices=(n,), start=(0,))


def fixed(*logits: float, deterministic: bool = False) -> NetworkPolicy:
    """Return a policy with the same logits for every observation."""
    space, row = discrete(len(logits)), np.array(logits, np.float32)

    def network(observations: np.ndarray) -> np.ndarray:
        return np.tile(row, (len(observations), 1))

    return NetworkPolicy(network, Categorical(action_space=space), space, deterministic=deterministic)


@pytest.mark.parametrize("policy", [RandomPolicy(discrete(2)), fixed(0.0, 1.0)])
def test_a_stochastic_policy_depends_only_on_the_seed(policy: Policy) -> None:
    seeds = np.arange(2000, 2030)
    order = np.random.default_rng(0).permutation(30)
    reference = rollout(recall(), policy, seeds, n_envs=30)
    shuffled = rollout(recall(), policy, seeds[order], n_envs=7)
    assert np.array_equal(shuffled.actions, reference.select(order).actions)
    assert np.array_equal(rollout(recall(), policy, seeds[4:5]).actions, reference.select(np.array([4])).actions)


def test_the_random_policy_is_uniform_and_differs_between_episodes() -> None:
    actions = rollout(countdown(), RandomPolicy(discrete(3)), np.arange(1000)).actions
    assert np.bincount(actions) / len(actions) == pytest.approx([1 / 3] * 3, abs=0.03)
    actions = rollout(recall(), RandomPolicy(discrete(2)), np.arange(20)).actions.reshape(20, 12)
    assert len(np.unique(actions, axis=0)) == 20


def test_a_sampled_expert_follows_its_probabilities() -> None:
    policy = fixed(0.0, float(np.log(3.0)))
    assert rollout(recall(), policy, np.arange(1000)).actions.mean() == pytest.approx(0.75, abs=0.02)


def test_a_deterministic_expert_takes_its_most_likely_action() -> None:
    policy = fixed(0.0, 0.2, 0.1, deterministic=True)
    assert rollout(countdown(), policy, np.arange(5)).actions.tolist() == [1] * 12


def test_a_policy_and_an_env_with_the_same_seed_draw_different_numbers() -> None:
    actions = rollout(recall(), RandomPolicy(discrete(2)), np.arange(100)).actions.reshape(100, 12)
    of_the_env = np.array([np_random(seed)[0].random(12) * 2 for seed in range(100)]).astype(np.int64)
    assert np.mean(actions == of_the_env) == pytest.approx(0.5, abs=0.05)


def test_a_function_is_a_policy() -> None:
    policy = FunctionPolicy(lambda observations: observations[:, 0].astype(np.int64) % 3, discrete(3))
    assert rollout(countdown(), policy, [4]).actions.tolist() == [2, 1, 0]


# --- `predict` as in Stable-Baselines3 ---


def student(spec: EnvSpec, *, deterministic: bool = True) -> SequencePolicy:
    policy = acting(large_random_model(spec), deterministic=deterministic)
    policy.flatten = spec.observations.flatten
    return policy


def predicted(policy: Policy, observations: np.ndarray) -> list[Any]:
    """Return the actions of one episode with these observations."""
    actions, state = [], None
    for observation in observations:
        action, state = policy.predict(observation, state)
        actions.append(np.asarray(action).tolist())
    return actions


@pytest.mark.parametrize("actions", [spaces.Discrete(3, start=2), MULTI, TENSOR], ids=str)
def test_predict_acts_like_a_rollout(actions: spaces.Space[Any]) -> None:
    spec = echo(HIDING, actions)
    policy, env = student(spec), spec.make()
    recorded = rollout(spec, student(spec), [7])
    observation, _ = env.reset(seed=7)
    state, done, taken = None, False, []
    while not done:
        action, state = policy.predict(observation, state, deterministic=True)
        assert actions.contains(action)
        taken.append(np.ravel(action).tolist())
        observation, _, done, _, _ = env.step(action)
    assert taken == recorded.actions.reshape(len(taken), -1).tolist()


def test_vectorized_predict_keeps_one_memory_per_env_and_honors_episode_start() -> None:
    policy, state, starts, together = student(recall()), None, np.ones(3, bool), []
    seen = np.random.default_rng(0).integers(0, 2, (3, 20, 1)).astype(np.float32)
    for t in range(20):
        actions, state = policy.predict(seen[:, t], state, episode_start=starts)
        together.append(actions)
        starts = np.array([False, t == 7, False])
    alone = [predicted(policy, one) for one in seen]
    alone[1] = predicted(policy, seen[1, :8]) + predicted(policy, seen[1, 8:])
    assert np.array(together).T.tolist() == alone


def test_predict_samples_as_asked_and_leaves_the_policy_stateless() -> None:
    spec, policy = recall(), student(recall(), deterministic=False)
    seen = np.zeros((300, 5, 1), np.float32)
    sampled, _ = policy.predict(seen[:, 0])
    again, _ = policy.predict(seen[:, 0], deterministic=False)
    likely, _ = policy.predict(seen[:, 0], deterministic=True)
    assert sampled.tolist() == again.tolist()
    assert len(set(sampled.tolist())) == 2
    assert len(set(likely.tolist())) == 1
    before = rollout(spec, policy, np.arange(5)).actions
    policy.predict(seen[:, 0])
    assert np.array_equal(rollout(spec, policy, np.arange(5)).actions, before)


def test_predict_must_be_told_the_rewards_of_a_return_conditioned_policy() -> None:
    spec = recall()
    policy = acting(large_random_model(spec, return_conditioned=True))
    recorded = rollout(spec, policy, [7])
    start, length = 0, int(recorded.lengths[0])
    state, reward, taken = None, None, []
    for t in range(start, length):
        action, state = policy.predict(recorded.observations[t], state, reward=reward)
        taken.append(int(action))
        reward = recorded.rewards[t]
    assert taken == recorded.actions.tolist()
    with pytest.raises(ValueError, match="predict needs `reward`, what the last action earned"):
        policy.predict(recorded.observations[1], state)
    again, _ = policy.predict(recorded.observations[0], state, episode_start=True)  # nothing was earned yet
    assert int(again) == taken[0]


def test_vectorized_predict_takes_one_reward_per_env() -> None:
    policy = acting(large_random_model(recall(), return_conditioned=True))
    recorded = rollout(recall(), policy, [3, 4])
    observations, rewards = recorded.observations.reshape(2, 13, 1), recorded.rewards.reshape(2, 12)
    state, taken = None, []
    for t in range(12):
        actions, state = policy.predict(observations[:, t], state, reward=rewards[:, t - 1])
        taken.append(actions)
    assert np.array(taken).T.ravel().tolist() == recorded.actions.tolist()


@pytest.mark.parametrize("spec", [echo(spaces.Dict({"a": VECTOR, "b": VECTOR}), MULTI), recall()], ids=lambda s: s.id)
def test_stable_baselines3_can_evaluate_a_student(spec: EnvSpec) -> None:
    def make() -> gym.Env[Any, Any]:
        return gym.make(spec.id, **spec.kwargs)

    vector = make_vec_env(make, n_envs=2, seed=2000)
    returns, lengths = evaluate_policy(student(spec), vector, n_eval_episodes=2, return_episode_rewards=True)  # type: ignore[arg-type]
    recorded = rollout(spec, student(spec), [2000, 2001])
    assert sorted(lengths) == sorted(recorded.lengths.tolist())  # SB3 orders episodes by when they end
    assert sorted(returns) == pytest.approx(sorted(recorded.returns.tolist()), rel=1e-5)
    vector.close()


def test_a_privileged_policy_predicts_from_the_full_observation() -> None:
    spec = echo(HIDING, spaces.Discrete(3))
    policy = FunctionPolicy(lambda seen: (seen[:, -1] > 0).astype(np.int64), spec.action_space, privileged=True)
    policy.flatten = partial(spec.observations.flatten, privileged=True)
    observation, _ = spec.make().reset(seed=1)
    assert policy.predict(observation)[0] == int(observation["privileged"][1] > 0)


def test_predict_refuses_observations_that_are_not_finite() -> None:
    policy = FunctionPolicy(lambda observations: np.zeros(len(observations), np.int64), countdown().action_space)
    with pytest.raises(ValueError, match=r"an observation must be finite, got \[nan"):
        policy.predict(np.array([np.nan, 0.0], np.float32))
