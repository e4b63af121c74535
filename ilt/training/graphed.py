"""Training steps on a GPU, replayed as a CUDA graph.

A step of a small model launches hundreds of kernels, each of which runs for less time than its launch takes. A graph
launches all of them at once, if the host takes no part in between: shapes are fixed, nothing is read back from the GPU,
and every input is at the same address each time.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from ilt.models.base import SequenceModel
from ilt.models.decoder import Decoder
from ilt.models.recurrent import Recurrent
from ilt.schema import named
from ilt.training.runtime import n_nodes, n_ranks, on_gpus

WARM_UP = 3
"""Passes before the capture, in which libraries choose kernels and allocate workspaces."""


class GraphedStep:
    """Loss, gradients, clipping and update of one batch, as one call that does not synchronize host and GPU.

    On other devices the same operations run one by one.

    Args:
        loss_of: returns the loss of the windows with given indices (B,) int64. What it reads must keep its address.
        parameters: what is trained.
        optimizer: updates it; see `set_capturable`.
        clip: takes the parameters and clips their gradients.
    """

    def __init__(
        self,
        loss_of: Callable[[Tensor], Tensor],
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        clip: Callable[[Sequence[nn.Parameter]], object],
    ) -> None:
        self._loss_of, self._parameters, self._optimizer, self._clip = loss_of, parameters, optimizer, clip
        self._graph: torch.cuda.CUDAGraph | None = None
        self._windows = self._loss = torch.zeros(0)

    def __call__(self, windows: Tensor) -> Tensor:
        """Update the parameters, and return the loss, a scalar that the next call overwrites."""
        if windows.device.type != "cuda":
            return self._step(windows)
        if self._graph is None:
            self._capture(windows)
        assert self._graph is not None
        self._windows.copy_(windows)
        self._graph.replay()
        return self._loss

    def _capture(self, windows: Tensor) -> None:
        """Record the operations of a step, without changing parameters or the random state."""
        drawn = torch.cuda.get_rng_state(windows.device)
        self._windows, self._graph = windows.clone(), torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()  # warm-up must not run on the default stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._accumulate(self._windows)
            if not self._optimizer.state:
                self._allocate_state()
        torch.cuda.current_stream().wait_stream(stream)
        self._optimizer.zero_grad(set_to_none=True)  # the graph allocates its own gradients
        with torch.cuda.graph(self._graph):
            self._loss = self._step(self._windows)
        torch.cuda.set_rng_state(drawn, windows.device)

    def _allocate_state(self) -> None:
        """Let the optimizer allocate its state by a step, then restore the parameters and zero the state."""
        before = [parameter.detach().clone() for parameter in self._parameters]
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(list(self._parameters), before)
        for state in self._optimizer.state.values():
            for value in state.values():
                value.zero_()

    def _step(self, windows: Tensor) -> Tensor:
        loss = self._accumulate(windows)
        self._clip(self._parameters)
        self._optimizer.step()
        return loss

    def _accumulate(self, windows: Tensor) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss_of(windows)
        loss.backward()
        return loss.detach()


def set_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Prepare an optimizer for a graph: keep its learning rates, which a schedule changes, in tensors on the device."""
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        group["capturable"] = device.type == "cuda"


def clipping(trainer: Any) -> Callable[[Sequence[nn.Parameter]], object]:
    """Return what clips gradients in place as a config's `trainer` says."""
    limit = trainer.gradient_clip_val
    if limit is None:
        return lambda parameters: None
    if trainer.gradient_clip_algorithm == "value":
        return functools.partial(nn.utils.clip_grad_value_, clip_value=limit, foreach=True)
    return functools.partial(nn.utils.clip_grad_norm_, max_norm=limit, foreach=True)


def obstacle(cfg: DictConfig, model: SequenceModel, callbacks: Sequence[pl.Callback]) -> str | None:
    """Return why a graph cannot make the training steps of a config; None if it can.

    Code from outside this package might behave differently at each step, whereas a graph replays the captured one.
    """
    trainer = cfg.trainer
    foreign = [f"{group}._target_={cfg[group]['_target_']}" for group in _GROUPS if not _is_own(cfg[group]["_target_"])]
    within = [
        type(each).__name__ for each in callbacks if any(is_overridden(hook, each, pl.Callback) for hook in _HOOKS)
    ]
    reasons = {
        "trainer.compile=false": trainer.get("compile") is False,
        "the device is not a GPU": not on_gpus(trainer),
        "several processes train together": n_ranks(trainer) * n_nodes(trainer) > 1,
        "trainer.precision=16-mixed scales losses": trainer.precision == "16-mixed",
        "trainer.detect_anomaly=true": trainer.get("detect_anomaly", False),
        "a recurrent model draws its own dropout": isinstance(model, Recurrent) and model.rnn.dropout > 0,
        **{f"{each} might act differently at each step": True for each in foreign},
        **{f"{each} acts within a step": True for each in within},
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


_GROUPS = ("dataset", "model", "head", "optimizer", "trainer")
_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")


def _is_own(target: str) -> bool:
    return target.startswith(f"{__name__.partition('.')[0]}.") or target == named("trainer", "lightning").target


def is_compiled(cfg: DictConfig, model: SequenceModel, *, graphed: bool) -> bool:
    """Return whether `torch.compile` compiles the model for training.

    `trainer.compile=auto` does so for graphs, in training that is long enough to make up for the time of compilation.
    """
    if (chosen := cfg.trainer.get("compile", "auto")) != "auto":
        return bool(chosen)
    labels = cfg.trainer.max_steps * cfg.dataset.batch_size * cfg.dataset.context_length
    return graphed and type(model) is Decoder and labels * sum(p.numel() for p in model.parameters()) > LONG


LONG = 2e14
"""Labels times parameters from which compilation saves more time than it takes."""
