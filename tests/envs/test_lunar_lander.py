"""The Lunar Lander: its physics, randomized for every episode, and its heuristic controller."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.box2d import lunar_lander

from ilt.envs.lunar_lander import PARAMETERS, RandomizedPhysics
from ilt.envs.observations import ObservationLayout
from ilt.envs.spec import EnvSpec
from ilt.envs.wrappers import MaskObservation
from ilt.registry import load_option
from ilt.schema import ConfigError, locate

RANGES = {"gravity": [-11.5, -5.0], "wind_power": [0.0, 20.0], "turbulence_power": [0.0, 2.0]}
RANGES |= {"main_engine_power": [0.9, 1.1], "side_engine_power": [0.9, 1.1]}


def bare(**kwargs: object) -> gym.Env:
    return gym.make("LunarLander-v3", **kwargs).unwrapped


def run(env: gym.Env, seed: int, n_steps: int = 60) -> tuple[np.ndarray, list[float]]:
    """Return a teacher's observations and the rewards of an episode with a fixed sequence of actions."""
    flatten = partial(ObservationLayout.of(env, key="env.id").flatten, privileged=True)
    observations, rewards = [flatten(env.reset(seed=seed)[0])], []
    for t in range(n_steps):
        observation, reward, *_ = env.step([0, 2, 2, 1, 3][t % 5])
        observations.append(flatten(observation))
        rewards.append(float(reward))
    return np.array(observations), rewards


def params(env: gym.Env, seed: int) -> dict[str, float]:
    return env.reset(seed=seed)[1]["episode_params"]


def test_physics_stay_in_their_ranges_and_differ_between_episodes() -> None:
    env = RandomizedPhysics(bare(), **RANGES)
    drawn = [[params(env, seed)[name] for name in RANGES] for seed in range(50)]
    low, high = np.array(list(RANGES.values())).T
    assert np.all((low <= drawn) & (drawn <= high))
    assert np.all(np.ptp(drawn, axis=0) > 0.8 * (high - low))
    assert abs(np.corrcoef(np.array(drawn).T) - np.eye(5)).max() < 0.5
    narrow = RandomizedPhysics(bare(), **RANGES | {"gravity": [-9.0, -9.0]})
    assert params(narrow, 3) == {**params(env, 3), "gravity": -9.0}


def test_without_ranges_episodes_equal_those_of_the_plain_lander() -> None:
    for kwargs in ({}, {"gravity": -8.0, "enable_wind": True, "wind_power": 12.0}):
        plain, wrapped = run(bare(**kwargs), 11), run(RandomizedPhysics(bare(**kwargs)), 11)
        np.testing.assert_array_equal(wrapped[0][:, :8], plain[0])
        assert wrapped[1] == plain[1]


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_parameter_changes_the_episode(parameter: str) -> None:
    other = PARAMETERS[parameter].low if parameter == "gravity" else PARAMETERS[parameter].high
    changed, nominal = (run(RandomizedPhysics(bare(), **ranges), 5) for ranges in ({parameter: [other, other]}, {}))
    assert np.abs(changed[0][-1, :8] - nominal[0][-1, :8]).max() > 1e-3


def test_engine_power_does_not_leak_to_other_landers_even_if_a_step_fails() -> None:
    strong, between = RandomizedPhysics(bare(), main_engine_power=[1.5, 1.5]), bare()
    strong.reset(seed=5)
    observations = [between.reset(seed=5)[0]]
    for t in range(60):
        strong.step([0, 2, 2, 1, 3][t % 5])
        observations.append(between.step([0, 2, 2, 1, 3][t % 5])[0])
    np.testing.assert_array_equal(observations, run(bare(), 5)[0])
    with pytest.raises(AssertionError, match="invalid"):
        strong.step(17)
    assert lunar_lander.MAIN_ENGINE_POWER == 13.0


def test_privileged_observations_are_physics_and_wind() -> None:
    env = RandomizedPhysics(bare(), gravity=[-5.0, -5.0], wind_power=[20.0, 20.0], turbulence_power=[2.0, 2.0])
    layout = ObservationLayout.of(env, key="env.id")
    observation = layout.flatten(env.reset(seed=2)[0], privileged=True)
    np.testing.assert_allclose(observation[8:13], [1.0, 1.0, 1.0, 0.0, 0.0])
    assert (layout.dim, layout.privileged_names) == (8, (*RANGES, "wind_force", "wind_torque"))


