"""Physics that differ between episodes, for any simulator."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.box2d import bipedal_walker

from ilt.envs.batch import EnvBatch
from ilt.envs.observations import ObservationLayout
from ilt.envs.physics import FAMILIES, Factor, RandomizedPhysics, factors_of, scaled
from ilt.envs.spec import EnvSpec
from ilt.envs.wrappers import MaskObservation
from ilt.schema import ConfigError, path_of
from tests.toys import Recall

SIMULATORS = [
    "CartPole-v1",
    "Pendulum-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "MountainCarContinuous-v0",
    "BipedalWalker-v3",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Walker2d-v5",
]
OFF_THE_GROUND = {f"friction_{geom}" for geom in ("torso", "head", "bthigh", "bshin", "fthigh", "fshin")}
"""Geoms of the HalfCheetah that need not touch the ground in an episode."""


def bare(id: str) -> gym.Env:
    return EnvSpec(id=id).make().unwrapped


def fixed(id: str, **values: float) -> RandomizedPhysics:
    return RandomizedPhysics(bare(id), **{name: [value, value] for name, value in values.items()})


def run(env: gym.Env, seed: int = 3, n_steps: int = 100) -> np.ndarray:
    """Return a student's observations and the rewards of an episode with actions that do not depend on it, as rows."""
    env.action_space.seed(1)
    observation, reward, rows = env.reset(seed=seed)[0], 0.0, []
    for _ in range(n_steps):
        seen = observation["observation"] if isinstance(observation, dict) else observation
        rows.append([*seen.tolist(), float(reward)])
        observation, reward, terminated, *_ = env.step(env.action_space.sample())
        if terminated:
            break
    return np.array(rows)


def params(env: gym.Env, seed: int | None = None) -> dict[str, float]:
    return env.reset(seed=seed)[1]["episode_params"]


@pytest.mark.parametrize("id", SIMULATORS)
def test_with_nominal_values_episodes_equal_those_of_the_bare_environment_bit_for_bit(id: str) -> None:
    nominal = fixed(id, **dict.fromkeys(factors_of(bare(id)), 1.0))
    for seed in (3, 4):
        np.testing.assert_array_equal(run(nominal, seed), run(bare(id), seed))
    assert not nominal.reset(seed=3)[0]["privileged"].any()


@pytest.mark.parametrize("id", SIMULATORS)
def test_values_do_not_compound_and_a_simulator_gets_its_own_back(id: str) -> None:
    simulator, table = bare(id), factors_of(bare(id))
    ranges = {name: [max(factor.low, 0.5), 1.0] for name, factor in table.items()}
    used, nominal = (RandomizedPhysics(simulator, **given) for given in (ranges, {name: [1.0, 1.0] for name in table}))
    episodes = [run(used, seed) for seed in (5, 5, 6, 5)]
    np.testing.assert_array_equal(episodes[0], episodes[1])
    np.testing.assert_array_equal(episodes[0], episodes[3])
    assert not np.array_equal(episodes[0], episodes[2])
    np.testing.assert_array_equal(run(nominal, 5), run(bare(id), 5))


@pytest.mark.parametrize(
    ("id", "name"),
    [(id, name) for id in SIMULATORS[:-2] for name in factors_of(bare(id)) if name not in OFF_THE_GROUND],
)
def test_every_factor_changes_the_episode(id: str, name: str) -> None:
    factor = factors_of(bare(id))[name]
    other = 1.3 if factor.high > 1 else factor.low
    changed, nominal = run(fixed(id, **{name: other}), n_steps=200), run(bare(id), n_steps=200)
    assert changed.shape != nominal.shape or np.abs(changed - nominal).max() > 1e-3


