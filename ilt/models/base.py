"""The contract of a model: from windows of observations and actions to outputs, and how it acts step by step.

`ilt.check_model(model)` checks that a model meets this contract.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ilt.envs.actions import ActionSpace


class Stepper(Protocol):
    """A model that acts step by step in many episodes at once, each in its own slot."""

    def reset(self, slots: np.ndarray) -> None:
        """Forget the episodes in these slots (n,) int64, where new ones start."""

    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Process one step of each slot's episode.

        Args:
            slots: (n,) int64, without duplicates.
            observations: (n, obs_dim) float32, the current observations.
            previous: (n,) or (n, dim), the previous actions in model units; ignored at the start of an episode.

        Returns:
            (n, n_outputs) float32, the outputs for the actions to choose now.
        """
        ...


class SequenceModel(nn.Module):
    """P(a_t | s_0, a_0, …, s_t), as n_outputs numbers for each step of a window.

    To write your own, subclass it, declare your options as keyword arguments of `__init__`, and set `model._target_` to
    the path of your class. The other keys are passed to `__init__`.

    Example:
        ```python
        class MyModel(ilt.SequenceModel):
            def __init__(self, *, hidden: int = 64, **sizes):
                super().__init__(**sizes)
                self.embed_actions = ilt.embed_actions(self.action_space, hidden)
                ...
                self.out = nn.Linear(hidden, self.n_outputs)

            def forward(self, observations, actions, mask=None):
                x = self.normalize(observations)
                ...
                return self.out(x)
        ```

    Args:
        observation_dim: size of one observation.
        action_space: the actions, which the model gets in model units: one choice (B, L) int64 or several (B, L, dim)
            int64, counted from 0, or numbers (B, L, dim) float32 in [−1, 1].
        n_outputs: how many numbers the action head needs for each step.
        context_length: K, the longest window in steps.
        return_conditioned: whether the last number of an observation is the return-to-go; observation_dim includes it.

    Attributes:
        slides: whether `forward` takes windows of any length, of which each output depends on the last K steps only, so
            that one window computes what many would, for validation.
        recurrent: whether it carries a state beyond K steps. If so, `forward` takes windows of any length, and in a
            rollout the state is carried from the start of the episode. Otherwise the model sees only the last K steps.
        observation_mean, observation_std: (obs_dim,) buffers, set before training and saved with the weights.
        target_return: a buffer of one number, saved with the weights: what the student aims for in an episode,
            unless its policy is given another target. None if the model is not return-conditioned.
    """

    slides = False
    recurrent = False
    observation_mean: Tensor
    observation_std: Tensor
    target_return: Tensor | None

    def __init__(
        self,
        *,
        observation_dim: int,
        action_space: ActionSpace,
        n_outputs: int,
        context_length: int,
        return_conditioned: bool = False,
    ) -> None:
        super().__init__()
        self.observation_dim, self.action_space = observation_dim, action_space
        self.n_outputs, self.context_length = n_outputs, context_length
        self.register_buffer("observation_mean", torch.zeros(observation_dim))
        self.register_buffer("observation_std", torch.ones(observation_dim))
        self.register_buffer("target_return", torch.zeros(()) if return_conditioned else None)

    @property
    def return_conditioned(self) -> bool:
        """Whether the last number of an observation is the return-to-go."""
        return self.target_return is not None

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute outputs for the action at every step of a window.

        Args:
            observations: (B, L, obs_dim) float32, with 1 ≤ L ≤ K; see `slides` and `recurrent` for longer windows.
            actions: (B, L) or (B, L, dim); `actions[:, t]` follows `observations[:, t]` and is seen from step t + 1 on,
                so the last one has no effect.
            mask: (B, L) bool, True at real steps; padding is on the right. None if all steps are real.

        Returns:
            (B, L, n_outputs): `[:, t]` predicts the action at step t from everything before it and nothing after it.
        """
        raise NotImplementedError

    def make_stepper(self) -> Stepper | None:
        """Return a stepper that is faster than recomputing the window at each step, or None if there is none."""
        return None

    def probe_points(self) -> dict[str, nn.Module]:
        """Return modules by name, from input to output. `ilt probe` reads their outputs (B, L, D) at the last step."""
        return {}

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        """Set the (obs_dim,) statistics that standardize observations. They are saved with the weights."""
        self.observation_mean.copy_(mean)
        self.observation_std.copy_(std)

    def normalize(self, observations: Tensor) -> Tensor:
        """Standardize observations (…, obs_dim)."""
        return (observations - self.observation_mean) / self.observation_std


def validation_length(model: SequenceModel, context_length: int) -> int:
    """Return the length of windows, in steps, in which validation shows a model `context_length` steps at each step.

    A longer window has more steps to score: K = 32 would compute 32 steps to score one. The attention is over more
    tokens, though.
    """
    slides = model.slides and 1 < context_length == model.context_length
    return context_length + max(context_length, 24) if slides else context_length


class ActionEmbedding(nn.Module):
    """Embeds several choices as the sum of one vector for each, or numbers by a linear map."""

    def __init__(self, action_space: ActionSpace, d_model: int) -> None:
        super().__init__()
        self.continuous = action_space.continuous
        if self.continuous:
            self.linear = nn.Linear(action_space.dim, d_model)
        else:
            self.tables = nn.ModuleList(nn.Embedding(n, d_model) for n in action_space.n_choices)

    def forward(self, actions: Tensor) -> Tensor:
        """Map actions (…, dim) to vectors (…, d_model)."""
        if self.continuous:
            return self.linear(actions)
        columns = zip(self.tables, actions.unbind(dim=-1), strict=True)
        return torch.stack([table(column) for table, column in columns]).sum(dim=0)


def embed_actions(action_space: ActionSpace, d_model: int) -> nn.Module:
    """Return a module that maps actions in model units, (…) or (…, dim), to vectors (…, d_model)."""
    if action_space.flat:
        return nn.Embedding(action_space.n_choices[0], d_model)
    return ActionEmbedding(action_space, d_model)
