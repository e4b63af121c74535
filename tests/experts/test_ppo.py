"""PPO from Stable-Baselines3."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from ilt.experts.actor import ACTIVATIONS, Actor, actor_policy
from ilt.experts.ppo import actor_of
from ilt.experts.sb3 import BatchedVecEnv
from tests.experts.toys import SPACES, learned_from, target


def small_ppo(envs: VecEnv, activation: str = "tanh") -> PPO:
    """Return an untrained PPO model with large random weights."""
    kwargs = {"net_arch": [16, 12], "activation_fn": ACTIVATIONS[activation]}
    model = PPO("MlpPolicy", envs, device="cpu", seed=0, policy_kwargs=kwargs)
    for parameter in model.policy.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize(("seed", "last", "truncated"), [(3, [1, 3], True), (2, [0, 2], False)])
def test_the_end_of_an_episode_is_reported_to_ppo(seed: int, last: list[int], truncated: bool) -> None:
    env = BatchedVecEnv(learned_from(seed), 1, [0])
    first = env.reset()
    steps = [env.step(np.array([1])) for _ in range(3)]
    assert [bool(ends[0]) for _, _, ends, _ in steps] == [False, False, True]
    assert [infos for *_, infos in steps[:2]] == [[{}], [{}]]
    observations, _, _, (info,) = steps[-1]
    assert (info["terminal_observation"].tolist(), info["TimeLimit.truncated"]) == (last, truncated)
    assert observations.tolist() == first.tolist() == [[seed + 1, seed]]  # the next episode has started


def test_each_env_has_its_own_reward_and_observations_are_copies() -> None:
    env = BatchedVecEnv(learned_from(4), 3, [0])
    first = env.reset()
    second, rewards, _, _ = env.step(np.array([0, 2, 1]))
    env.step(np.array([1, 1, 1]))
    assert rewards.tolist() == [0.0, 2.0, 1.0]
    assert (first.tolist(), second.tolist()) == ([[5, 4]] * 3, [[4, 4]] * 3)


@pytest.mark.parametrize("activation", [*ACTIVATIONS])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", [*SPACES])
def test_the_actor_acts_like_the_policy_it_was_copied_from(
    kind: str, normalize: bool, activation: str, tmp_path: Path
) -> None:
    envs: VecEnv = BatchedVecEnv(target(kind), 2, [0])
    if normalize:
        envs = VecNormalize(envs, clip_obs=np.inf)
        envs.obs_rms.mean, envs.obs_rms.var = np.array([0.5, -2.0]), np.array([0.04, 9.0])
    model, space = small_ppo(envs, activation), target(kind).action_space
    observations = np.random.default_rng(0).normal(0, 4, (200, 2)).astype(np.float32)
    seen = envs.normalize_obs(observations) if normalize else observations
    actor = actor_of(model)
    policy = actor_policy(actor, space, privileged=False, deterministic=True)
    expected = space.decode(model.predict(seen, deterministic=True)[0])
    np.testing.assert_allclose(policy.act(np.arange(200), observations), expected, rtol=0, atol=2e-5)
    actor.save(tmp_path / "actor.safetensors")
    read = actor_policy(Actor.load(tmp_path / "actor.safetensors"), space, privileged=False, deterministic=True)
    np.testing.assert_array_equal(read.act(np.arange(200), observations), policy.act(np.arange(200), observations))
    if kind == "box":
        torch.testing.assert_close(actor.log_std, model.policy.log_std)
    before = actor(torch.from_numpy(observations))
    torch.nn.init.zeros_(model.policy.action_net.weight)
    assert torch.equal(actor(torch.from_numpy(observations)), before)  # the actor is a copy
