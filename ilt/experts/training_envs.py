"""The environments that an expert is trained in. A resumed run continues the episodes in progress."""

import json
from typing import Any

import numpy as np
import torch

from ilt.envs.batch import EnvBatch
from ilt.envs.spec import EnvSpec


class SeedStream:
    """An endless stream of random seeds from the demonstrations block, never from selection or test.

    Args:
        spec: the environment.
        entropy: seeds the stream.
    """

    def __init__(self, spec: EnvSpec, entropy: list[int]) -> None:
        self._first, self._count = spec.seed_blocks["demonstrations"]
        self.rng = np.random.default_rng(entropy)

    def next(self) -> int:
        """Return the next seed."""
        return int(self._first + self.rng.integers(self._count))


class TrainingEnvs:
    """Environments that start the next episode when one ends, and whose state can be saved in a checkpoint.

    The state is the seed of each episode in progress and the actions taken in it so far. A resumed run replays them, so
    it learns from exactly the same steps as an uninterrupted one.

    Args:
        spec: the environment.
        n_envs: number of environments.
        entropy: seeds the stream of episodes.
        privileged: whether observations include what is hidden from students.

    Attributes:
        batch: the environments.
    """

    def __init__(self, spec: EnvSpec, n_envs: int, entropy: list[int], *, privileged: bool = False) -> None:
        self.batch = EnvBatch(spec, n_envs, privileged=privileged)
        self._stream, self._slots = SeedStream(spec, entropy), np.arange(n_envs)
        self._seeds = [0] * n_envs
        self._taken: list[list[np.ndarray]] = [[] for _ in self._slots]

    def begin(self) -> None:
        """Start an episode in every slot."""
        for slot in range(len(self._slots)):
            self._begin(slot, self._stream.next())

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, np.ndarray]]:
        """Step every environment. Where an episode ends, start the next one.

        Args:
            actions: (n_envs,) or (n_envs, dim), in the simulator's units.

        Returns:
            rewards (n_envs,) float64, terminated and truncated (n_envs,) bool, and the final observation of each slot
            whose episode ended.
        """
        rewards, terminated, truncated = self.batch.step(self._slots, actions)
        for taken, action in zip(self._taken, actions, strict=True):
            taken.append(action)
        final = {}
        for slot in np.flatnonzero(terminated | truncated).tolist():
            final[slot] = self.batch.observations[slot].copy()
            self._begin(slot, self._stream.next())
        return rewards, terminated, truncated, final

    def state(self) -> dict[str, Any]:
        """Return the state as plain containers and tensors."""
        empty = self.batch.action_space.zeros(0)
        taken = [torch.from_numpy(np.array(each) if each else empty) for each in self._taken]
        return {"seeds": list(self._seeds), "taken": taken, "stream": rng_state(self._stream.rng)}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned, by replaying the episodes in progress."""
        restore_rng(self._stream.rng, state["stream"])
        for slot, (seed, taken) in enumerate(zip(state["seeds"], state["taken"], strict=True)):
            self._begin(slot, seed)
            for action in taken.numpy():
                self.batch.step(self._slots[slot : slot + 1], action[None])
                self._taken[slot].append(action)

    def _begin(self, slot: int, seed: int) -> None:
        self._seeds[slot], self._taken[slot] = seed, []
        self.batch.reset(slot, seed)


def rng_state(rng: np.random.Generator) -> str:
    """Return the state of a generator as JSON text."""
    return json.dumps(rng.bit_generator.state)


def restore_rng(rng: np.random.Generator, state: str) -> None:
    """Restore what `rng_state` returned."""
    rng.bit_generator.state = json.loads(state)
