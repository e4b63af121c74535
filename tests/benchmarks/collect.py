"""Collecting demonstrations to a file, beside the environment limit and beside SB3's `evaluate_policy`."""

import tempfile
import time
from pathlib import Path

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from ilt.envs.spec import EnvSpec
from ilt.experts.actor import Actor
from ilt.rollout.run import rollout
from ilt.rollout.workers import cores
from ilt.tracking.store import SHIPPED
from tests.benchmarks.measuring import Row, at_least, compare
from tests.benchmarks.rollouts import environment_limit, shipped_expert

N_EPISODES = 1000
N_REFERENCE = 160


def sb3_expert(envs: VecEnv) -> PPO:
    """The same expert as a model of Stable-Baselines3's."""
    model = PPO("MlpPolicy", envs, policy_kwargs={"net_arch": [64, 64]}, device="cpu")
    (folder,) = SHIPPED["experts"].glob("ppo-??????????")
    sources = [layer for layer in Actor.load(folder / "actor.safetensors").layers if isinstance(layer, nn.Linear)]
    layers = [*model.policy.mlp_extractor.policy_net, model.policy.action_net]
    for target, source in zip([layer for layer in layers if isinstance(layer, nn.Linear)], sources, strict=True):
        target.load_state_dict(source.state_dict())
    return model


def rows(spec: EnvSpec) -> list[Row]:
    """Steps per second."""
    n, expert, seeds = cores(), shipped_expert(), spec.seeds("demonstrations", N_EPISODES)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            episodes = rollout(spec, expert, seeds, n_processes=n)
            episodes.save(Path(folder) / "demonstrations.npz")
            return len(episodes.actions) / (time.perf_counter() - started)

    def sb3() -> float:
        envs = make_vec_env(spec.id, n_envs=16, seed=0)
        model = sb3_expert(envs)
        started = time.perf_counter()
        _, lengths = evaluate_policy(model, envs, n_eval_episodes=N_REFERENCE, return_episode_rewards=True)
        seconds = time.perf_counter() - started
        envs.close()
        assert isinstance(lengths, list)
        return sum(lengths) / seconds

    limit = environment_limit(spec)  # starts the workers, too
    return [
        compare(
            f"collect {N_EPISODES:,} demonstrations, to the file",
            "steps/s",
            ours,
            [("environment limit", limit, at_least(0.85)), ("SB3 evaluate_policy, 16 envs", sb3, at_least(15))],
        )
    ]
