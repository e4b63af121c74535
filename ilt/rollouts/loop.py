"""The one rollout loop: many envs in one process, the policy called once per step on all of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from ilt.demos.episodes import Episodes
from ilt.envs import EnvBatch, EnvSpec
from ilt.rollouts.policies import Policy


def rollout(
    spec: EnvSpec,
    policy: Policy,
    seeds: Sequence[int] | np.ndarray,
    *,
    n_envs: int = 64,
    on_episode: Callable[[float], None] | None = None,
) -> Episodes:
    """Fly one episode per seed and return them in the order of `seeds`.

    A slot whose episode ends takes the next seed; when none is left, the slot is retired. Each episode is decided by
    its seed alone: which slot it is flown in and what flies beside it have no part in it, beyond the last bit of a
    batched matrix product.

    Args:
        spec: the environment.
        policy: what chooses the actions.
        seeds: (E,) integers.
        n_envs: how many episodes are in the air at once.
        on_episode: called with the return of each finished episode, for progress displays.
    """
    seeds = np.asarray(seeds, dtype=np.int64)
    if len(seeds) == 0:
        raise ValueError("there are no seeds to fly")
    batch = EnvBatch(spec, min(n_envs, len(seeds)))
    try:
        with _one_thread():
            return _fly(batch, policy, seeds, on_episode)
    finally:
        batch.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Batches of a few dozen rows are too small to be worth a second thread, whose barriers cost more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fly(batch: EnvBatch, policy: Policy, seeds: np.ndarray, on_episode: Callable[[float], None] | None) -> Episodes:
    records: list[_Record] = [_Record() for _ in seeds]
    waiting = iter(range(len(seeds)))
    flying = np.zeros(batch.n_envs, dtype=np.int64)  # which episode each slot flies

    def begin(slots: Sequence[int]) -> list[int]:
        """Start the next waiting episodes in these slots; the slots for which there was one."""
        started = []
        for slot in slots:
            episode = next(waiting, None)
            if episode is None:
                continue
            flying[slot] = episode
            batch.reset(slot, seeds[episode])
            records[episode].observations.append(batch.observations[slot].copy())
            started.append(slot)
        if started:
            policy.begin(np.array(started), seeds[flying[started]])
        return started

    slots = np.array(begin(range(batch.n_envs)))
    while len(slots):
        actions = policy.act(slots, batch.observations[slots])
        rewards, terminated, truncated = batch.step(slots, actions)
        for slot, action, reward in zip(slots.tolist(), actions.tolist(), rewards.tolist(), strict=True):
            records[flying[slot]].add(batch.observations[slot].copy(), action, reward)
        ended = terminated | truncated
        if ended.any():
            for slot, cut in zip(slots[ended].tolist(), truncated[ended].tolist(), strict=True):
                records[flying[slot]].truncated = cut
                if on_episode is not None:
                    on_episode(sum(records[flying[slot]].rewards))
            restarted = begin(slots[ended].tolist())
            slots = np.array(sorted({*slots[~ended].tolist(), *restarted}), dtype=np.int64)
    return _lay_end_to_end(records, seeds)


class _Record:
    """One episode while it is flown."""

    def __init__(self) -> None:
        self.observations: list[np.ndarray] = []
        self.actions: list[int] = []
        self.rewards: list[float] = []
        self.truncated = False

    def add(self, observation: np.ndarray, action: int, reward: float) -> None:
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(reward)


def _lay_end_to_end(records: list[_Record], seeds: np.ndarray) -> Episodes:
    truncated = np.array([record.truncated for record in records], dtype=bool)
    return Episodes(
        observations=np.concatenate([np.stack(record.observations) for record in records]),
        actions=np.concatenate([np.array(record.actions, dtype=np.int64) for record in records]),
        rewards=np.concatenate([np.array(record.rewards, dtype=np.float64) for record in records]),
        lengths=np.array([len(record.actions) for record in records], dtype=np.int64),
        terminated=~truncated,
        truncated=truncated,
        seeds=seeds,
    )
