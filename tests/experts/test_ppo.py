"""PPO by Stable-Baselines3."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO

from ilt.envs.spec import EnvSpec
from ilt.experts.ppo import BatchedVecEnv, actor_of, state_of
from tests.toys import BLOCKS, countdown


def learned_from(first: int, count: int = 1) -> EnvSpec:
    """A Countdown that is learned from these seeds."""
    return replace(countdown(), seed_blocks={**BLOCKS, "demonstrations": (first, count)})


def small_ppo() -> PPO:
    """PPO on the toy, with weights far from their start."""
    kwargs = {"net_arch": [16, 12], "activation_fn": torch.nn.Tanh}
    model = PPO("MlpPolicy", BatchedVecEnv(countdown(), 2, [0]), device="cpu", seed=0, policy_kwargs=kwargs)
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
    spec = replace(learned_from(3), wrappers={"blind": {"hide": [1]}})
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


def test_the_actor_has_the_logits_and_actions_of_the_policy_it_is_copied_from() -> None:
    model = small_ppo()
    actor, observations = actor_of(model), np.random.default_rng(0).normal(0, 2, (200, 2)).astype(np.float32)
    logits = actor(torch.from_numpy(observations))
    theirs = model.policy.get_distribution(torch.from_numpy(observations)).distribution.logits
    torch.testing.assert_close(logits.log_softmax(dim=-1), theirs)
    assert logits.argmax(dim=-1).tolist() == model.predict(observations, deterministic=True)[0].tolist()
    assert actor.sizes == {"observation_dim": 2, "n_actions": 3, "hidden": [16, 12]}


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
