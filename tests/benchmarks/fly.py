"""Flying: the expert beside the bare environment, the student beside one env flown step by step."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import torch

from ilt import workers
from ilt.demos import Episodes
from ilt.envs import EnvSpec
from ilt.experts.actor import Actor
from ilt.models import Decoder
from ilt.rollouts import ContextPolicy, ExpertPolicy, Policy, rollout
from ilt.store import SHIPPED
from tests.benchmarks.measuring import Row, compare


def rows(spec: EnvSpec) -> list[Row]:
    """Steps per second, on selection seeds."""
    (folder,) = SHIPPED["experts"].glob("ppo-*")
    actor = Actor.load(folder / "actor.safetensors")
    torch.manual_seed(0)
    model = Decoder(observation_dim=8, n_actions=4, context_length=8, n_layer=2, n_head=2, d_model=32)
    seeds = spec.seeds("selection", 100)
    recorded = rollout(spec, ExpertPolicy(actor, deterministic=True), seeds)
    return [
        compare(
            "fly the expert, 64 envs",
            rate(spec, lambda: ExpertPolicy(actor, deterministic=True), seeds, 64),
            "its actions replayed, bare env",
            lambda: replay_rate(spec, recorded),
            unit="steps",
        ),
        compare(
            "fly `tiny`, K = 8, 64 envs",
            rate(spec, lambda: ContextPolicy(model), seeds, 64),
            "the same, one env",
            rate(spec, lambda: ContextPolicy(model), seeds[:10], 1),
            unit="steps",
        ),
        collecting(spec, actor),
    ]


def collecting(spec: EnvSpec, actor: Actor, n_episodes: int = 1000) -> Row:
    """Demonstrations to a file, in as many processes as cores, beside their actions replayed in as many."""
    n = workers.n_processes(SimpleNamespace(processes=None))
    seeds = spec.seeds("demonstrations", n_episodes)
    policy = ExpertPolicy(actor, deterministic=True)

    def collect() -> Episodes:
        return rollout(spec, policy, seeds, n_processes=n)

    recorded = collect()  # starts the workers, too
    shards = [(spec.id, recorded.select(np.arange(i, n_episodes, n))) for i in range(n)]

    def ours() -> float:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            episodes = collect()
            episodes.save(Path(folder) / "demonstrations.npz")
        return len(episodes.actions) / (time.perf_counter() - started)

    def limit() -> float:
        return len(recorded.actions) / max(seconds for _, seconds in workers.run(replay_seconds, shards))

    name = f"collect {n_episodes:,} demonstrations, {n} processes"
    return compare(name, ours, f"replayed, bare env, {n} processes", limit, unit="steps")


def rate(spec: EnvSpec, policy: Callable[[], Policy], seeds: np.ndarray, n_envs: int) -> Callable[[], float]:
    """A measurement of `rollout`, in steps per second."""

    def measure() -> float:
        started = time.perf_counter()
        episodes = rollout(spec, policy(), seeds, n_envs=n_envs)
        return len(episodes.actions) / (time.perf_counter() - started)

    return measure


def replay_rate(spec: EnvSpec, episodes: Episodes) -> float:
    """The environment's own limit in one process, in steps per second."""
    return len(episodes.actions) / next(replay_seconds(spec.id, episodes))


def replay_seconds(env_id: str, episodes: Episodes) -> Iterator[float]:
    """Seconds to step through recorded actions in a plain loop, resets not counted."""
    env, seconds = gym.make(env_id).unwrapped, 0.0
    for seed, start, length in zip(episodes.seeds, episodes.step_offsets, episodes.lengths, strict=True):
        env.reset(seed=int(seed))
        actions = episodes.actions[start : start + length].tolist()
        started = time.perf_counter()
        for action in actions:
            env.step(action)
        seconds += time.perf_counter() - started
    yield seconds
