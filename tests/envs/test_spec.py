"""The specification of an environment from its config."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

from ilt.envs.batch import EnvBatch
from ilt.envs.check import check_env
from ilt.envs.spec import BLOCKS, NO_ENV, EnvSpec
from ilt.schema import ConfigError
from tests.toys import BLOCKS as TOY_BLOCKS
from tests.toys import countdown, recall


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({**TOY_BLOCKS, "demonstrations": (0, 1001)}, "disjoint, but demonstrations and validation overlap"),
        ({**TOY_BLOCKS, "test": (2010, 5)}, "disjoint, but selection and test overlap"),
        ({name: (1000 * i, 10) for i, name in enumerate(BLOCKS[:3])}, "name .*demonstrations"),
        ({**TOY_BLOCKS, "more": (4000, 10)}, "name .*demonstrations"),
    ],
)
def test_there_must_be_four_seed_blocks_without_overlap(blocks: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"env\.seed_blocks must (be )?{message}"):
        replace(countdown(), seed_blocks=blocks)


def test_seeds_are_consecutive_and_inside_their_block() -> None:
    seeds = countdown().seeds("selection", 3, offset=4)
    assert (seeds.tolist(), seeds.dtype) == ([2004, 2005, 2006], np.int64)
    assert countdown().seeds("test", 100)[-1] == 3099
    assert [countdown().block_of(countdown().seeds(block, 100)) for block in BLOCKS] == list(BLOCKS)


@pytest.mark.parametrize(("count", "offset"), [(101, 0), (1, 100), (51, 50), (0, 0), (5, -1)])
def test_seeds_outside_their_block_are_refused(count: int, offset: int) -> None:
    with pytest.raises(ValueError, match=r"seeds .* of the test block .* env\.seed_blocks\.test holds 100"):
        countdown().seeds("test", count, offset)


@pytest.mark.parametrize("seeds", [[999, 1000], [2099, 2100], [3100], [-1]])
def test_seeds_not_in_one_block_are_refused(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match=r"do not lie in one block of env\.seed_blocks"):
        countdown().block_of(np.array(seeds))


@pytest.mark.parametrize(("given", "limit"), [(None, 3), (-1, None), (7, 7)])
def test_the_time_limit_comes_from_the_registration_or_the_config(given: int | None, limit: int | None) -> None:
    assert replace(countdown(), kwargs={"max_episode_steps": given}).max_episode_steps == limit
    assert (countdown().max_episode_steps, recall().max_episode_steps) == (3, None)


def test_kwargs_and_wrappers_reach_the_environment_and_its_identity(lander: EnvSpec) -> None:
    light = replace(lander, kwargs={"gravity": -5.0}, success_return=0.0)
    assert (light.make().gravity, light.make(gravity=-6.0).gravity) == (-5.0, -6.0)
    assert light.identity() == {"id": "LunarLander-v3", "kwargs": {"gravity": -5.0}}
    masked = replace(lander, wrappers={"any name": {**MASK, "hide": [2]}}).identity()
    assert masked["wrappers"] == [{"component": MASK["_target_"], "version": 1, "hide": [2]}]


MASK = {"_target_": "ilt.envs.wrappers.MaskObservation", "hide": [1, 3]}
LIMIT = {"_target_": "gymnasium.wrappers.TimeLimit"}
POSITIONS = {"positions": {"_target_": f"{__name__}.Positions"}}


class Positions(gym.ObservationWrapper[Any, Any, Any], gym.utils.RecordConstructorArgs):
    """CartPole without velocities."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,))

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[[0, 2]]


gym.register("ilt-toys/Positions-v0", lambda **kwargs: Positions(CartPoleEnv(**kwargs)), max_episode_steps=9)
ADDED = {"max_episode_steps": 9, "additional_wrappers": (Positions.wrapper_spec(),)}
gym.register("ilt-toys/Added-v0", CartPoleEnv, **ADDED)


