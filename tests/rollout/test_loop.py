"""The rollout loop."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from ilt.data.episodes import Episodes
from ilt.envs.actions import ActionSpace
from ilt.envs.batch import EnvBatch
from ilt.envs.lunar_lander import heuristic
from ilt.envs.spec import EnvSpec
from ilt.rollout.loop import _Recorder
from ilt.rollout.policies import FunctionPolicy, Policy, RandomPolicy
from ilt.rollout.run import rollout
from tests.toys import HIDING, MULTI, TENSOR, VECTOR, countdown, echo, recall

SEEDS = np.array([20_000_003, 7, 3, 4, 30_000_001, 5, 0, 9, 8, 6])
FOUR = ActionSpace(n_choices=(4,), start=(0,))
MASK = {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [0]}
PHYSICS = {"_target_": "ilt.envs.lunar_lander.RandomizedPhysics", "gravity": [-11.5, -5.0], "wind_power": [0.0, 20.0]}


class Constant(Policy):
    """Always the same action; keeps the slots of every call."""

    def __init__(self, action: Any = 2) -> None:
        self.action = action
        self.begun: list[tuple[list[int], list[int]]] = []
        self.calls: list[list[int]] = []

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self.begun.append((slots.tolist(), seeds.tolist()))

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.calls.append(slots.tolist())
        return np.array([self.action] * len(slots))


def assert_identical(a: Episodes, b: Episodes) -> None:
    for name in ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "seeds"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("policy", [FunctionPolicy(heuristic, FOUR), RandomPolicy(FOUR)])
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
    assert set(rollout(short, RandomPolicy(FOUR), SEEDS).truncated.tolist()) == {True, False}


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
    spec = replace(countdown(), wrappers={"mask": MASK})
    student, expert = Watching(privileged=False), Watching(privileged=True)
    assert_identical(rollout(spec, student, [1]), rollout(spec, expert, [1]))
    assert student.shown == [[1], [1]]
    assert expert.shown == [[1, 2], [1, 1]]


def test_what_is_hidden_from_a_student_is_kept_apart_from_what_it_sees() -> None:
    episodes = rollout(replace(countdown(), wrappers={"mask": MASK}), Constant(), [1, 4])
    assert episodes.observations.tolist() == [[1]] * 3 + [[4]] * 4
    assert {name: array.tolist() for name, array in episodes.extras.items()} == {
        "step/privileged": [[2], [1], [5], [4], [3]]
    }


def test_the_physics_of_an_episode_are_kept_and_do_not_depend_on_the_number_of_envs(lander: EnvSpec) -> None:
    spec = replace(lander, wrappers={"physics": PHYSICS})
    one, many = (rollout(spec, RandomPolicy(FOUR), SEEDS[:5], n_envs=n) for n in (1, 64))
    assert one.observations.shape[1] == 8
    assert one.extras["step/privileged"].shape == (len(one.actions), 7)
    for name in one.extras:
        np.testing.assert_array_equal(one.extras[name], many.extras[name])
    _, info = spec.make().reset(seed=int(SEEDS[3]))
    assert one.extras["episode/gravity"][3] == info["episode_params"]["gravity"]


@pytest.mark.parametrize(
    "spec",
    [
        EnvSpec(id="Pendulum-v1", kwargs={"max_episode_steps": 30}),
        EnvSpec(id="LunarLander-v3", wrappers={"physics": PHYSICS | {"main_engine_power": [0.9, 1.1]}}),
        echo(HIDING, TENSOR),
        echo(VECTOR, MULTI),
        echo(spaces.Tuple([VECTOR, spaces.Discrete(3)]), spaces.Discrete(3, start=-1)),
    ],
    ids=lambda spec: f"{spec.id} {[*map(str, spec.kwargs.values())]}",
)
def test_recorded_actions_give_every_observation_back(spec: EnvSpec) -> None:
    """On an env that is stepped by hand, bit for bit, whatever the number of envs."""
    episodes, alone = (rollout(spec, RandomPolicy(spec.action_space), SEEDS[1:6], n_envs=n) for n in (3, 1))
    assert_identical(episodes, alone)
    env, layout = spec.make(), spec.observations
    assert episodes.extras.keys() == {
        *(f"episode/{name}" for name in spec.episode_params),
        *(["step/privileged"] if layout.privileged_names else []),
    }
    for e, (seed, start, length) in enumerate(zip(SEEDS[1:6], episodes.step_offsets, episodes.lengths, strict=True)):
        seen, info = env.reset(seed=int(seed))
        rows, rewards = [layout.flatten(seen, privileged=True)], []
        for action in spec.action_space.for_simulator(episodes.actions[start : start + length]):
            seen, reward, *_ = env.step(action)
            rows.append(layout.flatten(seen, privileged=True))
            rewards.append(reward)
        first = episodes.observation_offsets[e]
        recorded = episodes.observations[first : first + length + 1]
        np.testing.assert_array_equal(np.array(rows)[:, : layout.dim], recorded)
        assert episodes.rewards[start : start + length].tolist() == [float(reward) for reward in rewards]
        if layout.privileged_names:
            hidden = episodes.extras["step/privileged"][start : start + length]
            np.testing.assert_array_equal(np.array(rows)[:-1, layout.dim :], hidden)
        for name, value in info.get("episode_params", {}).items():
            assert episodes.extras[f"episode/{name}"][e] == value


def test_an_env_that_only_truncates_is_never_recorded_as_terminated() -> None:
    spec = EnvSpec(id="Pendulum-v1", kwargs={"max_episode_steps": 30})
    episodes = rollout(spec, RandomPolicy(spec.action_space), SEEDS[:4])
    assert (episodes.lengths.tolist(), episodes.truncated.all(), episodes.terminated.any()) == ([30] * 4, True, False)
    assert (episodes.actions.shape, episodes.actions.dtype) == ((120, 1), np.float32)


class Asking(Policy):
    """Does the most there is, and is labeled with what is given."""

    def __init__(self, spec: EnvSpec, label: Any) -> None:
        self._space, self._label = spec.action_space, label

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.labels = np.array([self._label] * len(slots))
        return self._space.sample(np.full((len(slots), self._space.dim), 0.999))


@pytest.mark.parametrize(
    ("space", "label"),
    [(spaces.Discrete(3, start=5), 6), (MULTI, [2, -1]), (spaces.Box(-2.0, 2.0, (2,)), [0.5, -9.0])],
    ids=str,
)
def test_labels_are_recorded_beside_what_was_done(space: spaces.Space[Any], label: Any) -> None:
    spec = echo(VECTOR, space)
    episodes = rollout(spec, Asking(spec, label), SEEDS[1:4], n_envs=2)
    labels = episodes.extras["step/label"]
    assert (labels.shape, labels.dtype) == (episodes.actions.shape, episodes.actions.dtype)
    assert labels.tolist() == [[0.5, -2.0] if isinstance(space, spaces.Box) else label] * len(labels)
    assert not np.array_equal(labels, episodes.actions)


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (spaces.Discrete(3), 1.0, r"the policy must return actions of shape \(1,\) \(integers\), got float64"),
        (spaces.Discrete(3), 3, "the policy must return actions of integers 0 … 2"),
        (VECTOR, [0.1], r"the policy must return actions of shape \(1, 2\) \(numbers\), got float64 of \(1, 1\)"),
        (VECTOR, [np.nan, 0.0], "the policy must return finite actions"),
    ],
    ids=str,
)
def test_a_policy_that_returns_no_action_is_stopped(space: spaces.Space[Any], action: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(echo(VECTOR, space), Constant(action), [0])


def test_what_is_recorded_is_what_the_simulator_was_given() -> None:
    """A policy's float64 numbers beyond the bounds are clipped and rounded before the step, and in the recording."""
    episodes = rollout(echo(VECTOR, spaces.Box(-0.1, 0.7, (2,))), Constant([1 / 3, -5.0]), [0])
    assert episodes.actions[0].tolist() == [np.float32(1 / 3), np.float32(-0.1)]


