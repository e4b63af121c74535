"""Actions as the simulator, files and models represent them."""

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from ilt.envs.actions import ActionSpace
from ilt.schema import ConfigError
from tests.toys import MULTI, TENSOR

SHIFTED = spaces.Discrete(4, start=-2)


@pytest.mark.parametrize("space", [spaces.Discrete(3), SHIFTED, spaces.MultiDiscrete([3, 2]), MULTI, TENSOR], ids=str)
def test_decoded_values_are_valid_actions_and_encode_back(space: spaces.Space[Any]) -> None:
    described = ActionSpace.of(space)
    actions = described.sample(np.random.default_rng(0).random((200, described.dim)))
    assert all(space.contains(action) for action in described.for_simulator(actions))
    assert (actions.dtype, actions.shape) == (described.dtype, described.zeros(200).shape)
    encoded = described.encode(actions)
    np.testing.assert_allclose(described.decode(encoded), actions, atol=1e-6)
    assert described.decode(encoded).dtype == encoded.dtype == described.dtype
    if described.continuous:
        assert (encoded.min(), encoded.max()) == pytest.approx((-1, 1), abs=0.05)
    else:
        columns = encoded.reshape(200, -1).T
        assert [set(column.tolist()) for column in columns] == [set(range(n)) for n in described.n_choices]
    assert described.check(actions, 200, source="it").tolist() == actions.tolist()


def test_continuous_actions_are_scaled_and_clipped_to_their_bounds_despite_rounding() -> None:
    described = ActionSpace.of(TENSOR)
    assert described.decode(np.array([[-1, 0, 1, -5, 5, 0]], np.float32)).tolist() == [[0, 2, 5, -3, 9, 5]]
    assert described.encode(described.decode(np.full((1, 6), 7.0))).tolist() == [[1] * 6]
    assert described.clip(np.full((1, 6), 100.0)).tolist() == [TENSOR.high.ravel().tolist()]
    given = described.check(np.full((2, 2, 3), -100.0), 2, source="it")  # in the space's own shape, and float64
    assert given.tolist() == [TENSOR.low.ravel().tolist()] * 2
    assert given.dtype == np.float32
    rounded = spaces.Box(np.float32(-0.1), np.float32(0.7), (1,))
    assert all(rounded.contains(end) for end in ActionSpace.of(rounded).decode(np.array([[-1.0], [1.0]])))


@pytest.mark.parametrize(
    ("space", "actions", "message"),
    [
        (spaces.Discrete(3), np.array([0, 3]), r"actions of integers 0 … 2, got \[0 3\]"),
        (SHIFTED, np.array([-3, 0]), "actions of integers -2 … 1"),
        (spaces.Discrete(3), np.array([0.0, 1.0]), r"actions of shape \(2,\) \(integers\), got float64"),
        (spaces.Discrete(3), np.array([[0], [1]]), r"actions of shape \(2,\) \(integers\), got int64 of \(2, 1\)"),
        (MULTI, np.array([[1, -1], [1, 1]]), "actions of integers 1 … 3, -1 … 0"),
        (TENSOR, np.zeros((2, 5)), r"actions of shape \(2, 6\) \(numbers\), got float64 of \(2, 5\)"),
        (TENSOR, np.full((2, 6), np.nan), "finite actions"),
    ],
)
def test_invalid_actions_are_refused(space: spaces.Space[Any], actions: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"it must return {message}"):
        ActionSpace.of(space).check(actions, 2, source="it")


UNBOUNDED, EMPTY = spaces.Box(-np.inf, 1.0, (2,)), spaces.Box(1.0, 1.0, (2,))
INTEGERS, NESTED = spaces.Box(0, 255, (2,), np.uint8), spaces.Dict({"a": spaces.Discrete(2)})
UNKNOWN = [UNBOUNDED, INTEGERS, EMPTY, spaces.MultiDiscrete([[2, 3]]), spaces.MultiBinary(3), NESTED]


@pytest.mark.parametrize("space", UNKNOWN, ids=str)
def test_unsupported_action_spaces_are_refused(space: spaces.Space[Any]) -> None:
    message = r"env\.id: actions must be Discrete, a flat MultiDiscrete, or a Box of floats"
    with pytest.raises(ConfigError, match=message):
        ActionSpace.of(space)


@pytest.mark.parametrize(
    ("inner", "outer", "fits"),
    [
        (spaces.Discrete(2), spaces.Discrete(3), True),
        (spaces.Discrete(3), spaces.Discrete(2), False),
        (spaces.Discrete(2, start=-1), SHIFTED, True),
        (spaces.Discrete(3), SHIFTED, False),
        (spaces.MultiDiscrete([2, 2]), spaces.MultiDiscrete([2, 3]), True),
        (spaces.MultiDiscrete([2]), spaces.Discrete(2), False),
        (spaces.Box(-0.5, 1.0, (6,)), spaces.Box(-1.0, 1.0, (2, 3)), True),
        (spaces.Box(-0.5, 1.5, (6,)), spaces.Box(-1.0, 1.0, (2, 3)), False),
        (spaces.Box(-0.5, 0.5, (2,)), spaces.Box(-1.0, 1.0, (3,)), False),
    ],
)
def test_a_space_includes_another_whose_stored_actions_are_all_its_own(
    inner: spaces.Space[Any], outer: spaces.Space[Any], fits: bool
) -> None:
    assert ActionSpace.of(outer).includes(ActionSpace.of(inner)) is fits