@pytest.mark.parametrize("id", ["ilt-toys/Positions-v0", "ilt-toys/Added-v0"])
def test_registered_wrappers_are_kept(id: str) -> None:
    spec = EnvSpec(id=id, kwargs={"sutton_barto_reward": True})
    assert spec.observations.dim == 2
    batch = EnvBatch(spec, 1)
    batch.reset(0, 3)
    assert np.array_equal(batch.observations[0], gym.make("CartPole-v1").reset(seed=3)[0][[0, 2]])
    for limit, length in ((None, 9), (5, 5), (-1, None)):
        limited = replace(spec, kwargs={"max_episode_steps": limit})
        assert limited.max_episode_steps == length
        check_env(limited)


@pytest.mark.parametrize(
    ("changes", "dim", "message"),
    [
        ({"id": "tests.toys:ilt-toys/Recall-v0"}, 1, r"only imported with trust=\[tests\.toys\]"),
        ({"wrappers": POSITIONS}, 2, r"env\.wrappers\.positions\._target_=tests.* trust=\[tests\]"),
    ],
)
def test_code_of_another_package_runs_only_if_trusted(changes: Any, dim: int, message: str) -> None:
    spec = EnvSpec(**{"id": "CartPole-v1", "seed_blocks": TOY_BLOCKS, **changes})
    assert spec.observations.dim == replace(spec, trust=("tests",)).observations.dim == dim
    with pytest.raises(ConfigError, match=message):
        _ = replace(spec, trust=()).observations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "CartPoll-v1"}, r"env\.id must be .* Gymnasium knows, got CartPoll-v1: .* Did you mean: `CartPole`"),
        ({"id": "nowhere:Some-v0"}, r"env\.id=nowhere:Some-v0: nowhere cannot be imported"),
        ({"kwargs": {"windy": True}}, r"env\.kwargs must be arguments of CartPole-v1, got \{'windy': True\}"),
        ({"id": "LunarLander-v3", "kwargs": {"gravity": 5}}, r"env\.kwargs .* gravity \(current value: 5\) must be"),
        ({"wrappers": {"mask": {}}}, r"env\.wrappers\.mask must have a _target_"),
        ({"wrappers": {"mask": {"_target_": "nowhere.Mask"}}}, r"env\.wrappers\.mask\._target_ must be the dotted"),
        ({"wrappers": {"mask": {**MASK, "hid": 1}}}, r"env\.wrappers\.mask\.hid is not a key .* mean .*\.mask\.hide"),
        ({"wrappers": {"mask": {**MASK, "hide": [4]}}}, "hide must be some of the indices 0 to 3, each once, got"),
        ({"wrappers": {"time": {**LIMIT, "max_episode_steps": -2}}}, "cannot wrap"),
    ],
)
def test_creation_errors_are_one_line_that_names_the_key(changes: dict[str, Any], message: str) -> None:
    spec = EnvSpec(**{"id": "CartPole-v1", "seed_blocks": TOY_BLOCKS, **changes})
    with pytest.raises(ConfigError, match=message) as caught:
        _ = spec.observations
    assert "\n" not in str(caught.value)


def test_using_one_environment_does_not_import_another() -> None:
    code = (
        "import sys; from ilt.envs.spec import EnvSpec; spec = EnvSpec(id='CartPole-v1'); print(spec.observations.dim);"
        "sys.exit(any('box2d' in name.lower() for name in sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "4\n"


def test_without_an_environment_the_spaces_are_given_and_nothing_can_be_made() -> None:
    spec = EnvSpec(id=NO_ENV)
    assert not spec.simulated
    known = replace(spec, spaces=(spaces.Dict({"a": spaces.Discrete(3)}), spaces.Discrete(2, start=1)))
    assert (known.observations.dim, known.action_space.start, known.episode_params) == (3, (1,), ())
    assert known.identity() == spec.identity() == {"id": "none", "kwargs": {}}
    assert known.registration is None
    for act in (known.make, lambda: spec.observations):
        with pytest.raises(ConfigError, match=r"^env must be an environment to act in, got none"):
            act()
    for name, value in {"kwargs": {"a": 1}, "wrappers": {"mask": MASK}, "gate": 1.0, "heuristic": "a.b"}.items():
        with pytest.raises(ConfigError, match=rf"^env\.{name} cannot be set where env=none"):
            replace(spec, **{name: value})
