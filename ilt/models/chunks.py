"""Action chunks: the actions of the next steps, predicted all at once by any action head."""

from typing import TypeVar

import numpy as np
from torch import Tensor

from ilt.models.config import check_chunk
from ilt.models.heads import ActionHead

Array = TypeVar("Array", np.ndarray, Tensor)


class ActionChunks(ActionHead):
    """The actions of the next H = `chunk` steps, each distributed according to another head, independently.

    At every step the model predicts a chunk, and its context takes in every observation. Of a chunk, the first
    `execute` actions are executed. With `ensemble`, every chunk counts: the action is the average of all predictions
    of it, the i-th with weight exp(−m · i), where i = 0 is the oldest.

    As an `ActionHead`, this is the distribution of the first action, the one of the current step: `mode`, `sample` and
    `n_uniforms` are those of `step_head`. The loss is the one of all actions.

    Zhao et al. 2023, ["Learning fine-grained bimanual manipulation with low-cost
    hardware"](https://arxiv.org/abs/2304.13705) (ACT), section IV-A.

    Args:
        step_head: the distribution of the action of one step.
        chunk: H, at least 1.
        execute: how many actions of a chunk are executed before the next chunk is used, from 1 to H.
        ensemble: m, for actions that are numbers; None to use one chunk at a time. It requires H above 1 and `execute`
            = 1.

    Raises:
        ConfigError: these values do not go together.
    """

    def __init__(self, step_head: ActionHead, *, chunk: int, execute: int = 1, ensemble: float | None = None) -> None:
        check_chunk({"chunk": chunk, "execute": execute, "ensemble": ensemble})
        self.step_head, self.chunk, self.execute, self.ensemble = step_head, chunk, execute, ensemble
        self.n_outputs, self.n_uniforms = chunk * step_head.n_outputs, step_head.n_uniforms

    def split(self, outputs: Array) -> Array:
        """Return outputs (…, n_outputs) as (…, H, outputs of `step_head`), one row for each step."""
        return outputs.reshape(*outputs.shape[:-1], self.chunk, self.step_head.n_outputs)

    def loss(self, outputs: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the loss of `step_head` averaged over all real actions.

        Args:
            outputs: (N, n_outputs).
            targets: (N, H) or (N, H, dim).
            mask: (N, H) bool, False for actions after the end of the episode; None if all are real.
        """
        rows = self.split(outputs)
        if mask is None:
            return self.step_head.loss(rows.flatten(0, 1), targets.flatten(0, 1))
        return self.step_head.loss(rows[mask], targets[mask])

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        """Map outputs (n, n_outputs) to the most likely actions (n,) or (n, dim) of the current step."""
        return self.step_head.mode(self._first(outputs))

    def sample(self, outputs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Map outputs (n, n_outputs) and uniforms (n, n_uniforms) to actions (n,) or (n, dim) of the current step."""
        return self.step_head.sample(self._first(outputs), uniforms)

    def _first(self, outputs: np.ndarray) -> np.ndarray:
        return outputs[:, : self.step_head.n_outputs]
