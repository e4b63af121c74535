"""PPO by Stable-Baselines3."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ilt.envs.spec import EnvSpec
from ilt.experts.actor import actor_policy
from ilt.experts.ppo import BatchedVecEnv, actor_of, state_of
from tests.experts.test_a2c import BLIND
from tests.experts.toys import SPACES, target
from tests.toys import BLOCKS, countdown


def learned_from(first: int, count: int = 1) -> EnvSpec:
    """A Countdown that is learned from these seeds."""
    return replace(countdown(), seed_blocks={**BLOCKS, "demonstrations": (first, count)})


def small_ppo(envs: VecEnv | None = None) -> PPO:
    """PPO on a toy, with weights far from their start."""
    kwargs = {"net_arch": [16, 12], "activation_fn": torch.nn.Tanh}
    model = PPO("MlpPolicy", envs or BatchedVecEnv(countdown(), 2, [0]), device="cpu", seed=0, policy_kwargs=kwargs)
    for parameter in model.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def steps_until_the_end(env: BatchedVecEnv) -> list[tuple[np.ndarray, bool, dict[str, Any]]]:
    """Observation, end and info of slot 0 after each step, up to the first end."""
    env.reset()
    seen: list[tuple[np.ndarray, bool, dict[str, Any]]] = []
    while not (seen and seen[-1][1]):
        observations, _, ends, infos = env.step(np.array([1]))
        seen.append((observations[0], bool(ends[0]), infos[0]))
    return seen


def test_an_episode_that_is_cut_hands_over_its_last_observation() -> None:
    steps = steps_until_the_end(BatchedVecEnv(learned_from(3), 1, [0]))
    observation, _, info = steps[-1]
    assert len(steps) == 3
    assert (info["terminal_observation"].tolist(), info["TimeLimit.truncated"]) == ([1, 3], True)
    assert observation.tolist() == [4, 3]  # the next episode has begun
    assert [info for _, _, info in steps[:-1]] == [{}, {}]


def test_an_episode_that_ends_by_itself_is_not_called_cut() -> None:
    observation, _, info = steps_until_the_end(BatchedVecEnv(learned_from(2), 1, [0]))[-1]
    assert (info["terminal_observation"].tolist(), info["TimeLimit.truncated"]) == ([0, 2], False)
    assert observation.tolist() == [3, 2]


def test_only_a_privileged_expert_is_shown_what_is_hidden_from_a_student() -> None:
    spec = replace(learned_from(3), wrappers=BLIND)
    student, privileged = BatchedVecEnv(spec, 1, [0]), BatchedVecEnv(spec, 1, [0], privileged=True)
    assert (student.observation_space.shape, privileged.observation_space.shape) == ((1,), (2,))
    assert (student.reset().tolist(), privileged.reset().tolist()) == ([[4]], [[4, 3]])
    step, (*_, info) = steps_until_the_end(student)[-1][0], steps_until_the_end(student)[-1]
    assert (step.shape, info["terminal_observation"].shape) == ((1,), (1,))


def test_what_was_handed_over_does_not_change_later() -> None:
    env = BatchedVecEnv(learned_from(4), 1, [0])
    first = env.reset()
    second, _, _, _ = env.step(np.array([1]))
    env.step(np.array([1]))
    assert (first.tolist(), second.tolist()) == ([[5, 4]], [[4, 4]])


def test_each_env_earns_its_own_reward() -> None:
    env = BatchedVecEnv(learned_from(4), 3, [0])
    env.reset()
    _, rewards, _, _ = env.step(np.array([0, 2, 1]))
    assert rewards.tolist() == [0.0, 2.0, 1.0]


def test_training_episodes_come_from_the_demonstrations_block() -> None:
    env = BatchedVecEnv(learned_from(500, 7), 4, [0])
    seeds = set(env.reset()[:, 1].tolist())
    for _ in range(30):
        seeds |= set(env.step(np.zeros(4, dtype=np.int64))[0][:, 1].tolist())
    assert seeds == set(range(500, 507))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", [*SPACES])
def test_the_actor_acts_as_the_policy_it_is_copied_from(kind: str, normalize: bool) -> None:
    envs: VecEnv = BatchedVecEnv(target(kind), 2, [0])
    if normalize:
        envs = VecNormalize(envs, clip_obs=np.inf)
        envs.obs_rms.mean, envs.obs_rms.var = np.array([0.5, -2.0]), np.array([0.04, 9.0])
    model, env = small_ppo(envs), target(kind)
    observations = np.random.default_rng(0).normal(0, 4, (200, 2)).astype(np.float32)
    seen = envs.normalize_obs(observations) if normalize else observations
    expected = env.action_space.decode(model.predict(seen, deterministic=True)[0])
    policy = actor_policy(actor_of(model), env.action_space, privileged=False, deterministic=True)
    np.testing.assert_allclose(policy.act(np.arange(200), observations), expected, rtol=0, atol=2e-5)
    if kind == "box":
        torch.testing.assert_close(actor_of(model).log_std, model.policy.log_std)


def test_the_actor_is_a_copy() -> None:
    model = small_ppo()
    actor = actor_of(model)
    before = actor(torch.ones(1, 2))
    torch.nn.init.zeros_(model.policy.action_net.weight)
    assert torch.equal(actor(torch.ones(1, 2)), before)


def test_the_state_holds_no_code(tmp_path: Path) -> None:
    model = small_ppo()
    torch.save(state_of(model), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert torch.equal(state["policy"]["action_net.weight"], model.policy.action_net.weight)
    assert state["steps"] == 0
