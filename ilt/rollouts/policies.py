"""Policies: whatever chooses one action for each of many envs at once."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ilt.experts.actor import Actor
from ilt.rollouts.lean import LeanActor

_SAMPLING = 0x5A17  # keeps a policy's random numbers apart from the env's, which start from the same seed


class Policy(Protocol):
    """Chooses actions for the slots of a rollout, and is told when an episode begins in one."""

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        """Episodes with these seeds (n,) begin in these slots (n,): forget what was there."""

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """(n,) slots and their (n, obs_dim) float32 observations to (n,) int64 actions."""
        ...


class _Dice:
    """One random stream per slot, started by the seed of the episode that is flown there."""

    def __init__(self) -> None:
        self._generators: dict[int, np.random.Generator] = {}

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        for slot, seed in zip(slots.tolist(), seeds.tolist(), strict=True):
            self._generators[slot] = np.random.default_rng([_SAMPLING, seed])

    def uniform(self, slots: np.ndarray) -> np.ndarray:
        """(n,) float64 in [0, 1), one from each slot's own stream."""
        return np.array([self._generators[slot].random() for slot in slots.tolist()])


class RandomPolicy:
    """Every action equally likely."""

    def __init__(self, n_actions: int) -> None:
        self._n_actions = n_actions
        self._dice = _Dice()

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._dice.begin(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return (self._dice.uniform(slots) * self._n_actions).astype(np.int64)


class FunctionPolicy:
    """A hand-written controller: any function from (n, obs_dim) observations to (n,) int64 actions."""

    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._function = function

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        pass

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self._function(observations)


class _Chooser:
    """From logits to actions: the most likely one, or a sample that the episode's seed alone decides."""

    def __init__(self, *, deterministic: bool) -> None:
        self._dice = None if deterministic else _Dice()

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        if self._dice is not None:
            self._dice.begin(slots, seeds)

    def choose(self, slots: np.ndarray, logits: Tensor | np.ndarray) -> np.ndarray:
        """(n, A) logits to (n,) int64 actions."""
        if isinstance(logits, Tensor):
            logits = logits.float().cpu().numpy()
        if self._dice is None:
            return logits.argmax(axis=1)
        weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        return sample(weights / weights.sum(axis=1, keepdims=True), self._dice.uniform(slots))


class ExpertPolicy:
    """A network that sees the present observation only, such as a trained expert's actor.

    Args:
        actor: maps (n, obs_dim) float32 to logits (n, A), on the CPU. Of an `Actor` the present weights are copied.
        deterministic: take the most likely action; otherwise sample, from the episode's seed alone.
    """

    def __init__(self, actor: nn.Module, *, deterministic: bool) -> None:
        self._logits = LeanActor(actor) if isinstance(actor, Actor) else _InTorch(actor)
        self._chooser = _Chooser(deterministic=deterministic)

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._chooser.begin(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self._chooser.choose(slots, self._logits(observations))


class _InTorch:
    """Any network, called with NumPy arrays."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval()

    @torch.inference_mode()
    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return self._network(torch.from_numpy(observations)).numpy()


class ContextPolicy:
    """A sequence model that flies: it keeps the last steps of every slot's episode and predicts the next action.

    Windows are built as in training: up to `context_length` steps, the true start of the episode included, padded
    on the right. The model is put into evaluation mode while it acts, and afterwards back into the mode it was in.

    Args:
        model: maps observations (B, L, obs_dim) and actions (B, L) to logits (B, L, A), as `ilt.models` do.
        context_length: how many steps it may look at, at most what the model was built for; None for all of them.
        deterministic: take the most likely action; otherwise sample, from the episode's seed alone.
    """

    def __init__(self, model: nn.Module, *, context_length: int | None = None, deterministic: bool = True) -> None:
        longest = int(model.context_length)  # type: ignore[arg-type]  # nn.Module types every attribute as a Tensor
        self._length = longest if context_length is None else context_length
        if not 1 <= self._length <= longest:
            raise ValueError(f"context_length must be from 1 to the model's {longest}, got {context_length}")
        self._model = model
        self._chooser = _Chooser(deterministic=deterministic)
        self._observations = np.zeros((0, self._length, 0), dtype=np.float32)
        self._actions = np.zeros((0, self._length), dtype=np.int64)
        self._filled = np.zeros(0, dtype=np.int64)  # steps in each slot's window

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        missing = int(slots.max()) + 1 - len(self._filled)
        if missing > 0:
            self._observations = np.pad(self._observations, ((0, missing), (0, 0), (0, 0)))
            self._actions = np.pad(self._actions, ((0, missing), (0, 0)))
            self._filled = np.pad(self._filled, (0, missing))
        self._filled[slots] = 0
        self._chooser.begin(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        logits = self.logits(slots, observations)
        actions = self._chooser.choose(slots, logits)
        self._actions[slots, self._filled[slots] - 1] = actions
        return actions

    @torch.inference_mode()
    def logits(self, slots: np.ndarray, observations: np.ndarray) -> Tensor:
        """Take in one observation per slot and return the logits (n, A) of the action to choose there."""
        last = self._append(slots, observations)
        length = int(last.max()) + 1
        device = next(self._model.parameters()).device
        was_training = self._model.training
        self._model.eval()
        windows = torch.from_numpy(self._observations[slots, :length]).to(device)
        try:
            logits: Tensor = self._model(windows, torch.from_numpy(self._actions[slots, :length]).to(device))
        finally:
            self._model.train(was_training)
        return logits[torch.arange(len(slots)), torch.from_numpy(last)]

    def _append(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Put each observation at the end of its slot's window; returns where that is, (n,) int64."""
        if self._observations.shape[2] == 0:
            self._observations = np.zeros((*self._observations.shape[:2], observations.shape[1]), dtype=np.float32)
        full = slots[self._filled[slots] == self._length]
        self._observations[full, :-1] = self._observations[full, 1:]
        self._actions[full, :-1] = self._actions[full, 1:]
        self._filled[full] -= 1
        last = self._filled[slots]
        self._observations[slots, last] = observations
        self._filled[slots] += 1
        return last


def sample(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Invert the cumulative distribution: (n, A) probabilities and (n,) numbers in [0, 1) to (n,) int64 actions."""
    below = np.cumsum(probabilities, axis=1) <= uniform[:, None]
    return np.minimum(below.sum(axis=1), probabilities.shape[1] - 1).astype(np.int64)
