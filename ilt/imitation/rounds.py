"""Rounds: at some steps of a training the expert is asked again, and the data grow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from ilt.data.datamodule import VALIDATION_STEPS, WindowData
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset


class Rounds(Callback):
    """Adds the episodes of a round to the training data, at the validation after every so many steps.

    It must stand before a weight-averaging callback, which puts the averaged weights in place during validation: then
    it is these that decide the round, as in `RolloutEvaluation`. A resumed training has the rounds of its checkpoint.

    Args:
        data: the training data.
        n_rounds: how many there are, not counting the data that training begins with.
        every: training steps from one round to the next; there are validations at these steps.
        episodes_of: takes the number of a round, from 1 on, and the student as it is then, or None for the episodes of
            a round that a checkpoint remembers.
    """

    def __init__(
        self,
        data: WindowData,
        *,
        n_rounds: int,
        every: int,
        episodes_of: Callable[[int, nn.Module | None], Episodes],
    ) -> None:
        self._data, self._n_rounds, self._every, self._episodes_of = data, n_rounds, every, episodes_of
        self._added = 0

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        number, since = divmod(trainer.global_step, self._every)
        if since == 0 and self._added < number <= self._n_rounds:
            self._add(number, pl_module.model)  # type: ignore[arg-type]  # Lightning types every attribute as Tensor or Module

    def _add(self, number: int, student: nn.Module | None) -> None:
        self._data.extend(self._episodes_of(number, student))
        self._added = number

    def state_dict(self) -> dict[str, Any]:
        return {"rounds": self._added}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for number in range(1, state_dict["rounds"] + 1):
            self._add(number, None)


@torch.no_grad()
def confusion(student: nn.Module, windows: WindowDataset, n_actions: int, *, deterministic: bool) -> np.ndarray:
    """What a student does where the expert does what: (A, A) float64, row a is P(student's action | expert's action a).

    It is measured at the steps that `windows` score, and is the noise under which what the student does is most likely
    (Laskey et al. 2017). The row of an action that the expert never takes is that action alone.

    Args:
        student: in evaluation mode; maps observations, actions and mask to logits, as `ilt.models` do.
        windows: demonstrations, `as_deployed`.
        deterministic: whether the student takes its most likely action, or samples.
    """
    counts = torch.zeros(n_actions, n_actions, dtype=torch.float64)
    windows.to(next(student.parameters()).device)
    for which in torch.arange(len(windows)).split(max(VALIDATION_STEPS // windows.context_length, 1)):
        batch = windows.__getitems__(which)
        logits = student(batch["observations"], batch["actions"], batch["mask"])[batch["scored"]].float()
        chosen = nn.functional.one_hot(logits.argmax(dim=1), n_actions) if deterministic else logits.softmax(dim=1)
        counts.index_add_(0, batch["actions"][batch["scored"]].cpu(), chosen.double().cpu())
    totals = counts.sum(dim=1, keepdim=True)
    return torch.where(totals > 0, counts / totals.clamp(min=1e-12), torch.eye(n_actions, dtype=torch.float64)).numpy()
