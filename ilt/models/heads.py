"""Action heads: distributions over actions, parametrized by a model's outputs.

A head has no weights. It declares how many outputs it needs, and turns them into a loss (in torch, over training
targets) and into the most likely action or a sample (in NumPy, during rollouts). All actions are in model units:
choices that start at 0, or numbers in [−1, 1]. A sample is a function of outputs and uniform numbers, so that it
depends only on the episode's seed.

To write your own, subclass `ActionHead` and set `head._target_` to the path of your class, which is called with the
environment's `action_space` and the config's other keys.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, softplus

from ilt.envs.actions import ActionSpace

MIN_LOG_STD, MAX_LOG_STD = -5.0, 2.0


class ActionHead(ABC):
    """A distribution over the actions of an environment, given n_outputs numbers.

    Attributes:
        n_outputs: number of model outputs per step.
        n_uniforms: number of uniform numbers per sample.
    """

    n_outputs: int
    n_uniforms: int

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of outputs (N, n_outputs) for targets (N,) int64, (N, dim) int64 or (N, dim) float32."""

    @abstractmethod
    def mode(self, outputs: np.ndarray) -> np.ndarray:
        """Map outputs (n, n_outputs) float32 to the most likely actions (n,) or (n, dim)."""

    @abstractmethod
    def sample(self, outputs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Map outputs (n, n_outputs) and uniform numbers (n, n_uniforms) in [0, 1) to actions (n,) or (n, dim)."""


class Categorical(ActionHead):
    """Logits over one choice, or over each of several independent choices. The loss is cross-entropy."""

    def __init__(self, *, action_space: ActionSpace) -> None:
        self._flat, self._sizes = action_space.flat, list(action_space.n_choices)
        self.n_outputs, self.n_uniforms = sum(self._sizes), action_space.dim

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self._flat:
            return cross_entropy(outputs, targets)
        parts = zip(outputs.split(self._sizes, dim=-1), targets.unbind(dim=-1), strict=True)
        return torch.stack([cross_entropy(logits, target) for logits, target in parts]).sum()

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        if self._flat:
            return outputs.argmax(axis=1)
        return np.stack([logits.argmax(axis=1) for logits in self._parts(outputs)], axis=1)

    def sample(self, outputs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        columns = zip(self._parts(outputs), uniforms.T, strict=True)
        chosen = [sample_categorical(softmax(logits), uniform) for logits, uniform in columns]
        return chosen[0] if self._flat else np.stack(chosen, axis=1)

    def _parts(self, outputs: np.ndarray) -> list[np.ndarray]:
        return np.split(outputs, np.cumsum(self._sizes)[:-1], axis=1)


class Gaussian(ActionHead):
    """A mean and a standard deviation for each number, independently.

    The loss is the negative log-likelihood weighted by the current variance (β-NLL with β = 1, Seitzer et al. 2022), so
    the mean is learned as in least squares. Without the weights, the many steps at which an expert repeats itself drown
    out the few that matter. Standard deviations stay above e⁻⁵; for a deterministic expert they would fall forever.
    """

    def __init__(self, *, action_space: ActionSpace) -> None:
        self._dim = action_space.dim
        self.n_outputs, self.n_uniforms = 2 * self._dim, self._dim

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, log_std = outputs[..., : self._dim], _bounded(outputs[..., self._dim :])
        return -(_log_normal(targets, mean, log_std) * (2 * log_std.detach()).exp()).sum(dim=-1).mean()

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        return outputs[:, : self._dim]

    def sample(self, outputs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        std = np.exp(_bounded(torch.from_numpy(outputs[:, self._dim :])).numpy())
        return (outputs[:, : self._dim] + std * _normal(uniforms)).astype(np.float32)


class GaussianMixture(ActionHead):
    """A weighted mixture of Gaussians, for multimodal experts (Bishop 1994).

    The mode is approximated by the mean of the component whose weighted density at its own mean is highest.

    Args:
        n_components: number of Gaussians.
    """

    def __init__(self, *, action_space: ActionSpace, n_components: int) -> None:
        self._dim = action_space.dim
        self._n = n_components
        self.n_outputs, self.n_uniforms = n_components * (1 + 2 * self._dim), 1 + self._dim

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        logits, mean, log_std = self._split(outputs)
        densities = _log_normal(targets[..., None, :], mean, log_std).sum(dim=-1)
        return -torch.logsumexp(logits.log_softmax(dim=-1) + densities, dim=-1).mean()

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        logits, mean, log_std = self._split(torch.from_numpy(outputs))
        best = (logits.log_softmax(dim=-1) - log_std.sum(dim=-1)).argmax(dim=-1)
        return mean[torch.arange(len(best)), best].numpy()

    def sample(self, outputs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        logits, mean, log_std = (part.numpy() for part in self._split(torch.from_numpy(outputs)))
        rows, chosen = np.arange(len(outputs)), sample_categorical(softmax(logits), uniforms[:, 0])
        return (mean[rows, chosen] + np.exp(log_std[rows, chosen]) * _normal(uniforms[:, 1:])).astype(np.float32)

    def _split(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split (…, n_outputs) into logits (…, n), means (…, n, dim) and log standard deviations (…, n, dim)."""
        logits, rest = outputs[..., : self._n], outputs[..., self._n :]
        mean, log_std = rest.unflatten(-1, (2, self._n, self._dim)).unbind(dim=-3)
        return logits, mean, _bounded(log_std)


class Discretized(ActionHead):
    """A categorical distribution over bins of equal width for each number. The loss is cross-entropy.

    It can represent several modes, with a resolution of 2 / n_bins.

    Args:
        n_bins: number of bins that cover [−1, 1].
    """

    def __init__(self, *, action_space: ActionSpace, n_bins: int) -> None:
        self._dim = action_space.dim
        self._n_bins = n_bins
        self.n_outputs, self.n_uniforms = self._dim * n_bins, 2 * self._dim

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        bins = ((targets + 1) / 2 * self._n_bins).long().clamp(0, self._n_bins - 1)
        logits = outputs.unflatten(-1, (self._dim, self._n_bins))
        return cross_entropy(logits.flatten(0, -2), bins.flatten()) * self._dim

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        bins = outputs.reshape(-1, self._dim, self._n_bins).argmax(axis=2)
        return ((2 * bins + 1) / self._n_bins - 1).astype(np.float32)

    def sample(self, outputs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        """Sample a bin, then a number uniformly within it."""
        probabilities = softmax(outputs.reshape(-1, self._n_bins))
        bins = sample_categorical(probabilities, uniforms[:, : self._dim].ravel()).reshape(-1, self._dim)
        return (2 * (bins + uniforms[:, self._dim :]) / self._n_bins - 1).astype(np.float32)


class Regression(ActionHead):
    """The action itself, learned by least squares. A sample is the action without noise."""

    def __init__(self, *, action_space: ActionSpace) -> None:
        self._dim = action_space.dim
        self.n_outputs, self.n_uniforms = self._dim, 0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return mse_loss(outputs, targets)

    def mode(self, outputs: np.ndarray) -> np.ndarray:
        return outputs

    def sample(self, outputs: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
        return outputs


def default_head(*, action_space: ActionSpace) -> ActionHead:
    """Return `Categorical` for choices, or `Regression` for numbers, which suits deterministic experts."""
    made = Regression if action_space.continuous else Categorical
    return made(action_space=action_space)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Map logits (n, A) to probabilities (n, A) float64."""
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def sample_categorical(probabilities: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Map probabilities (n, A) and uniform numbers (n,) in [0, 1) to choices (n,) int64 by the inverse CDF."""
    below = np.cumsum(probabilities, axis=1) <= uniform[:, None]
    return np.minimum(below.sum(axis=1), probabilities.shape[1] - 1).astype(np.int64)


def _bounded(log_std: Tensor) -> Tensor:
    """Bound log standard deviations, smoothly from below, so that gradients do not vanish abruptly."""
    return (MIN_LOG_STD + softplus(log_std - MIN_LOG_STD)).clamp(max=MAX_LOG_STD)


def for_deviation(log_std: np.ndarray) -> np.ndarray:
    """Return the outputs for which `Gaussian` has these log standard deviations: the inverse of its lower bound."""
    return MIN_LOG_STD + np.log(np.expm1(np.maximum(log_std - MIN_LOG_STD, 1e-3)))


def _log_normal(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return -0.5 * ((x - mean) * torch.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)


def _normal(uniforms: np.ndarray) -> np.ndarray:
    """Map uniform numbers in [0, 1) to standard normal numbers."""
    return ndtri(np.clip(uniforms, 1e-12, 1 - 1e-12))