def test_an_episode_that_ends_by_itself_on_its_last_allowed_step_is_terminated() -> None:
    episodes = rollout(countdown(), Constant(), [2])
    assert (episodes.lengths[0], episodes.terminated[0], episodes.truncated[0]) == (3, True, False)


@pytest.mark.parametrize("spec", [countdown(), recall()])
def test_toy_results_do_not_depend_on_the_number_of_envs(spec: EnvSpec) -> None:
    seeds = spec.seeds("selection", 70)
    one, three, many = (rollout(spec, RandomPolicy(spec.action_space), seeds, n_envs=n) for n in (1, 3, 64))
    assert_identical(one, three)
    assert_identical(one, many)


def test_lander_results_do_not_depend_on_the_number_of_envs(lander: EnvSpec) -> None:
    one, three, many = (rollout(lander, FunctionPolicy(heuristic, FOUR), SEEDS, n_envs=n) for n in (1, 3, 64))
    assert_identical(one, three)
    assert_identical(one, many)


def test_an_episode_does_not_depend_on_what_runs_beside_it(lander: EnvSpec) -> None:
    together = rollout(lander, FunctionPolicy(heuristic, FOUR), SEEDS, n_envs=4)
    alone = rollout(lander, FunctionPolicy(heuristic, FOUR), SEEDS[5:6])
    assert_identical(together.select(np.array([5])), alone)


def test_the_policy_is_called_once_per_step_on_all_active_envs() -> None:
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