def test_masses_and_lengths_change_what_is_derived_from_them() -> None:
    cartpole = fixed("CartPole-v1", masspole=3.0, length=2.0)
    cartpole.reset(seed=0)
    assert cartpole.unwrapped.total_mass == pytest.approx(1.3)
    assert cartpole.unwrapped.polemass_length == pytest.approx(0.3)
    hopper = fixed("Hopper-v5", mass=2.0, mass_torso=1.5)
    model, inertia = hopper.unwrapped.model, hopper.unwrapped.model.body_inertia.copy()
    total, torso = model.body_subtreemass[0], model.body("torso").mass[0]
    for seed in (0, 1):
        hopper.reset(seed=seed)
        assert model.body("torso").mass[0] == pytest.approx(3.0 * torso)
        assert model.body_subtreemass[0] == pytest.approx(2.0 * total + torso)
        np.testing.assert_allclose(model.body_inertia[2], 2.0 * inertia[2])


def test_one_range_changes_no_other_value_and_the_order_of_ranges_changes_nothing() -> None:
    ranges = {"g": [0.5, 1.5], "m": [0.5, 2.0], "l": [0.7, 1.4]}
    env = RandomizedPhysics(bare("Pendulum-v1"), **ranges)
    drawn = [params(env, seed) for seed in range(50)]
    for name, (low, high) in ranges.items():
        values = [each[name] for each in drawn]
        assert low <= min(values) <= max(values) <= high
        assert np.ptp(values) > 0.8 * (high - low)
    assert abs(np.corrcoef([list(each.values()) for each in drawn], rowvar=False) - np.eye(3)).max() < 0.5
    narrow = RandomizedPhysics(bare("Pendulum-v1"), l=ranges["l"], m=[0.6, 0.6])
    assert params(narrow, 7) == {"m": 0.6, "l": drawn[7]["l"]}
    backward = RandomizedPhysics(bare("Pendulum-v1"), **dict(reversed(ranges.items())))
    assert list(params(backward, 7).items()) == list(drawn[7].items())
    assert params(env) != params(env)  # without a seed, the stream goes on


@pytest.mark.parametrize("n_envs", [1, 3])
def test_an_episode_is_its_seed_for_any_number_of_environments(n_envs: int) -> None:
    ranges = {"motor_torque": [0.7, 1.3], "gravity": [0.8, 1.2], "hull_mass": [0.5, 2.0]}
    physics = {"_target_": "ilt.envs.physics.RandomizedPhysics", **ranges}
    batch = EnvBatch(EnvSpec(id="BipedalWalker-v3", wrappers={"physics": physics}), n_envs, privileged=True)
    for slot in range(n_envs):
        batch.reset(slot, 9 - slot)
    alone = RandomizedPhysics(bare("BipedalWalker-v3"), **ranges)
    assert batch.episode_params[0] == params(alone, 9)
    actions = np.random.default_rng(0).uniform(-1, 1, (20, n_envs, 4)).astype(np.float32)
    for action in actions:
        batch.step(np.arange(n_envs), action)
        expected = alone.step(action[0])[0]
        np.testing.assert_array_equal(batch.observations[0], np.concatenate([*expected.values()]))
    batch.close()


def test_constants_of_a_module_are_restored_even_if_a_step_fails() -> None:
    weak, between = fixed("BipedalWalker-v3", motor_torque=0.5, motor_speed=0.5, leg_mass=3.0), bare("BipedalWalker-v3")
    weak.reset(seed=5)
    observations = [between.reset(seed=5)[0]]
    for _ in range(30):
        weak.step(np.ones(4))
        observations.append(between.step(np.ones(4))[0])
    alone = bare("BipedalWalker-v3")
    expected = [alone.reset(seed=5)[0]] + [alone.step(np.ones(4))[0] for _ in range(30)]
    np.testing.assert_array_equal(observations, expected)
    with pytest.raises(IndexError):
        weak.step(np.ones(2))
    assert (bipedal_walker.MOTORS_TORQUE, bipedal_walker.SPEED_HIP, bipedal_walker.SPEED_KNEE) == (80, 4, 6)
    assert (bipedal_walker.LEG_FD.density, bipedal_walker.LOWER_FD.density) == (1.0, 1.0)


