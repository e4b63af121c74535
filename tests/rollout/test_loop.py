"""The rollout loop."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from ilt.envs.heuristics import lunar_lander

from ilt.data.episodes import Episodes
from ilt.envs.batch import EnvBatch
from ilt.envs.spec import EnvSpec
from ilt.rollout.loop import _Recorder
from ilt.rollout.policies import FunctionPolicy, Policy, RandomPolicy
from ilt.rollout.run import rollout
from tests.toys import countdown, recall

SEEDS = np.array([20_000_003, 7, 3, 4, 30_000_001, 5, 0, 9, 8, 6])


class Constant:
    """Always the same action; keeps the slots of every call."""

    privileged = False

    def __init__(self, action: int = 2) -> None:
        self.action = action
        self.begun: list[tuple[list[int], list[int]]] = []
        self.calls: list[list[int]] = []

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self.begun.append((slots.tolist(), seeds.tolist()))

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.calls.append(slots.tolist())
        return np.full(len(slots), self.action)


def assert_identical(a: Episodes, b: Episodes) -> None:
    for name in ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "seeds"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("policy", [FunctionPolicy(lunar_lander), RandomPolicy(4)])
@pytest.mark.parametrize("limit", [1000, 80])
def test_replayed_actions_give_every_observation_and_reward_back(lander: EnvSpec, policy: Policy, limit: int) -> None:
    """On a plain `gymnasium.make`, with its own wrappers and its own time limit, bit for bit."""
    episodes = rollout(replace(lander, kwargs={"max_episode_steps": limit}), policy, SEEDS, n_envs=3)
    env = gym.make("LunarLander-v3", max_episode_steps=limit)
    for e, seed in enumerate(SEEDS):
        one = episodes.select(np.array([e]))
        observation, _ = env.reset(seed=int(seed))
        assert np.array_equal(observation, one.observations[0])
        for t, action in enumerate(one.actions):
            observation, reward, terminated, truncated, _ = env.step(int(action))
            assert np.array_equal(observation, one.observations[t + 1])
            assert reward == one.rewards[t]
            assert (terminated or truncated) == (t == len(one.actions) - 1)
        assert (one.terminated[0], one.truncated[0]) == (terminated, truncated and not terminated)
    env.close()


def test_the_replay_meets_both_ends_of_an_episode(lander: EnvSpec) -> None:
    short = replace(lander, kwargs={"max_episode_steps": 80})
    assert set(rollout(short, RandomPolicy(4), SEEDS).truncated.tolist()) == {True, False}


def test_results_come_in_the_order_of_the_seeds() -> None:
    seeds = [4, 0, 3, 1, 0]
    episodes = rollout(countdown(), Constant(), seeds, n_envs=2)
    assert episodes.seeds.tolist() == seeds
    assert episodes.lengths.tolist() == [3, 1, 3, 2, 1]
    assert episodes.observations[episodes.observation_offsets, 1].tolist() == seeds


def test_what_is_recorded_of_an_episode() -> None:
    episodes = rollout(countdown(), Constant(2), [1, 4])
    assert episodes.observations.tolist() == [[2, 1], [1, 1], [0, 1], [5, 4], [4, 4], [3, 4], [2, 4]]
    assert episodes.actions.tolist() == [2] * 5
    assert episodes.rewards.tolist() == [2.0] * 5
    assert (episodes.terminated.tolist(), episodes.truncated.tolist()) == ([True, False], [False, True])


class Watching(Constant):
    """Keeps what it is shown."""

    def __init__(self, *, privileged: bool) -> None:
        super().__init__()
        self.privileged = privileged
        self.shown: list[list[float]] = []

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.shown += observations.tolist()
        return super().act(slots, observations)


def test_only_a_privileged_policy_is_shown_what_is_hidden_from_a_student() -> None:
    spec = replace(countdown(), wrappers={"blind": {"hide": [0]}})
    student, expert = Watching(privileged=False), Watching(privileged=True)
    assert_identical(rollout(spec, student, [1]), rollout(spec, expert, [1]))
    assert student.shown == [[1], [1]]
    assert expert.shown == [[1, 2], [1, 1]]


def test_what_is_hidden_from_a_student_is_kept_apart_from_what_it_sees() -> None:
    episodes = rollout(replace(countdown(), wrappers={"blind": {"hide": [0]}}), Constant(), [1, 4])
    assert episodes.observations.tolist() == [[1]] * 3 + [[4]] * 4
    assert {name: array.tolist() for name, array in episodes.extras.items()} == {
        "step/privileged": [[2], [1], [5], [4], [3]]
    }


def test_the_physics_of_an_episode_are_kept_and_do_not_depend_on_the_number_of_envs(lander: EnvSpec) -> None:
    spec = replace(lander, wrappers={"hidden_physics": {"gravity": [-11.5, -5.0], "wind_power": [0.0, 20.0]}})
    one, many = (rollout(spec, RandomPolicy(4), SEEDS[:5], n_envs=n) for n in (1, 64))
    assert one.observations.shape[1] == 8
    assert one.extras["step/privileged"].shape == (len(one.actions), 7)
    for name in one.extras:
        np.testing.assert_array_equal(one.extras[name], many.extras[name])
    env = spec.make()
    env.reset(seed=int(SEEDS[3]))
    assert one.extras["episode/gravity"][3] == env.facts["gravity"]


def test_the_replay_of_actions_under_hidden_physics_gives_every_observation_back(lander: EnvSpec) -> None:
    spec = replace(lander, wrappers={"hidden_physics": {"gravity": [-11.5, -5.0], "main_engine_power": [0.9, 1.1]}})
    episodes = rollout(spec, RandomPolicy(4), SEEDS[:3])
    env = spec.make()
    for seed, first, start, length in zip(
        episodes.seeds, episodes.observation_offsets, episodes.step_offsets, episodes.lengths, strict=True
    ):
        seen = [env.reset(seed=int(seed))[0]]
        seen += [env.step(int(action))[0] for action in episodes.actions[start : start + length]]
        np.testing.assert_array_equal(np.array(seen)[:, :8], episodes.observations[first : first + length + 1])
        hidden = np.array(seen)[:-1, 8:]
        np.testing.assert_array_equal(hidden, episodes.extras["step/privileged"][start : start + length])


def test_an_episode_that_ends_by_itself_on_its_last_allowed_step_is_terminated() -> None:
    episodes = rollout(countdown(), Constant(), [2])
    assert (episodes.lengths[0], episodes.terminated[0], episodes.truncated[0]) == (3, True, False)


@pytest.mark.parametrize("spec", [countdown(), recall()])
def test_toy_results_do_not_depend_on_the_number_of_envs(spec: EnvSpec) -> None:
    seeds = spec.seeds("selection", 70)
    one, three, many = (rollout(spec, RandomPolicy(2), seeds, n_envs=n) for n in (1, 3, 64))
    assert_identical(one, three)
    assert_identical(one, many)


def test_lander_results_do_not_depend_on_the_number_of_envs(lander: EnvSpec) -> None:
    one, three, many = (rollout(lander, FunctionPolicy(lunar_lander), SEEDS, n_envs=n) for n in (1, 3, 64))
    assert_identical(one, three)
    assert_identical(one, many)


def test_an_episode_does_not_depend_on_what_flies_beside_it(lander: EnvSpec) -> None:
    together = rollout(lander, FunctionPolicy(lunar_lander), SEEDS, n_envs=4)
    alone = rollout(lander, FunctionPolicy(lunar_lander), SEEDS[5:6])
    assert_identical(together.select(np.array([5])), alone)


def test_the_policy_is_called_once_per_step_on_all_envs_in_the_air() -> None:
    policy = Constant()
    rollout(countdown(), policy, [0, 1, 2, 3, 4], n_envs=5)  # of 1, 2, 3, 3, 3 steps
    assert policy.calls == [[0, 1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4]]
    assert policy.begun == [([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])]


def test_a_slot_takes_the_next_seed_when_its_episode_ends_and_is_retired_when_none_is_left() -> None:
    policy = Constant()
    rollout(countdown(), policy, [0, 1, 2, 3, 4], n_envs=2)
    assert policy.calls == [[0, 1], [0, 1], [0, 1], [0, 1], [0, 1], [0], [0]]
    assert policy.begun == [([0, 1], [0, 1]), ([0], [2]), ([1], [3]), ([0], [4])]


def test_there_are_no_more_envs_than_episodes() -> None:
    policy = Constant()
    rollout(countdown(), policy, [3], n_envs=64)
    assert policy.calls == [[0]] * 3


def test_each_finished_episode_is_reported_with_its_return() -> None:
    returns: list[float] = []
    rollout(countdown(), Constant(2), [4, 0, 1], n_envs=3, on_episode=returns.append)
    assert returns == [2.0, 4.0, 6.0]


def test_a_recorder_grows_with_the_longest_episode_and_forgets_what_was_taken() -> None:
    recorder = _Recorder(EnvBatch(countdown(), 2), capacity=1)
    one, both = np.array([1]), np.array([0, 1])
    recorder.add(one, np.array([[7.0, 7.0]]), np.array([0]), np.array([7.0]))
    assert recorder.take(1, np.array([8.0, 8.0], np.float32))[0].tolist() == [[7, 7], [8, 8]]
    for t in range(5):
        recorder.add(both, np.array([[t, 0.0], [t, 1.0]]), np.array([t, 10 + t]), np.array([t / 2, -t / 2]))
    observations, actions, rewards = recorder.take(1, np.array([5.0, 1.0], np.float32))
    assert observations.tolist() == [[t, 1] for t in range(6)]
    assert (actions.tolist(), rewards.tolist()) == ([10, 11, 12, 13, 14], [0, -0.5, -1, -1.5, -2])
    assert (observations.dtype, actions.dtype, rewards.dtype) == (np.float32, np.int64, np.float64)


def test_no_seeds_are_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="seed"):
        rollout(countdown(), Constant(), [])
