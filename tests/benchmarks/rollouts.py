"""Acting: students on test episodes, compared with the environment limit and with a recomputed window."""

import time
from collections.abc import Iterator
from dataclasses import replace

import gymnasium as gym
import numpy as np
import torch

from ilt.data.episodes import Episodes
from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.experts.actor import Actor, actor_policy
from ilt.models.decoder import Decoder
from ilt.models.heads import Categorical
from ilt.registry import load_option
from ilt.rollout import workers
from ilt.rollout.policies import NetworkPolicy, Policy, SequencePolicy
from ilt.rollout.run import rollout
from ilt.schema import own_keys
from tests.benchmarks.measuring import Measure, Row, compare, per_second
from tests.experts.toys import shipped

SIZES = ("nano", "tiny", "small", "base")
SPACE = ActionSpace(n_choices=(4,), start=(0,))
HEAD = Categorical(action_space=SPACE)


def score(spec: EnvSpec) -> list[Row]:
    """Measure the steps per second of `small` with K = 16 and of `tiny` with K = 8 on all cores."""
    limit, seeds = environment_limit(spec), spec.seeds("test", 1000)  # this also starts the workers
    expert = Recorded(rollout(spec, shipped_expert(), seeds, n_processes=workers.cores()))
    rows = []
    for size, k, of_limit, faster in (("small", 16, 0.55, "≥ 20"), ("tiny", 8, 0.75, None)):
        one_by_one = acting(spec, student(size, k, recompute=True, expert=expert), seeds[:4], n_envs=1)
        besides = [
            ("environment limit", limit, f"≥ {of_limit}"),
            ("one env, whole window recomputed", one_by_one, faster),
        ]
        ours = acting(spec, student(size, k, expert=expert), seeds, n_processes=workers.cores())
        rows.append(compare(f"score {len(seeds):,} episodes, {size}, K = {k}", "steps/s", ours, *besides))
    return rows


def cache(spec: EnvSpec) -> list[Row]:
    """Measure the steps per second of `base` with K = 64: cached keys and values against a recomputed window."""
    spec = replace(spec, kwargs={**spec.kwargs, "max_episode_steps": 150})  # recomputing takes minutes even so
    ours, theirs = (
        acting(spec, student("base", 64, recompute=recompute), spec.seeds("test", 64), n_envs=64)
        for recompute in (False, True)
    )
    work = "act with base, K = 64, 64 envs, one process"
    return [compare(work, "steps/s", ours, ("window recomputed", theirs, "≥ 20"))]


def shipped_actor() -> Actor:
    """Return the network of the shipped PPO expert."""
    return Actor.load(shipped("ilt expert env=lunar_lander expert=ppo") / "actor.safetensors")


def shipped_expert() -> NetworkPolicy:
    """Return the shipped PPO expert, deterministic."""
    return actor_policy(shipped_actor(), SPACE, privileged=False, deterministic=True)


def decoder(size: str, context_length: int) -> Decoder:
    """Return an untrained model of this size."""
    torch.manual_seed(0)
    known = {"observation_dim": 8, "action_space": SPACE, "n_outputs": HEAD.n_outputs, "context_length": context_length}
    return Decoder(**known, **own_keys("model", load_option("model", size)))


class Escorted(Policy):
    """A student that computes every action in full, while an expert's action is taken.

    So an untrained student of any size sees the episodes that a trained one would, which are also the episodes of
    the environment limit.
    """

    def __init__(self, student: Policy, expert: Policy) -> None:
        self._student, self._expert = student, expert

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._student.reset(slots, seeds)
        self._expert.reset(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self._student.act(slots, observations)
        return self._expert.act(slots, observations)


class Recorded(Policy):
    """Takes the recorded actions of each seed's episode, at hardly any cost."""

    def __init__(self, episodes: Episodes) -> None:
        self._actions, self._next = episodes.actions, np.zeros(0, dtype=np.int64)
        self._first = dict(zip(episodes.seeds.tolist(), episodes.step_offsets.tolist(), strict=True))

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._next = np.pad(self._next, (0, max(slots.max() + 1 - len(self._next), 0)))
        self._next[slots] = [self._first[seed] for seed in seeds.tolist()]

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        steps = self._next[slots]
        self._next[slots] += 1
        return self._actions[steps]


def student(size: str, context_length: int, *, recompute: bool = False, expert: Policy | None = None) -> Escorted:
    """Return a student of this size, escorted by an expert, without one by the shipped one."""
    policy = SequencePolicy(decoder(size, context_length), HEAD, recompute=recompute)
    return Escorted(policy, expert or shipped_expert())


def acting(spec: EnvSpec, policy: Policy, seeds: np.ndarray, *, n_envs: int = 64, n_processes: int = 1) -> Measure:
    """Measure the steps per second of a rollout from start to end."""
    return per_second(lambda: len(rollout(spec, policy, seeds, n_envs=n_envs, n_processes=n_processes).actions))


def environment_limit(spec: EnvSpec, n_episodes: int = 200, expert: Policy | None = None) -> Measure:
    """Measure the steps per second of replaying an expert's recorded actions with plain `step` calls on all cores.

    Resets count, as every episode needs one. Without an expert, it is the shipped PPO expert.
    """
    n = workers.cores()
    recorded = rollout(spec, expert or shipped_expert(), spec.seeds("test", n_episodes), n_processes=n)
    shards = [(spec.id, recorded.select(np.arange(i, n_episodes, n))) for i in range(n)]
    return lambda: len(recorded.actions) / max(seconds for _, seconds in workers.run(replay, shards))


def replay(env_id: str, episodes: Episodes) -> Iterator[float]:
    """Replay recorded episodes in a plain loop; yield the seconds it took."""
    env = gym.make(env_id).unwrapped
    simulated = ActionSpace.of(env.action_space, key=env_id).for_simulator(episodes.actions)
    actions = [simulated[first : first + n] for first, n in zip(episodes.step_offsets, episodes.lengths, strict=True)]
    started = time.perf_counter()
    for seed, of_episode in zip(episodes.seeds.tolist(), actions, strict=True):
        env.reset(seed=seed)
        for action in of_episode:
            env.step(action)
    yield time.perf_counter() - started