def test_privileged_observations_are_scaled_distances_from_the_nominal_values() -> None:
    env = fixed("Pendulum-v1", l=1.5, g=0.5)
    layout = ObservationLayout.of(env, key="env.id")
    observation = layout.flatten(env.reset(seed=2)[0], privileged=True)
    assert (layout.dim, layout.privileged_names, observation[3:].tolist()) == (3, ("g", "l"), [-1.0, 1.0])
    assert env.observation_space.contains(env.step(np.zeros(1))[0])


def test_a_mask_hides_entries_as_well() -> None:
    env = MaskObservation(fixed("Pendulum-v1", m=2.0), hide=[2])
    observation, info = env.reset(seed=2)
    assert env.privileged_names == ("observation[2]", "m")
    assert (observation["privileged"][1], info["episode_params"]) == (2.0, {"m": 2.0})
    with pytest.raises(ConfigError, match="must come before wrappers that hide something"):
        RandomizedPhysics(env, m=[1.0, 2.0])


@pytest.mark.parametrize("wrong", [[0.05, 1.0], [1.0, 11.0], [1.0, 0.5], [1.0], 1.0, [None, 1.0], [1.0, float("nan")]])
def test_a_range_outside_the_bounds_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"\.randomized_physics\.m must be \[lowest, highest\] within \[0\.1, 10\]"):
        RandomizedPhysics(bare("Pendulum-v1"), m=wrong)


def test_unknown_factors_and_environments_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\.randomized_physics\.mass must be one of \['g', 'm', 'l', 'max_torque'"):
        RandomizedPhysics(bare("Pendulum-v1"), mass=[1.0, 2.0])
    with pytest.raises(ConfigError, match=r"must be given ranges of some of \['g', 'm', 'l'"):
        RandomizedPhysics(bare("Pendulum-v1"))
    with pytest.raises(ConfigError, match=r"does not know what can vary in .* physics_factors, or .*PendulumEnv"):
        RandomizedPhysics(Recall(), m=[1.0, 2.0])


# --- environments that declare what can vary ---


class Leaky(gym.Env[np.ndarray, int]):
    """A tank that loses a part of its level in each step; wind is an absolute quantity, nominally none."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    wind = 0.0

    def __init__(self) -> None:
        self.leak, self.coefficients = 0.1, [1.0, 2.0]
        self.physics_factors = {
            "leak": scaled(self, "leak", "coefficients", low=0.0, high=5.0),
            "wind": Factor(set=lambda value: setattr(self, "wind", value), low=0.0, high=20.0, nominal=0.0, scale=20.0),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.level = 1.0
        return np.array([self.level], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.level *= 1 - self.leak
        return np.array([self.level], np.float32), self.wind, False, False, {}


class Declares(gym.Wrapper[Any, Any, Any, Any]):
    """Declares what can vary in an environment of somebody else."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.physics_factors = {"friction": scaled(env.unwrapped, "gravity")}


def test_an_environment_or_a_wrapper_declares_its_own_factors() -> None:
    env = RandomizedPhysics(Leaky(), wind=[5.0, 5.0], leak=[2.0, 2.0])
    observation, info = env.reset(seed=0)
    assert info["episode_params"] == {"leak": 2.0, "wind": 5.0}
    assert observation["privileged"].tolist() == [2.0, 0.25]
    assert env.step(0)[1] == 5.0
    assert (env.unwrapped.level, env.unwrapped.coefficients) == (pytest.approx(0.8), [2.0, 4.0])
    own = RandomizedPhysics(Declares(bare("MountainCar-v0")), friction=[2.0, 2.0])
    own.reset(seed=0)
    assert own.unwrapped.gravity == 0.005


def test_every_family_is_a_class_of_gymnasium() -> None:
    def classes(env: gym.Env) -> set[str]:
        return {path_of(base) for base in type(env).__mro__}

    assert set(FAMILIES) <= set.union(*(classes(bare(id)) for id in SIMULATORS))
