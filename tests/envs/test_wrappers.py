"""What a student is not shown."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.box2d import lunar_lander

from ilt.envs.lunar_lander import PARAMETERS, RandomizedPhysics
from ilt.envs.wrappers import MaskObservation

RANGES = {
    "gravity": [-11.5, -5.0],
    "wind_power": [0.0, 20.0],
    "turbulence_power": [0.0, 2.0],
    "main_engine_power": [0.9, 1.1],
    "side_engine_power": [0.9, 1.1],
}


def bare(**kwargs: object) -> gym.Env:
    return gym.make("LunarLander-v3", **kwargs).unwrapped


def run(env: gym.Env, seed: int, n_steps: int = 60) -> tuple[np.ndarray, list[float]]:
    """Observations and rewards of an episode of which the actions are always the same."""
    observations, rewards = [env.reset(seed=seed)[0]], []
    for t in range(n_steps):
        observation, reward, *_ = env.step([0, 2, 2, 1, 3][t % 5])
        observations.append(observation)
        rewards.append(float(reward))
    return np.array(observations), rewards


# --- hidden physics ---


def test_physics_lie_in_their_ranges_and_differ_between_episodes() -> None:
    env, drawn = RandomizedPhysics(bare(), **RANGES), []
    for seed in range(50):
        env.reset(seed=seed)
        drawn.append([env.facts[name] for name in RANGES])
    low, high = np.array(list(RANGES.values())).T
    assert np.all((low <= drawn) & (drawn <= high))
    assert np.all(np.ptp(drawn, axis=0) > 0.8 * (high - low))
    assert abs(np.corrcoef(np.array(drawn).T) - np.eye(5)).max() < 0.5


def test_an_episode_is_decided_by_its_seed_and_by_nothing_that_was_flown_before() -> None:
    used, fresh = RandomizedPhysics(bare(), **RANGES), RandomizedPhysics(bare(), **RANGES)
    run(used, 1)
    again, first = run(used, 7), run(fresh, 7)
    np.testing.assert_array_equal(again[0], first[0])
    assert again[1] == first[1]
    assert used.facts == fresh.facts


def test_the_range_of_one_parameter_changes_no_other() -> None:
    wide, narrow = RandomizedPhysics(bare(), **RANGES), RandomizedPhysics(bare(), **RANGES | {"gravity": [-9.0, -9.0]})
    wide.reset(seed=3)
    narrow.reset(seed=3)
    assert narrow.facts == {**wide.facts, "gravity": -9.0}


def test_where_nothing_varies_an_episode_is_that_of_the_bare_lander() -> None:
    for kwargs in ({}, {"gravity": -8.0, "enable_wind": True, "wind_power": 12.0}):
        plain, wrapped = run(bare(**kwargs), 11), run(RandomizedPhysics(bare(**kwargs)), 11)
        np.testing.assert_array_equal(wrapped[0][:, :8], plain[0])
        assert wrapped[1] == plain[1]


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_every_parameter_changes_the_flight(parameter: str) -> None:
    other = PARAMETERS[parameter].low if parameter == "gravity" else PARAMETERS[parameter].high
    changed, nominal = (
        run(RandomizedPhysics(bare(), **{parameter: [other, other]}), 5),
        run(RandomizedPhysics(bare()), 5),
    )
    assert np.abs(changed[0][-1, :8] - nominal[0][-1, :8]).max() > 1e-3


def test_stronger_engines_belong_to_their_own_lander_alone() -> None:
    nominal = run(bare(), 5)
    strong, between = RandomizedPhysics(bare(), main_engine_power=[1.5, 1.5]), bare()
    strong.reset(seed=5)
    observations = [between.reset(seed=5)[0]]
    for t in range(60):
        strong.step([0, 2, 2, 1, 3][t % 5])
        observations.append(between.step([0, 2, 2, 1, 3][t % 5])[0])
    np.testing.assert_array_equal(observations, nominal[0])
    assert lunar_lander.MAIN_ENGINE_POWER == 13.0


def test_a_step_that_fails_leaves_the_engines_nominal() -> None:
    strong = RandomizedPhysics(bare(), main_engine_power=[1.5, 1.5])
    strong.reset(seed=5)
    with pytest.raises(AssertionError, match="invalid"):
        strong.step(17)
    assert lunar_lander.MAIN_ENGINE_POWER == 13.0


def test_behind_what_the_student_sees_stand_physics_and_wind() -> None:
    env = RandomizedPhysics(bare(), gravity=[-5.0, -5.0], wind_power=[20.0, 20.0], turbulence_power=[2.0, 2.0])
    observation, _ = env.reset(seed=2)
    assert observation.shape == env.observation_space.shape == (15,)
    assert observation.dtype == np.float32
    np.testing.assert_allclose(observation[8:13], [1.0, 1.0, 1.0, 0.0, 0.0])
    assert hidden_names(env) == (*RANGES, "wind_force", "wind_torque")
    assert hidden_names(bare()) == ()


def test_physics_can_be_told_in_words() -> None:
    nominal = {name: parameter.nominal for name, parameter in PARAMETERS.items()}
    assert in_words(nominal) == [
        "gravity -10.0",
        "wind 0 of 20",
        "turbulence 0.0 of 2",
        "main engine 100%",
        "side engines 100%",
    ]


def test_the_wind_that_is_told_is_the_one_that_blows_in_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    env = RandomizedPhysics(bare(), **RANGES)
    told, _ = env.reset(seed=2)
    for _ in range(20):
        body, felt = env.unwrapped.lander, {}
        with monkeypatch.context() as patch:  # the simulator's body cannot be spied on, but it can be replaced
            patch.setattr(env.unwrapped, "lander", _Felt(body, felt))
            told_before, (told, *_) = told, env.step(0)
        assert told_before[13] == pytest.approx(felt["force"] / 20, abs=1e-6)
        assert told_before[14] == pytest.approx(felt["torque"] / 2, abs=1e-6)


class _Felt:
    """A body that keeps the force and torque of the wind."""

    def __init__(self, body: object, felt: dict[str, float]) -> None:
        self._body, self._felt = body, felt

    def __getattr__(self, name: str) -> object:
        return getattr(self._body, name)

    def ApplyForceToCenter(self, force: tuple[float, float], wake: bool) -> None:  # noqa: N802  (Box2D's name)
        self._felt["force"] = force[0]
        self._body.ApplyForceToCenter(force, wake)

    def ApplyTorque(self, torque: float, wake: bool) -> None:  # noqa: N802
        self._felt["torque"] = torque
        self._body.ApplyTorque(torque, wake)


def test_on_the_ground_there_is_no_wind() -> None:
    env = RandomizedPhysics(bare(), wind_power=[20.0, 20.0], turbulence_power=[2.0, 2.0])
    env.reset(seed=2)
    for _ in range(200):
        observation, _, terminated, *_ = env.step(0)
        if observation[6:8].any() or terminated:
            break
    assert observation[6:8].any()
    assert not observation[13:].any()


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("gravity", [-12.0, -5.0]),
        ("gravity", [-5.0, 0.0]),
        ("gravity", [-5.0, -11.0]),
        ("wind_power", [0.0, 21.0]),
        ("turbulence_power", [-0.1, 1.0]),
        ("main_engine_power", [0.0, 1.0]),
        ("side_engine_power", [1.0]),
        ("side_engine_power", 1.0),
        ("side_engine_power", [None, 1.0]),
    ],
)
def test_a_parameter_out_of_the_simulators_bounds_is_refused_when_the_config_is_read(
    lander: EnvSpec, name: str, given: object
) -> None:
    with pytest.raises(ValueError, match=rf"env\.wrappers\.hidden_physics\.{name} must be \[lowest, highest\] within"):
        EnvSpec(
            id=lander.id,
            success_return=200.0,
            seed_blocks=lander.seed_blocks,
            wrappers={"hidden_physics": {name: given}},
        )


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"env\.wrappers\.hidden_physics\.mass must be one of \['gravity'"):
        RandomizedPhysics(bare(), mass=[1.0, 2.0])


def test_physics_of_something_else_are_refused() -> None:
    with pytest.raises(ValueError, match="must be the first wrapper of a LunarLander"):
        RandomizedPhysics(gym.make("CartPole-v1").unwrapped)
    with pytest.raises(ValueError, match="must be the first wrapper of a LunarLander"):
        RandomizedPhysics(MaskObservation(bare(), hide=[2]))


# --- blind ---


def test_the_student_loses_what_is_hidden_and_a_privileged_expert_finds_it_behind() -> None:
    plain, blind = run(bare(), 3), MaskObservation(bare(), hide=[5, 2, 3])
    observations, rewards = run(blind, 3)
    assert visible(blind) == 5
    np.testing.assert_array_equal(observations, plain[0][:, [0, 1, 4, 6, 7, 2, 3, 5]])
    assert rewards == plain[1]
    assert blind.observation_space.high[0] == bare().observation_space.high[0]
    assert blind.observation_space.high[5] == bare().observation_space.high[2]


def test_any_environment_can_be_blind() -> None:
    blind = MaskObservation(gym.make("CartPole-v1").unwrapped, hide=[1, 3])
    assert (visible(gym.make("CartPole-v1").unwrapped), visible(blind)) == (4, 2)
    assert blind.reset(seed=1)[0].shape == (4,)
    assert facts(blind) == {}


def test_wrappers_on_each_other() -> None:
    env = MaskObservation(RandomizedPhysics(bare(), **RANGES), hide=[2, 3, 5])
    observation, _ = env.reset(seed=4)
    inner = RandomizedPhysics(bare(), **RANGES)
    other, _ = inner.reset(seed=4)
    np.testing.assert_array_equal(observation, other[[0, 1, 4, 6, 7, 2, 3, 5, *range(8, 15)]])
    assert visible(env) == 5
    assert hidden_names(env) == ("observation[2]", "observation[3]", "observation[5]", *inner.hidden)
    assert facts(env) == inner.facts != {}


@pytest.mark.parametrize("hide", [[], [8], [-1], [2, 2], list(range(8))])
def test_places_that_cannot_be_hidden_are_refused(hide: list[int]) -> None:
    with pytest.raises(ValueError, match=r"env\.wrappers\.blind\.hide must be some of the places 0 to 7, each once"):
        MaskObservation(bare(), hide=hide)
