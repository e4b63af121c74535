"""A batch of environments in one process."""

from dataclasses import replace

import numpy as np
import pytest

from ilt.envs.batch import EnvBatch
from ilt.envs.spec import EnvSpec
from tests.toys import countdown, recall


def limited(steps: int) -> EnvSpec:
    return replace(countdown(), kwargs={"max_episode_steps": steps})


@pytest.mark.parametrize(
    ("spec", "seed", "length", "terminated", "last"),
    [
        (countdown(), 0, 1, True, [0, 0]),
        (countdown(), 1, 2, True, [0, 1]),
        (countdown(), 2, 3, True, [0, 2]),  # on the last allowed step
        (countdown(), 3, 3, False, [1, 3]),
        (countdown(), 4, 3, False, [2, 4]),
        (limited(4), 4, 4, False, [1, 4]),
        (limited(-1), 4, 5, True, [0, 4]),
        (recall(), 0, 12, True, None),
        (EnvSpec(id="LunarLander-v3", kwargs={"max_episode_steps": 7}), 0, 7, False, None),
    ],
    ids=str,
)
def test_episodes_terminate_or_truncate_and_keep_their_last_observation(
    spec: EnvSpec, seed: int, length: int, terminated: bool, last: list[float] | None
) -> None:
    batch = EnvBatch(spec, 1)
    for _ in range(2):  # a reset restarts the clock
        batch.reset(0, seed)
        steps = [batch.step(np.array([0]), np.array([1])) for _ in range(length)]
        ends = [(bool(terminated[0]), bool(truncated[0])) for _, terminated, truncated in steps]
        assert ends == [(False, False)] * (length - 1) + [(terminated, not terminated)]
        assert last is None or batch.observations[0].tolist() == last


def test_only_the_given_slots_step() -> None:
    batch = EnvBatch(countdown(), 3)
    for slot in range(3):
        batch.reset(slot, 4)
    rewards, _, _ = batch.step(np.array([2, 0]), np.array([1, 2]))
    assert batch.observations[:, 0].tolist() == [4, 5, 4]
    assert rewards.tolist() == [1.0, 2.0]


def test_a_batch_has_the_documented_dtypes_and_sizes_and_can_be_closed(lander: EnvSpec) -> None:
    batch = EnvBatch(lander, 2)
    batch.reset(1, 0)
    rewards, terminated, truncated = batch.step(np.array([1]), np.array([0]))
    assert (batch.observation_dim, batch.everything.shape) == (8, (2, 8))
    assert (batch.observations.dtype, rewards.dtype) == (np.float32, np.float64)
    assert terminated.dtype == truncated.dtype == np.bool_
    batch.close()


def test_zero_envs_are_refused() -> None:
    with pytest.raises(ValueError, match="n_envs must be at least 1, got 0"):
        EnvBatch(countdown(), 0)
