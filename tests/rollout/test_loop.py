"""The rollout loop."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from ilt.data.episodes import Episodes
from ilt.envs.actions import ActionSpace
from ilt.envs.lunar_lander import heuristic
from ilt.envs.spec import EnvSpec
from ilt.rollout.policies import FunctionPolicy, Policy, RandomPolicy
from ilt.rollout.run import rollout
from ilt.schema import PlainError
from tests.toys import HIDING, MULTI, TENSOR, VECTOR, countdown, echo, recall

SEEDS = np.array([20_000_003, 7, 3, 4, 30_000_001, 5, 0, 9, 8, 6])
FOUR = ActionSpace(n_choices=(4,), start=(0,))
LANDER = EnvSpec(id="LunarLander-v3")
MASKED = replace(countdown(), wrappers={"mask": {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [0]}})
DRAWN = {"gravity": [-11.5, -5.0], "wind_power": [0.0, 20.0], "main_engine_power": [0.9, 1.1]}
PHYSICS = {"_target_": "ilt.envs.lunar_lander.RandomizedPhysics", **DRAWN}


class Constant(Policy):
    """Always takes the same action and records its inputs."""

    def __init__(self, action: Any = 2, *, privileged: bool = False) -> None:
        self.action, self.privileged = action, privileged
        self.begun: list[tuple[list[int], list[int]]] = []
        self.calls: list[list[int]] = []
        self.seen: list[list[float]] = []

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self.begun.append((slots.tolist(), seeds.tolist()))

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.calls.append(slots.tolist())
        self.seen += observations.tolist()
        return np.array([self.action] * len(slots))


def assert_identical(a: Episodes, b: Episodes, *, atol: float = 0.0) -> None:
    """Assert that episodes are equal, up to `atol`.

    On some CPUs, the last bit of a row of a matrix product depends on the row's place. Without such products, or for
    the same rows in the same order, episodes are the same bit for bit.
    """
    for name in ("observations", "actions", "rewards", "lengths", "terminated", "truncated", "seeds"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=atol, atol=atol, err_msg=name)
    assert a.extras.keys() == b.extras.keys()
    for name, array in a.extras.items():
        np.testing.assert_allclose(array, b.extras[name], rtol=atol, atol=atol, err_msg=name)


def assert_replayed(episodes: Episodes, spec: EnvSpec, env: gym.Env[Any, Any]) -> None:
    """Assert that stepping an environment with the recorded actions reproduces everything else exactly."""
    layout = spec.observations
    for e, seed in enumerate(episodes.seeds.tolist()):
        one = episodes.select(np.array([e]))
        seen, info = env.reset(seed=seed)
        rows, rewards = [layout.flatten(seen, privileged=True)], []
        for action in spec.action_space.for_simulator(one.actions):
            seen, reward, terminated, truncated, _ = env.step(action)
            rows.append(layout.flatten(seen, privileged=True))
            rewards.append(float(reward))
            assert len(rewards) == len(one.actions) or not (terminated or truncated)
        assert terminated or len(rewards) == spec.max_episode_steps
        assert (one.terminated[0], one.truncated[0]) == (terminated, not terminated)
        np.testing.assert_array_equal(np.array(rows)[:, : layout.dim], one.observations)
        assert one.rewards.tolist() == rewards
        extras = {f"episode/{name}": [value] for name, value in info.get("episode_params", {}).items()}
        if layout.privileged_names:
            extras["step/privileged"] = np.array(rows)[:-1, layout.dim :].tolist()
        assert {name: array.tolist() for name, array in one.extras.items()} == extras
    env.close()


@pytest.mark.parametrize("policy", [FunctionPolicy(heuristic, FOUR), RandomPolicy(FOUR)])
@pytest.mark.parametrize("limit", [1000, 80])
def test_a_plain_gymnasium_environment_reproduces_the_recording(policy: Policy, limit: int) -> None:
    spec = replace(LANDER, kwargs={"max_episode_steps": limit})
    assert_replayed(rollout(spec, policy, SEEDS, n_envs=3), spec, gym.make(spec.id, max_episode_steps=limit))


@pytest.mark.parametrize(
    "spec",
    [
        EnvSpec(id="Pendulum-v1", kwargs={"max_episode_steps": 600}),
        replace(LANDER, wrappers={"physics": PHYSICS}),
        echo(HIDING, TENSOR),
        echo(VECTOR, MULTI),
        echo(spaces.Tuple([VECTOR, spaces.Discrete(3)]), spaces.Discrete(3, start=-1)),
    ],
    ids=lambda spec: f"{spec.id} {[*map(str, spec.kwargs.values())]}",
)
def test_environments_of_every_kind_reproduce_the_recording(spec: EnvSpec) -> None:
    episodes, alone = (rollout(spec, RandomPolicy(spec.action_space), SEEDS[1:6], n_envs=n) for n in (3, 1))
    assert_identical(episodes, alone)
    dtypes = [array.dtype for array in (episodes.observations, episodes.actions, episodes.rewards)]
    assert dtypes == [np.float32, spec.action_space.dtype, np.float64]
    assert_replayed(episodes, spec, spec.make())


def test_episodes_are_in_the_order_of_the_seeds() -> None:
    seeds = [4, 0, 3, 1, 0]
    episodes = rollout(countdown(), Constant(), seeds, n_envs=2)
    assert episodes.seeds.tolist() == seeds
    assert episodes.lengths.tolist() == [3, 1, 3, 2, 1]
    assert episodes.observations[episodes.observation_offsets, 1].tolist() == seeds


def test_the_recording_of_an_episode_by_hand() -> None:
    episodes = rollout(countdown(), Constant(2), [1, 4, 2])
    assert episodes.observations[:7].tolist() == [[2, 1], [1, 1], [0, 1], [5, 4], [4, 4], [3, 4], [2, 4]]
    assert episodes.actions.tolist() == [2] * 8
    assert episodes.rewards.tolist() == [2.0] * 8
    assert episodes.terminated.tolist() == [True, False, True]  # the last one at the time limit
    assert episodes.truncated.tolist() == [False, True, False]


def test_only_a_privileged_policy_sees_hidden_quantities() -> None:
    student, expert = Constant(privileged=False), Constant(privileged=True)
    episodes = rollout(MASKED, student, [1])
    assert_identical(episodes, rollout(MASKED, expert, [1]))
    assert (student.seen, expert.seen) == ([[1], [1]], [[1, 2], [1, 1]])
    assert episodes.observations.tolist() == [[1]] * 3
    assert episodes.extras["step/privileged"].tolist() == [[2], [1]]


class Asking(Policy):
    """Takes the largest actions and labels every step with a given label."""

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
def test_labels_are_recorded_next_to_actions(space: spaces.Space[Any], label: Any) -> None:
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
def test_invalid_actions_are_refused(space: spaces.Space[Any], action: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(echo(VECTOR, space), Constant(action), [0])


def test_recorded_actions_are_those_given_to_the_simulator() -> None:
    """Float64 actions outside the bounds are clipped and rounded before the step and in the recording."""
    episodes = rollout(echo(VECTOR, spaces.Box(-0.1, 0.7, (2,))), Constant([1 / 3, -5.0]), [0])
    assert episodes.actions[0].tolist() == [np.float32(1 / 3), np.float32(-0.1)]


@pytest.mark.parametrize("spec", [countdown(), recall(), LANDER], ids=lambda spec: spec.id)
def test_episodes_do_not_depend_on_the_number_of_envs(spec: EnvSpec) -> None:
    policy = FunctionPolicy(heuristic, FOUR) if spec is LANDER else RandomPolicy(spec.action_space)
    seeds = SEEDS if spec is LANDER else spec.seeds("selection", 70)
    one, three, many = (rollout(spec, policy, seeds, n_envs=n) for n in (1, 3, 64))
    assert_identical(one, three)
    assert_identical(one, many)


@pytest.mark.parametrize(
    ("n_envs", "calls", "begun"),
    [
        (64, [[0, 1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4]], [([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])]),
        (2, [[0, 1]] * 5 + [[0]] * 2, [([0, 1], [0, 1]), ([0], [2]), ([1], [3]), ([0], [4])]),
    ],
)
def test_a_policy_is_called_once_per_step_with_the_active_slots(
    n_envs: int, calls: list[list[int]], begun: list[tuple[list[int], list[int]]]
) -> None:
    policy = Constant()
    rollout(countdown(), policy, [0, 1, 2, 3, 4], n_envs=n_envs)  # lengths 1, 2, 3, 3, 3
    assert (policy.calls, policy.begun) == (calls, begun)


def test_each_finished_episode_is_reported_with_its_return() -> None:
    returns: list[float] = []
    rollout(countdown(), Constant(2), [4, 0, 1], n_envs=3, on_episode=returns.append)
    assert returns == [2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("seeds", "changes", "message"),
    [
        ([], {}, "there are no seeds"),
        ([0], {"n_envs": 0}, "must be at least 1"),
        ([0], {"n_processes": 0}, "must be at least 1"),
    ],
)
def test_zero_seeds_envs_or_processes_are_refused(seeds: list[int], changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rollout(countdown(), Constant(), seeds, **changes)


class Broken(gym.Wrapper[Any, Any, Any, Any]):
    """Returns NaN as the observation or the reward of the second step."""

    def __init__(self, env: gym.Env[Any, Any], *, what: str) -> None:
        super().__init__(env)
        self._what, self._steps = what, 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, *ends = self.env.step(action)
        self._steps += 1
        if self._steps == 2:
            observation, reward = (
                (observation * np.nan, reward) if self._what == "observation" else (observation, np.nan)
            )
        return observation, reward, *ends


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_non_finite_numbers_are_an_error_that_names_the_seed(what: str) -> None:
    wrapper = {"_target_": f"{__name__}.Broken", "what": what}
    spec = EnvSpec(id="CartPole-v1", wrappers={"broken": wrapper})
    with pytest.raises(PlainError, match="env returned a number that is not finite, with reset seed 7"):
        rollout(spec, RandomPolicy(spec.action_space), [7])
