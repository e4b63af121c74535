"""The policy that flies a sequence model, and the plain way of doing it, which any model allows."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ilt.models.cache import CachedDecoder
from ilt.rollout.policies import ActionSampler


class _Stepper(Protocol):
    """What a sequence model remembers of the episode in each slot."""

    def begin(self, slots: np.ndarray) -> None:
        """Episodes begin in these slots (n,): forget what was there."""

    def step(self, slots: np.ndarray, observations: np.ndarray, past: np.ndarray) -> np.ndarray:
        """Take in (n, obs_dim) observations and (n,) actions before them; (n, A) logits of the actions to choose."""
        ...


class SequencePolicy:
    """A sequence model that flies: from the last steps of every slot's episode it predicts the next action.

    It sees what it saw in training: up to `context_length` steps, the true start of the episode included. Where its
    keys and values can be cached, it flies with the weights that the model had when the policy was made.

    Args:
        model: maps observations (B, L, obs_dim) and actions (B, L) to logits (B, L, A), as `ilt.models` do.
        context_length: how many steps it may look at, at most what the model was built for; None for all of them.
        deterministic: take the most likely action; otherwise sample, from the episode's seed alone.
        recompute: recompute the whole window at every step, also where keys and values can be cached.
    """

    privileged = False

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
        self._sampler = ActionSampler(deterministic=deterministic)
        self._actions = np.zeros(0, dtype=np.int64)  # the newest one of each slot
        self._memory: _Stepper
        if CachedDecoder.suits(model) and length == longest and not recompute:
            self._memory = CachedDecoder(model)
        else:
            self._memory = WindowStepper(model, length)

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._actions = np.pad(self._actions, (0, max(slots.max() + 1 - len(self._actions), 0)))
        self._memory.begin(slots)
        self._sampler.begin(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        actions = self._sampler.choose(slots, self.logits(slots, observations))
        self._actions[slots] = actions
        return actions

    def note(self, slots: np.ndarray, actions: np.ndarray) -> None:
        """Say what was done in these slots (n,) instead of what it chose there: actions (n,) int64."""
        self._actions[slots] = actions

    def logits(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """Take in one observation per slot and return the logits (n, A) float32 of the action to choose there."""
        return self._memory.step(slots, observations, self._actions[slots])


class WindowStepper:
    """The last `length` steps of every slot's episode, which go through the whole model at every step.

    Windows are built as in training, and padded on the right. Works with any sequence model, which is put into
    evaluation mode for each step, and afterwards back into the mode it was in.
    """

    def __init__(self, model: nn.Module, length: int) -> None:
        self._model, self._length = model, length
        self._filled = torch.zeros(0, dtype=torch.int64)  # steps in each slot's window
        self._observations = torch.zeros(0, length, 0)
        self._actions = torch.zeros(0, length, dtype=torch.int64)

    @torch.inference_mode()
    def begin(self, slots: np.ndarray) -> None:
        """Episodes begin in these slots (n,): forget what was there."""
        missing = int(slots.max()) + 1 - len(self._filled)
        if missing > 0:
            self._filled = pad(self._filled, (0, missing))
            self._observations = pad(self._observations, (0, 0, 0, 0, 0, missing))
            self._actions = pad(self._actions, (0, 0, 0, missing))
        self._filled[torch.from_numpy(slots)] = 0

    @torch.inference_mode()
    def step(self, slots: np.ndarray, observations: np.ndarray, past: np.ndarray) -> np.ndarray:
        """Take in (n, obs_dim) observations and (n,) actions before them; (n, A) logits of the actions to choose."""
        which = torch.from_numpy(slots)
        last = self._take_in(which, torch.from_numpy(observations), torch.from_numpy(past))
        length = int(last.max()) + 1
        logits = self._evaluate(self._observations[which, :length], self._actions[which, :length])
        return logits[torch.arange(len(slots)), last].numpy()

    def _take_in(self, slots: Tensor, observations: Tensor, past: Tensor) -> Tensor:
        """Put one step into each window; (n,) where it stands there."""
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
        return last

    def _evaluate(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The model's logits on the CPU, wherever it is."""
        device = next(self._model.parameters()).device
        was_training = self._model.training
        if was_training:
            self._model.eval()
        try:
            logits: Tensor = self._model(observations.to(device), actions.to(device))
            return logits.float().cpu()
        finally:
            if was_training:
                self._model.train()
