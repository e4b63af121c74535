"""Baselines that see only the current observation, or the last K steps concatenated: linear, and perceptrons."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ilt.models.base import SequenceModel, Stepper, embed_actions


def mlp(n_in: int, width: int, n_layer: int, n_out: int, dropout: float) -> nn.Sequential:
    """Build `n_layer` hidden layers of the same width with GELU, and a linear output."""
    layers: list[nn.Module] = []
    for i in range(n_layer):
        layers += [nn.Linear(n_in if i == 0 else width, width), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(width if n_layer else n_in, n_out))


def _hidden_layers(layers: nn.Sequential) -> dict[str, nn.Module]:
    """Return the activation modules of a perceptron by name."""
    activations = [module for module in layers if isinstance(module, nn.GELU)]
    return {f"layer {i + 1}": module for i, module in enumerate(activations)}


class MLP(SequenceModel):
    """P(a_t | s_t): the memoryless baseline.

    Args:
        d_model: width of each hidden layer.
        n_layer: number of hidden layers.
        dropout: dropout probability after each hidden layer.
        sizes: see `SequenceModel`.
    """

    slides = True
    recurrent = True  # with an empty state

    def __init__(self, *, d_model: int, n_layer: int, dropout: float, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.layers = mlp(self.observation_dim, d_model, n_layer, self.n_outputs, dropout)

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `SequenceModel.forward`; actions are ignored."""
        return self.layers(self.normalize(observations))

    def probe_points(self) -> dict[str, nn.Module]:
        """Return the activations of the hidden layers."""
        return _hidden_layers(self.layers)

    def make_stepper(self) -> Stepper:
        """Return a stepper without memory."""
        return _Memoryless(self)


class Linear(MLP):
    """P(a_t | s_t) from a linear map of the current observation: the simplest baseline.

    Args:
        sizes: see `SequenceModel`.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(d_model=1, n_layer=0, dropout=0.0, **sizes)


class _Memoryless:
    def __init__(self, model: MLP) -> None:
        self._model = model

    def reset(self, slots: np.ndarray) -> None:
        pass

    @torch.inference_mode()
    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        was_training = self._model.training
        self._model.eval()
        try:
            device = self._model.observation_mean.device
            x = self._model.normalize(torch.from_numpy(observations).to(device))
            return self._model.layers(x).float().cpu().numpy()
        finally:
            self._model.train(was_training)


class MLPStack(SequenceModel):
    """P(a_t | the last K observations and K − 1 actions), concatenated into one vector (frame stacking).

    Steps before the start of the window are zeros, and a flag for each step distinguishes them from real steps.

    Args:
        d_model: width of each hidden layer.
        n_layer: number of hidden layers.
        d_action: width of an action's embedding.
        dropout: dropout probability after each hidden layer.
        sizes: see `SequenceModel`.
    """

    slides = True

    def __init__(self, *, d_model: int, n_layer: int, d_action: int, dropout: float, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.embed_action = embed_actions(self.action_space, d_action) if self.context_length > 1 else None
        n_in = self.context_length * (self.observation_dim + 1) + (self.context_length - 1) * d_action
        self.layers = mlp(n_in, d_model, n_layer, self.n_outputs, dropout)

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `SequenceModel.forward`."""
        n, length = observations.shape[:2]
        present = observations.new_ones(n, length, 1)
        parts = [_stacked(torch.cat([self.normalize(observations), present], dim=-1), self.context_length)]
        if self.embed_action is not None:
            past = pad(self.embed_action(actions[:, :-1]), (0, 0, 1, 0))  # the action before each step
            parts.append(_stacked(past, self.context_length - 1))
        return self.layers(torch.cat(parts, dim=-1))

    def probe_points(self) -> dict[str, nn.Module]:
        """Return the activations of the hidden layers."""
        return _hidden_layers(self.layers)


def _stacked(x: Tensor, n: int) -> Tensor:
    """Stack (B, L, D) into (B, L, n · D): each step after the n − 1 previous ones, with zeros before the first."""
    return pad(x, (0, 0, n - 1, 0)).unfold(1, n, 1).flatten(2)
