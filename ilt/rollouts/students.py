"""The policy that flies a sequence model, and the plain way of doing it, which any model allows."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ilt.models.cache import CachedDecoder
from ilt.rollouts.policies import Chooser


class _Memory(Protocol):
    """What a sequence model remembers of the episode in each slot."""

    def begin(self, slots: Tensor) -> None:
        """Episodes begin in these slots (n,): forget what was there."""

    def step(self, slots: Tensor, observations: Tensor, past: Tensor) -> Tensor:
        """Take in (n, obs_dim) observations and (n,) actions before them; (n, A) logits of the actions to choose."""
        ...


class ContextPolicy:
    """A sequence model that flies: from the last steps of every slot's episode it predicts the next action.

    It sees what it saw in training: up to `context_length` steps, the true start of the episode included. The model
    is put into evaluation mode while it acts, and afterwards back into the mode it was in.

    Args:
        model: maps observations (B, L, obs_dim) and actions (B, L) to logits (B, L, A), as `ilt.models` do.
        context_length: how many steps it may look at, at most what the model was built for; None for all of them.
        deterministic: take the most likely action; otherwise sample, from the episode's seed alone.
        recompute: recompute the whole window at every step, also where keys and values can be cached.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        context_length: int | None = None,
        deterministic: bool = True,
        recompute: bool = False,
    ) -> None:
        longest = int(model.context_length)  # type: ignore[arg-type]  # nn.Module types every attribute as a Tensor
        length = longest if context_length is None else context_length
        if not 1 <= length <= longest:
            raise ValueError(f"context_length must be from 1 to the model's {longest}, got {context_length}")
        self._model = model
        self._chooser = Chooser(deterministic=deterministic)
        self._actions = torch.zeros(0, dtype=torch.int64)  # the newest one of each slot
        self._memory: _Memory
        if CachedDecoder.suits(model) and length == longest and not recompute:
            self._memory = CachedDecoder(model)
        else:
            self._memory = WindowMemory(model, length)

    @torch.inference_mode()
    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._actions = pad(self._actions, (0, max(int(slots.max()) + 1 - len(self._actions), 0)))
        self._memory.begin(torch.from_numpy(slots).to(self._device()))
        self._chooser.begin(slots, seeds)

    @torch.inference_mode()
    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        actions = self._chooser.choose(slots, self.logits(slots, observations))
        self._actions[torch.from_numpy(slots)] = torch.from_numpy(actions)
        return actions

    @torch.inference_mode()
    def logits(self, slots: np.ndarray, observations: np.ndarray) -> Tensor:
        """Take in one observation per slot and return the logits (n, A) of the action to choose there."""
        which, device = torch.from_numpy(slots), self._device()
        inputs = which, torch.from_numpy(observations), self._actions[which]
        was_training = self._model.training
        if was_training:
            self._model.eval()
        try:
            return self._memory.step(*(part.to(device) for part in inputs))
        finally:
            if was_training:
                self._model.train()

    def _device(self) -> torch.device:
        """Where the model is now: a policy that was sent to another process is on the CPU there."""
        return next(self._model.parameters()).device


class WindowMemory:
    """The last `length` steps of every slot's episode, which go through the whole model at every step.

    Windows are built as in training, and padded on the right. Works with any sequence model.
    """

    def __init__(self, model: nn.Module, length: int) -> None:
        self._model, self._length = model, length
        device = next(model.parameters()).device
        self._filled = torch.zeros(0, dtype=torch.int64, device=device)  # steps in each slot's window
        self._observations = torch.zeros(0, length, 0, device=device)
        self._actions = torch.zeros(0, length, dtype=torch.int64, device=device)

    def begin(self, slots: Tensor) -> None:
        """Episodes begin in these slots (n,): forget what was there."""
        missing = int(slots.max()) + 1 - len(self._filled)
        if missing > 0:
            self._filled = pad(self._filled, (0, missing))
            self._observations = pad(self._observations, (0, 0, 0, 0, 0, missing))
            self._actions = pad(self._actions, (0, 0, 0, missing))
        self._filled[slots] = 0

    def step(self, slots: Tensor, observations: Tensor, past: Tensor) -> Tensor:
        """Take in (n, obs_dim) observations and (n,) actions before them; (n, A) logits of the actions to choose."""
        if self._observations.shape[2] == 0:
            self._observations = observations.new_zeros(*self._actions.shape, observations.shape[1])
        filled = self._filled[slots]
        self._actions[slots, filled - 1] = past  # of an empty window, the last place: nothing looks there
        full = slots[filled == self._length]
        self._observations[full, :-1] = self._observations[full, 1:]
        self._actions[full, :-1] = self._actions[full, 1:]
        last = filled.clamp(max=self._length - 1)
        self._observations[slots, last] = observations
        self._filled[slots] = last + 1
        length = int(last.max()) + 1
        logits: Tensor = self._model(self._observations[slots, :length], self._actions[slots, :length])
        return logits[torch.arange(len(slots), device=slots.device), last]
