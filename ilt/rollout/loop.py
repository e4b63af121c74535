"""The one rollout loop: many environments in one process, with one batched call of the policy per step."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ilt.data.episodes import Episodes
from ilt.envs.batch import EnvBatch
from ilt.envs.spec import EnvSpec
from ilt.rollout.policies import Policy
from ilt.schema import PlainError


class Episode(NamedTuple):
    """One episode of T steps.

    Attributes:
        place: index of its seed among all seeds of the rollout.
        observations: (T + 1, obs_dim) float32; `observations[t]` is what a student sees when choosing `actions[t]`.
        actions: (T,) or (T, dim), in the simulator's units.
        rewards: (T,) float64; `rewards[t]` is what `actions[t]` earned.
        truncated: whether it was truncated, for example by the time limit.
        extras: other records, named as in `Episodes`: numbers `episode/<name>`; `step/privileged` (T, …) float32, what
            the environment hides from students at each step; and `step/label`, an expert's actions, shaped like
            `actions`.
    """

    place: int
    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    truncated: bool
    extras: Mapping[str, Any]


def run_episodes(spec: EnvSpec, policy: Policy, seeds: np.ndarray, n_envs: int) -> Generator[Episode, None, None]:
    """Yield one episode for each of `seeds` (E,) int64 as it ends; at most `n_envs` are active at once.

    A slot whose episode ends takes the next seed, if there is one. Raise ValueError if the policy, or the expert that
    labels its steps, returns anything but actions of the environment. Raise PlainError if an observation or a reward is
    not finite.
    """
    batch = EnvBatch(spec, min(n_envs, len(seeds)))
    try:
        yield from _run(batch, policy, seeds)
    finally:
        batch.close()


def _run(batch: EnvBatch, policy: Policy, seeds: np.ndarray) -> Generator[Episode, None, None]:
    recorder = _Recorder(batch)
    visible, check = batch.observation_dim, batch.action_space.check
    index = np.zeros(batch.n_envs, dtype=np.int64)  # the episode that each slot runs
    waiting = iter(range(len(seeds)))

    def start(free: np.ndarray) -> np.ndarray:
        """Start the next waiting episodes in these slots. Return the slots that got one."""
        started = []
        for slot, episode in zip(free.tolist(), waiting, strict=False):
            index[slot] = episode
            batch.reset(slot, seeds[episode])
            started.append(slot)
        if started:
            policy.reset(np.array(started), seeds[index[started]])
        return np.array(started, dtype=np.int64)

    slots = start(np.arange(batch.n_envs))
    while len(slots):
        observations = batch.everything[slots]
        actions = policy.act(slots, observations if policy.privileged else observations[:, :visible])
        # record exactly what the simulator gets
        actions = check(actions, len(slots), source="the policy")
        rewards, terminated, truncated = batch.step(slots, actions)
        policy.observe_reward(slots, rewards)
        labels = getattr(policy, "labels", None)  # only a `Labeling` policy has them
        labels = None if labels is None else check(labels, len(slots), source="the expert")
        recorder.add(slots, observations, actions, rewards, labels)
        ended = terminated | truncated
        if ended.any():
            for slot, cut in zip(slots[ended].tolist(), truncated[ended].tolist(), strict=True):
                extras: dict[str, Any] = {f"episode/{k}": value for k, value in batch.episode_params[slot].items()}
                if labels is not None:
                    extras["step/label"] = recorder.labels(slot)
                seen, done, earned = recorder.take(slot, batch.everything[slot])
                if not (np.isfinite(seen).all() and np.isfinite(earned).all()):
                    raise PlainError(f"env returned a number that is not finite, with reset seed {seeds[index[slot]]}")
                if seen.shape[1] > visible:
                    extras["step/privileged"] = seen[:-1, visible:]
                yield Episode(int(index[slot]), np.ascontiguousarray(seen[:, :visible]), done, earned, cut, extras)
            slots = np.union1d(slots[~ended], start(slots[ended]))


class _Recorder:
    """Records each slot's episode so far. The arrays grow with the longest episode."""

    def __init__(self, batch: EnvBatch, capacity: int = 512) -> None:
        self._steps = np.zeros(batch.n_envs, dtype=np.int64)
        self._observations = np.zeros((batch.n_envs, capacity, batch.everything.shape[1]), dtype=np.float32)
        self._actions = batch.action_space.zeros(batch.n_envs, capacity)
        self._labels = batch.action_space.zeros(batch.n_envs, 0)  # grows with the first labels
        self._rewards = np.zeros((batch.n_envs, capacity), dtype=np.float64)

    def add(
        self,
        slots: np.ndarray,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        labels: np.ndarray | None = None,
    ) -> None:
        """Record one step in each of `slots` (n,): the observation before it, action, reward and label."""
        steps = self._steps[slots]
        if steps.max() == self._actions.shape[1]:
            self._double()
        self._observations[slots, steps] = observations
        self._actions[slots, steps] = actions
        self._rewards[slots, steps] = rewards
        if labels is not None:
            if self._labels.shape[1] < self._actions.shape[1]:
                missing = self._actions.shape[1] - self._labels.shape[1]
                self._labels = np.pad(self._labels, ((0, 0), (0, missing), (0, 0))[: self._labels.ndim])
            self._labels[slots, steps] = labels
        self._steps[slots] += 1

    def labels(self, slot: int) -> np.ndarray:
        """Return the expert's labels for the episode that is still in a slot."""
        return self._labels[slot, : self._steps[slot]].copy()

    def take(self, slot: int, last: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Free the slot of an ended episode. Return its observations, followed by `last`, its actions and rewards."""
        steps = self._steps[slot]
        self._steps[slot] = 0
        return (
            np.concatenate([self._observations[slot, :steps], last[None]]),
            self._actions[slot, :steps].copy(),
            self._rewards[slot, :steps].copy(),
        )

    def _double(self) -> None:
        self._observations = np.concatenate([self._observations, np.zeros_like(self._observations)], axis=1)
        self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=1)
        self._rewards = np.concatenate([self._rewards, np.zeros_like(self._rewards)], axis=1)


def in_order(found: Sequence[Episode], seeds: np.ndarray) -> Episodes:
    """Concatenate episodes in the order of their seeds in `seeds`."""
    found = sorted(found, key=lambda episode: episode.place)
    extras = {name: [episode.extras[name] for episode in found] for name in found[0].extras}
    truncated = np.array([episode.truncated for episode in found], dtype=bool)
    return Episodes(
        observations=np.concatenate([episode.observations for episode in found]),
        actions=np.concatenate([episode.actions for episode in found]),
        rewards=np.concatenate([episode.rewards for episode in found]),
        lengths=np.array([len(episode.actions) for episode in found], dtype=np.int64),
        terminated=~truncated,
        truncated=truncated,
        seeds=seeds[[episode.place for episode in found]],
        extras={
            name: np.concatenate(arrays) if name.startswith("step/") else np.array(arrays)
            for name, arrays in extras.items()
        },
    )
