"""Observations as vectors: first what a student sees, then what only a teacher sees."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from ilt.envs.batch import EnvBatch
from ilt.envs.observations import ObservationLayout
from ilt.envs.spec import EnvSpec
from ilt.schema import ConfigError
from tests.toys import HIDING, VECTOR, echo

PARTS = {"a": VECTOR, "b": spaces.Discrete(3)}
PRIVILEGED = spaces.Dict({"observation": VECTOR, "privileged": spaces.Dict(PARTS)})


def numbered(n: int, part: str = "observation") -> str:
    return " ".join(f"{part}[{i}]" for i in range(n))


@pytest.mark.parametrize(
    ("space", "names", "privileged"),
    [
        (VECTOR, numbered(2), ""),
        (spaces.Box(0, 255, (2, 3), np.uint8), numbered(6), ""),
        (spaces.Discrete(4, start=2), numbered(4), ""),
        (spaces.Dict(PARTS), "a[0] a[1] b[0] b[1] b[2]", ""),
        (spaces.Dict({"x": spaces.Box(0, 1, (1,)), "in": spaces.Dict(PARTS)}), "a[0] a[1] b[0] b[1] b[2] x", ""),
        (spaces.Tuple([VECTOR, spaces.Discrete(3)]), numbered(5), ""),
        (HIDING, "a[0] a[1] b[0] b[1] b[2]", numbered(2, "privileged")),
        (spaces.Dict({**PRIVILEGED, "privileged": spaces.Discrete(3)}), numbered(2), numbered(3, "privileged")),
        (PRIVILEGED, numbered(2), "a[0] a[1] b[0] b[1] b[2]"),
    ],
    ids=str,
)
def test_any_observation_becomes_a_vector_with_names(space: spaces.Space[Any], names: str, privileged: str) -> None:
    layout = echo(space).observations
    assert (" ".join(layout.names), " ".join(layout.privileged_names)) == (names, privileged)
    assert layout.dim == len(layout.names) == layout.size(privileged=False)
    assert layout.shown(privileged=True) == (*layout.names, *layout.privileged_names)
    one, other = space.sample(), space.sample()
    whole = spaces.flatten(space, one)
    if privileged:
        whole = np.concatenate([spaces.flatten(space[part], one[part]) for part in ("observation", "privileged")])
    row = np.zeros(layout.size(privileged=True), dtype=np.float32)
    layout.writer(row, one)
    np.testing.assert_array_equal(row, whole.astype(np.float32))
    np.testing.assert_array_equal(layout.flatten(one), row[: layout.dim])
    np.testing.assert_array_equal(layout.flatten(one, privileged=True), row)
    batch = gym.vector.utils.concatenate(space, [one, other], gym.vector.utils.create_empty_array(space, 2))
    both = layout.flatten(batch, privileged=True)
    np.testing.assert_array_equal(both, [row, layout.flatten(other, privileged=True)])
    assert both.dtype == np.float32


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (
            spaces.Box(np.float32([-1.2, -0.07]), np.float32([0.6, 0.07])),
            [1.8 / 12**0.5, 0.14 / 12**0.5],
        ),  # MountainCar
        (spaces.Box(np.float32([-np.inf] * 2), np.float32([0.5, np.inf])), [1, 1]),
        (spaces.Box(-3e38, 3e38, (1, 2), np.float32), [1, 1]),  # the difference is more than a float32
        (spaces.Dict({"seen": spaces.Discrete(2), "z": spaces.Box(0, 255, (1,), np.uint8)}), [12**-0.5, 12**-0.5, 1]),
        (HIDING, [*[3**-0.5] * 2, *[12**-0.5] * 3]),
    ],
    ids=str,
)
def test_the_expected_deviation_is_that_of_a_uniform_distribution(space: spaces.Space[Any], expected: list) -> None:
    np.testing.assert_allclose(echo(space).observations.expected_deviation, expected, rtol=1e-6)


@pytest.mark.parametrize("space", [spaces.Sequence(VECTOR), spaces.Graph(VECTOR, None)], ids=str)
def test_observations_without_a_fixed_size_are_refused(space: spaces.Space[Any]) -> None:
    with pytest.raises(ConfigError, match=r"env\.id=ilt-toys/Echo-v0: observations must be of a fixed size"):
        _ = echo(space).observations
    env = gym.make("CartPole-v1")
    env.observation_space = spaces.Box(0, 1, (0,))
    with pytest.raises(ConfigError, match="observations must contain a number"):
        ObservationLayout.of(env, key="env.id")


def test_the_observation_space_of_a_batch_is_what_the_policy_sees() -> None:
    for privileged, size in ((False, 5), (True, 7)):
        batch = EnvBatch(echo(HIDING), 1, privileged=privileged)
        assert batch.observation_space.shape == batch.observations.shape[1:] == (size,)
        assert batch.observation_space.low.tolist() == [-1, -1, 0, 0, 0, -1, -1][:size]


@pytest.mark.parametrize(
    ("shown", "privileged", "message"),
    [
        (np.zeros(3), False, "an observation must have 4 numbers, got 3"),
        (np.zeros((2, 5)), False, "an observation must have 4 numbers, got 5"),
        (np.zeros(5), True, "an observation must have 4 numbers, got 5"),
    ],
)
def test_an_observation_of_the_wrong_size_is_refused(shown: np.ndarray, privileged: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnvSpec(id="CartPole-v1").observations.flatten(shown, privileged=privileged)
