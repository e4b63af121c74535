"""Acting with any model: the plain stepper, which recomputes the window, and the choice of a faster one."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ilt.models.base import SequenceModel, Stepper


def stepper_of(model: SequenceModel, *, context_length: int, recompute: bool = False) -> Stepper:
    """The model's own stepper, or the plain one where it has none for so many steps, or where `recompute` asks for it.

    It acts in float32, whatever it is trained in.
    """
    if next(model.parameters()).dtype == torch.float64:
        model = copy.deepcopy(model).float()
    if not recompute and (model.recurrent or context_length == model.context_length):
        own = model.make_stepper()
        if own is not None:
            return own
    return WindowStepper(model, context_length)


class WindowStepper:
    """The last `length` steps of every slot's episode, which go through the whole model at every step.

    Windows are built as in training, and padded on the right. Works with any sequence model, which is put into
    evaluation mode for each step, and afterwards back into the mode it was in.
    """

    def __init__(self, model: SequenceModel, length: int) -> None:
        self._model, self._length = model, length
        self._filled = torch.zeros(0, dtype=torch.int64)  # steps in each slot's window
        self._observations = torch.zeros(0, length, model.observation_dim)
        self._actions = torch.from_numpy(model.action_space.zeros(0, length))

    @torch.inference_mode()
    def reset(self, slots: np.ndarray) -> None:
        """Episodes begin in these slots (n,): forget what was there."""
        missing = int(slots.max()) + 1 - len(self._filled)
        if missing > 0:
            self._filled = pad(self._filled, (0, missing))
            self._observations = pad(self._observations, (0, 0, 0, 0, 0, missing))
            self._actions = pad(self._actions, (*[0, 0] * (self._actions.ndim - 1), 0, missing))
        self._filled[torch.from_numpy(slots)] = 0

    @torch.inference_mode()
    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Take in (n, obs_dim) observations and the actions before them; (n, n_outputs) of the actions to choose."""
        which = torch.from_numpy(slots)
        last = self._take_in(which, torch.from_numpy(observations), torch.from_numpy(previous))
        length = int(last.max()) + 1
        outputs = evaluate(self._model, self._observations[which, :length], self._actions[which, :length])
        return outputs[torch.arange(len(slots)), last].numpy()

    def _take_in(self, slots: Tensor, observations: Tensor, previous: Tensor) -> Tensor:
        """Put one step into each window; (n,) where it stands there."""
        filled = self._filled[slots]
        self._actions[slots, filled - 1] = previous  # of an empty window, the last place: nothing looks there
        full = slots[filled == self._length]
        self._observations[full, :-1] = self._observations[full, 1:]
        self._actions[full, :-1] = self._actions[full, 1:]
        last = filled.clamp(max=self._length - 1)
        self._observations[slots, last] = observations
        self._filled[slots] = last + 1
        return last


def evaluate(model: nn.Module, observations: Tensor, actions: Tensor) -> Tensor:
    """A model's outputs in evaluation mode, on the CPU wherever the model is; it is left in the mode it was in."""
    device = next(model.parameters()).device
    was_training = model.training
    if was_training:
        model.eval()
    try:
        outputs: Tensor = model(observations.to(device), actions.to(device))
        return outputs.float().cpu()
    finally:
        if was_training:
            model.train()
