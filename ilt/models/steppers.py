"""Stepping any model: a stepper that recomputes the window, and the choice of a faster one."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ilt.models.base import SequenceModel, Stepper


def stepper_of(model: SequenceModel, *, context_length: int, recompute: bool = False) -> Stepper:
    """Return the model's own stepper, or a `WindowStepper` if it has none for this length or `recompute` is true.

    A model trained in float64 acts in float32.
    """
    if next(model.parameters()).dtype == torch.float64:
        model = copy.deepcopy(model).float()
    if not recompute and (model.recurrent or context_length == model.context_length):
        own = model.make_stepper()
        if own is not None:
            return own
    return WindowStepper(model, context_length)


class WindowStepper:
    """Passes the last `length` steps of every slot's episode through the whole model at every step.

    Windows are built as in training and padded on the right. It works with any sequence model, which is put into
    evaluation mode for each step; its mode is then restored.
    """

    def __init__(self, model: SequenceModel, length: int) -> None:
        self._model, self._length = model, length
        self._filled = torch.zeros(0, dtype=torch.int64)  # steps in each slot's window
        self._observations = torch.zeros(0, length, model.observation_dim)
        self._actions = torch.from_numpy(model.action_space.zeros(0, length))

    @torch.inference_mode()
    def reset(self, slots: np.ndarray) -> None:
        """Forget the episodes in these slots (n,) int64, where new ones start."""
        missing = int(slots.max()) + 1 - len(self._filled)
        if missing > 0:
            self._filled = pad(self._filled, (0, missing))
            self._observations = pad(self._observations, (0, 0, 0, 0, 0, missing))
            self._actions = pad(self._actions, (*[0, 0] * (self._actions.ndim - 1), 0, missing))
        self._filled[torch.from_numpy(slots)] = 0

    @torch.inference_mode()
    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Process one step of each slot's episode; see `ilt.models.base.Stepper`."""
        which = torch.from_numpy(slots)
        last = self._take_in(which, torch.from_numpy(observations), torch.from_numpy(previous))
        length = int(last.max()) + 1
        mask = torch.arange(length) <= last[:, None]
        outputs = evaluate(self._model, self._observations[which, :length], self._actions[which, :length], mask)
        return outputs[torch.arange(len(slots)), last].numpy()

    def _take_in(self, slots: Tensor, observations: Tensor, previous: Tensor) -> Tensor:
        """Add one step to each window. Return its indices within the windows (n,)."""
        filled = self._filled[slots]
        self._actions[slots, filled - 1] = previous  # in an empty window this is the last entry, which has no effect
        full = slots[filled == self._length]
        self._observations[full, :-1] = self._observations[full, 1:]
        self._actions[full, :-1] = self._actions[full, 1:]
        last = filled.clamp(max=self._length - 1)
        self._observations[slots, last] = observations
        self._filled[slots] = last + 1
        return last


def evaluate(model: nn.Module, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return a model's outputs in evaluation mode, as float32 on the CPU, and restore its mode.

    Args:
        mask: (B, L) bool, True at real steps; None if all are.
    """
    mask = torch.ones(observations.shape[:2], dtype=torch.bool) if mask is None else mask
    device = next(model.parameters()).device
    was_training = model.training
    if was_training:
        model.eval()
    try:
        outputs: Tensor = model(observations.to(device), actions.to(device), mask.to(device))
        return outputs.float().cpu()
    finally:
        if was_training:
            model.train()
