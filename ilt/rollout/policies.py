"""Policies: whatever chooses one action for each of many envs at once."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from ilt.experts.actor import Actor
from ilt.experts.numpy_actor import NumpyActor

_SAMPLING = 0x5A17  # keeps a policy's random numbers apart from the env's, which start from the same seed
MIXING = 0x313C  # and those that decide who acts from those that decide how


class Policy(Protocol):
    """Chooses actions for the slots of a rollout, and is told when an episode begins in one.

    Attributes:
        privileged: whether it is shown what the environment hides from a student, behind what the student sees.
    """

    @property
    def privileged(self) -> bool: ...

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        """Episodes with these seeds (n,) begin in these slots (n,): forget what was there."""

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """(n,) slots and their (n, obs_dim) float32 observations to (n,) int64 actions."""
        ...


@runtime_checkable
class Labeling(Protocol):
    """A policy that asks an expert at every step; what it says is recorded as `step/label`.

    Attributes:
        labels: (n,) int64, what the expert would have done at the newest call of `act`.
    """

    labels: np.ndarray


class EpisodeRNG:
    """One random stream per slot, started by the seed of the episode that is flown there.

    Args:
        purpose: a number of each use's own, or two uses in one flight would draw the same numbers.
    """

    def __init__(self, purpose: int = _SAMPLING) -> None:
        self._purpose = purpose
        self._generators: dict[int, np.random.Generator] = {}

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        for slot, seed in zip(slots.tolist(), seeds.tolist(), strict=True):
            self._generators[slot] = np.random.default_rng([self._purpose, seed])

    def uniform(self, slots: np.ndarray) -> np.ndarray:
        """(n,) float64 in [0, 1), one from each slot's own stream."""
        return np.array([self._generators[slot].random() for slot in slots.tolist()])


class RandomPolicy:
    """Every action equally likely."""

    privileged = False

    def __init__(self, n_actions: int) -> None:
        self._n_actions = n_actions
        self._rng = EpisodeRNG()

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._rng.begin(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return (self._rng.uniform(slots) * self._n_actions).astype(np.int64)


class FunctionPolicy:
    """A hand-written controller: any function from (n, obs_dim) observations to (n,) int64 actions."""

    privileged = False

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._function = function

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        pass

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self._function(observations)


class ActionSampler:
    """From logits to actions: the most likely one, or a sample that the episode's seed alone decides."""

    def __init__(self, *, deterministic: bool) -> None:
        self._rng = None if deterministic else EpisodeRNG()

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        if self._rng is not None:
            self._rng.begin(slots, seeds)

    def choose(self, slots: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """(n, A) logits to (n,) int64 actions."""
        if self._rng is None:
            return logits.argmax(axis=1)
        weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        return sample(weights / weights.sum(axis=1, keepdims=True), self._rng.uniform(slots))


class ExpertPolicy:
    """A network that sees the present observation only, such as a trained expert's actor.

    Args:
        actor: maps (n, obs_dim) float32 to logits (n, A), on the CPU. Of an `Actor` the present weights are copied.
        deterministic: take the most likely action; otherwise sample, from the episode's seed alone.
        privileged: whether the actor was trained on what is hidden from a student too.
    """

    def __init__(self, actor: nn.Module, *, deterministic: bool, privileged: bool = False) -> None:
        self.privileged = privileged
        self._logits = NumpyActor(actor) if isinstance(actor, Actor) else _InTorch(actor)
        self._sampler = ActionSampler(deterministic=deterministic)

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._sampler.begin(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self._sampler.choose(slots, self._logits(observations))


class _InTorch:
    """Any network, called with NumPy arrays."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval()

    @torch.inference_mode()
    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return self._network(torch.from_numpy(observations)).numpy()


def sample(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Invert the cumulative distribution: (n, A) probabilities and (n,) numbers in [0, 1) to (n,) int64 actions."""
    below = np.cumsum(probabilities, axis=1) <= uniform[:, None]
    return np.minimum(below.sum(axis=1), probabilities.shape[1] - 1).astype(np.int64)
