"""Many environments in one process."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ilt.envs.batch import EnvBatch
from ilt.envs.spec import EnvSpec
from tests.toys import countdown, recall


def ends(batch: EnvBatch, seed: int) -> list[tuple[bool, bool]]:
    """(terminated, truncated) after each step of an episode in slot 0, up to its end."""
    batch.reset(0, seed)
    seen = [(False, False)]
    while not any(seen[-1]):
        _, terminated, truncated = batch.step(np.array([0]), np.array([1]))
        seen.append((bool(terminated[0]), bool(truncated[0])))
    return seen[1:]


def run(batch: EnvBatch, slot: int, seed: int, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observations and rewards of the episode of `seed` under these actions, up to its end."""
    batch.reset(slot, seed)
    observations, rewards = [batch.observations[slot].copy()], []
    for action in actions:
        reward, terminated, truncated = batch.step(np.array([slot]), np.array([action]))
        observations.append(batch.observations[slot].copy())
        rewards.append(reward[0])
        if terminated[0] or truncated[0]:
            break
    return np.stack(observations), np.array(rewards)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_episode_that_ends_by_itself_is_terminated(seed: int) -> None:
    assert ends(EnvBatch(countdown(), 1), seed)[-1] == (True, False)


@pytest.mark.parametrize("seed", [3, 4])
def test_an_episode_that_runs_out_of_time_is_truncated(seed: int) -> None:
    assert ends(EnvBatch(countdown(), 1), seed) == [(False, False), (False, False), (False, True)]


def test_an_episode_that_ends_by_itself_on_its_last_allowed_step_is_not_truncated() -> None:
    assert ends(EnvBatch(countdown(), 1), seed=2) == [(False, False), (False, False), (True, False)]


def test_a_reset_restarts_the_clock() -> None:
    batch = EnvBatch(countdown(), 1)
    assert [len(ends(batch, seed)) for seed in (3, 3, 0, 4)] == [3, 3, 1, 3]


def test_the_config_can_shorten_and_lengthen_episodes(lander: EnvSpec) -> None:
    assert len(ends(EnvBatch(replace(lander, kwargs={"max_episode_steps": 7}), 1), seed=0)) == 7
    assert len(ends(EnvBatch(replace(countdown(), kwargs={"max_episode_steps": 4}), 1), seed=4)) == 4


def test_without_a_time_limit_an_episode_ends_by_itself() -> None:
    assert len(ends(EnvBatch(recall(), 1), seed=0)) == 12


def test_a_time_limit_of_minus_one_lets_episodes_end_by_themselves() -> None:
    assert len(ends(EnvBatch(replace(countdown(), kwargs={"max_episode_steps": -1}), 1), seed=4)) == 5


@pytest.mark.parametrize(("seed", "last"), [(0, [0, 0]), (2, [0, 2]), (4, [2, 4])])
def test_the_last_observation_of_an_episode_is_not_lost(seed: int, last: list[float]) -> None:
    batch = EnvBatch(countdown(), 1)
    ends(batch, seed)
    assert batch.observations[0].tolist() == last


def test_only_the_slots_that_act_move() -> None:
    batch = EnvBatch(countdown(), 3)
    for slot in range(3):
        batch.reset(slot, 4)
    rewards, _, _ = batch.step(np.array([2, 0]), np.array([1, 2]))
    assert batch.observations[:, 0].tolist() == [4, 5, 4]
    assert rewards.tolist() == [1.0, 2.0]


def test_dtypes_and_sizes(lander: EnvSpec) -> None:
    batch = EnvBatch(lander, 2)
    batch.reset(1, 0)
    rewards, terminated, truncated = batch.step(np.array([1]), np.array([0]))
    assert (batch.observation_dim, batch.everything.shape) == (8, (2, 8))
    assert (batch.observations.dtype, rewards.dtype) == (np.float32, np.float64)
    assert terminated.dtype == truncated.dtype == np.bool_


@pytest.mark.parametrize("kwargs", [{}, {"enable_wind": True, "gravity": -8.0}])
def test_the_same_seed_gives_the_same_episode_in_a_reused_env_as_in_a_fresh_one(
    lander: EnvSpec, kwargs: dict[str, Any]
) -> None:
    spec = replace(lander, kwargs=kwargs)
    actions = np.random.default_rng(0).integers(0, 4, 150)
    used = EnvBatch(spec, 1)
    for seed in (5, 6):
        run(used, 0, seed, actions[::-1])
    observations, rewards = run(used, 0, 7, actions)
    fresh_observations, fresh_rewards = run(EnvBatch(spec, 3), 2, 7, actions)
    assert np.array_equal(observations, fresh_observations)
    assert np.array_equal(rewards, fresh_rewards)


def test_no_envs_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="n_envs must be at least 1, got 0"):
        EnvBatch(countdown(), 0)


def test_a_closed_batch_closes_every_env(lander: EnvSpec) -> None:
    batch = EnvBatch(lander, 2)
    batch.reset(0, 0)
    batch.close()
