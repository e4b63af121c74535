"""Recurrent baselines: a GRU or an LSTM over observations and past actions, which carries its state in rollouts."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ilt.models.base import SequenceModel, Stepper, embed_actions


class Recurrent(SequenceModel):
    """P(a_t | s_0, a_0, …, s_t) from a recurrent network over the pairs (a_{t−1}, s_t).

    In training, each window of K steps starts from a zero state. In a rollout, the state is carried from the start of
    the episode.

    Args:
        cell: `gru` or `lstm`.
        d_model: width of the state and of the embeddings.
        n_layer: number of recurrent layers.
        dropout: dropout probability between the layers.
        sizes: see `SequenceModel`.
    """

    recurrent = True

    def __init__(self, *, cell: str, d_model: int, n_layer: int, dropout: float, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.embed_state = nn.Linear(self.observation_dim, d_model)
        self.embed_action = embed_actions(self.action_space, d_model)
        layers = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.rnn = layers(d_model, d_model, n_layer, batch_first=True, dropout=dropout if n_layer > 1 else 0.0)
        self.norm = nn.LayerNorm(d_model)
        self.action_head = nn.Linear(d_model, self.n_outputs)

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `SequenceModel.forward`; windows may be of any length."""
        previous = pad(self.embed_action(actions[:, :-1]), (0, 0, 1, 0))  # no action before the first step
        hidden, _ = self.rnn(self.embed_state(self.normalize(observations)) + previous)
        return self.action_head(self.norm(hidden))

    def advance(self, observations: Tensor, previous: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Map one step's observations (n, obs_dim) and embedded actions (n, d_model) to outputs (n, n_outputs).

        Return the new state as well.
        """
        x = self.embed_state(self.normalize(observations)) + previous
        hidden, state = self.rnn(x[:, None], state)
        return self.action_head(self.norm(hidden[:, 0])), state

    def probe_points(self) -> dict[str, nn.Module]:
        """Return the modules of the embedded observation and of the recurrent state."""
        return {"embedding": self.embed_state, "state": self.rnn}

    def make_stepper(self) -> Stepper:
        """Return a stepper that carries the state of every slot's episode."""
        return RecurrentStepper(self)


class RecurrentStepper:
    """Carries the state of a recurrent model, and uses its current weights; see `ilt.models.base.Stepper`."""

    def __init__(self, model: Recurrent) -> None:
        self._model = model
        n_states = 2 if isinstance(model.rnn, nn.LSTM) else 1
        self._state = torch.zeros(n_states, model.rnn.num_layers, 0, model.rnn.hidden_size)
        self._started = torch.zeros(0, dtype=torch.bool)

    @torch.inference_mode()
    def reset(self, slots: np.ndarray) -> None:
        """Forget the episodes in these slots (n,) int64, where new ones start."""
        missing = int(slots.max()) + 1 - len(self._started)
        if missing > 0:
            self._state, self._started = pad(self._state, (0, 0, 0, missing)), pad(self._started, (0, missing))
        which = torch.from_numpy(slots)
        self._state[:, :, which] = 0.0
        self._started[which] = False

    @torch.inference_mode()
    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Process one step of each slot's episode; see `ilt.models.base.Stepper`."""
        model, which = self._model, torch.from_numpy(slots)
        device, was_training = model.observation_mean.device, model.training
        model.eval()
        try:
            embedded = model.embed_action(torch.from_numpy(previous).to(device))
            embedded = embedded * self._started[which, None].to(device)
            state = self._state[:, :, which].to(device)
            given = (state[0], state[1]) if len(state) == 2 else state[0]
            outputs, after = model.advance(torch.from_numpy(observations).to(device), embedded, given)
        finally:
            model.train(was_training)
        self._state[:, :, which] = torch.stack(list(after) if isinstance(after, tuple) else [after]).cpu()
        self._started[which] = True
        return outputs.float().cpu().numpy()