def test_rendering_shows_the_wind_as_an_arrow() -> None:
    def blue(power: float) -> int:
        env = RandomizedPhysics(bare(render_mode="rgb_array"), wind_power=[power, power])
        env.reset(seed=2)
        frame = env.render()
        env.close()
        assert frame.shape == (400, 600, 3)
        return int((frame == (110, 180, 255)).all(axis=2).sum())

    assert 0 == blue(0.0) < blue(5.0) < blue(20.0)


class Felt:
    """A body that records the wind's force and torque."""

    def __init__(self, body: object) -> None:
        self._body, self.wind = body, list[float]()

    def __getattr__(self, name: str) -> Any:
        def apply(given: Any, wake: bool) -> None:
            self.wind.append(given if name == "ApplyTorque" else given[0])
            getattr(self._body, name)(given, wake)

        return apply if name in ("ApplyForceToCenter", "ApplyTorque") else getattr(self._body, name)


def test_the_observed_wind_acts_in_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    env = RandomizedPhysics(bare(), **RANGES)
    seen = env.reset(seed=2)[0]["privileged"]
    for _ in range(20):
        felt = Felt(env.unwrapped.lander)
        with monkeypatch.context() as patch:  # Box2D bodies cannot be patched, only replaced
            patch.setattr(env.unwrapped, "lander", felt)
            before, seen = seen, env.step(0)[0]["privileged"]
        assert before[5:7] == pytest.approx(np.array(felt.wind) / [20, 2], abs=1e-6)


def test_there_is_no_wind_on_the_ground() -> None:
    env = RandomizedPhysics(bare(), wind_power=[20.0, 20.0], turbulence_power=[2.0, 2.0])
    env.reset(seed=2)
    for _ in range(200):
        observation, _, terminated, *_ = env.step(0)
        if observation["observation"][6:8].any() or terminated:
            break
    assert observation["observation"][6:8].any()
    assert not observation["privileged"][5:].any()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("gravity", [[-12.0, -5.0], [-5.0, 0.0], [-5.0, -11.0]]),
        ("wind_power", [[0.0, 21.0]]),
        ("turbulence_power", [[-0.1, 1.0]]),
        ("main_engine_power", [[0.0, 1.0]]),
        ("side_engine_power", [[1.0], 1.0, [None, 1.0]]),
    ],
)
def test_a_parameter_outside_the_simulators_bounds_is_refused(name: str, wrong: list[Any]) -> None:
    for given in wrong:
        with pytest.raises(ConfigError, match=rf"\.randomized_physics\.{name} must be \[lowest, highest\] within"):
            RandomizedPhysics(bare(), **{name: given})


def test_unknown_parameters_and_other_environments_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"env\.wrappers\.randomized_physics\.mass must be one of \['gravity'"):
        RandomizedPhysics(bare(), mass=[1.0, 2.0])
    for env in (gym.make("CartPole-v1").unwrapped, MaskObservation(bare(), hide=[2])):
        with pytest.raises(ValueError, match="must be the first wrapper of a LunarLander"):
            RandomizedPhysics(env)


def test_the_heuristic_acts_as_gymnasium_does_on_any_observation(lander: EnvSpec) -> None:
    rng = np.random.default_rng(0)
    observations = rng.normal(0, 0.5, (500, 8)).astype(np.float32)
    observations[:, 6:] = rng.integers(0, 2, (500, 2))
    actions = locate(str(lander.heuristic), key="env.heuristic")(observations)
    assert actions.tolist() == [lunar_lander.heuristic(bare(), observation) for observation in observations]
    assert (set(actions.tolist()), actions.dtype) == ({0, 1, 2, 3}, np.int64)


def test_the_heuristic_for_continuous_thrust_acts_as_gymnasium_does() -> None:
    observations = np.random.default_rng(0).normal(0, 0.5, (100, 8)).astype(np.float32)
    observations[:, 6:] = observations[:, 6:] > 0.5
    env = load_option("env", "lunar_lander_continuous")
    actions = locate(env["heuristic"], key="env.heuristic")(observations)
    expected = [lunar_lander.heuristic(bare(continuous=True), observation) for observation in observations]
    np.testing.assert_array_equal(actions, np.array(expected, dtype=np.float32))
    assert np.ptp(actions, axis=0).tolist() == [2.0, 2.0]
