"""Flying with a decoder without recomputing its window: keys and values are kept, in rings."""

from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import pad

from ilt.models.attention import EVERY, Block, rotary_turns
from ilt.models.decoder import Decoder


class CachedDecoder:
    """A decoder that takes in one step at a time, of many episodes at once, each in a slot of its own.

    Its logits are those of `Decoder.forward` on the last K steps, up to float rounding, for every model that `suits`.

    Args:
        model: to be in evaluation mode whenever `step` is called.
    """

    def __init__(self, model: Decoder) -> None:
        assert self.suits(model), "its keys and values change while its window slides"
        self._model = model
        device = model.readout.weight.device
        # a step brings two tokens: the past action's and the state's; where no action is ever looked at, one
        self._new = min(model.tokens_per_step, model.context_length)
        self._behind = torch.arange(1 - self._new, 1, device=device)
        self._rings = [_Ring(model, reach, self._behind) for reach in model.reaches]
        self._blocks = [block for block in model.blocks if isinstance(block, Block)]
        self._steps = torch.zeros(0, dtype=torch.int64, device=device)  # taken in, of each slot's episode
        self._everyone = self._steps  # all slots
        self._reads = [EVERY] * (len(self._rings) - 1) + [slice(self._new - 1, None)]

    @staticmethod
    def suits(model: object) -> TypeGuard[Decoder]:
        """Whether its keys and values stay what they are while the window slides.

        They do not if positions are counted from the start of the window, or if its layers, on top of each other,
        look back further than the window.
        """
        return isinstance(model, Decoder) and model.embed_position is None and sum(model.reaches) < model.context_length

    def begin(self, slots: Tensor) -> None:
        """Episodes begin in these slots (n,): forget what was there."""
        missing = int(slots.max()) + 1 - len(self._steps)
        if missing > 0:
            self._steps = pad(self._steps, (0, missing))
            for ring in self._rings:
                ring.grow(missing)
            self._everyone = torch.arange(len(self._steps), device=slots.device)
        self._steps[slots] = 0

    def step(self, slots: Tensor, observations: Tensor, past: Tensor) -> Tensor:
        """Take in one step of each slot's episode.

        Args:
            slots: (n,) int64, each once.
            observations: (n, obs_dim) float32, what is seen now.
            past: (n,) int64, the actions before it; at the start of an episode, what stands there has no influence.

        Returns:
            logits (n, n_actions) of the actions to choose now.
        """
        model, new = self._model, self._new
        # as a window of two steps, whose first state was taken in before
        x = model.tokenise(observations[:, None].expand(-1, new, -1), past[:, None].expand(-1, new))[:, new - 1 :]
        steps = self._steps[slots]
        tokens = (model.tokens_per_step * steps)[:, None] + self._behind
        turns = None if model.turns is None else rotary_turns(tokens, model.head_dim)
        rows = EVERY if torch.equal(slots, self._everyone) else slots  # which would copy what is kept
        for block, ring, read in zip(self._blocks, self._rings, self._reads, strict=True):
            q, k, v = block.project(x, turns)
            ring.put(slots, tokens, k, v)
            y = block.attend(q[:, read], ring.keys[rows], ring.values[rows], ring.allowed(steps, read))
            x = block.join(x[:, read], y)
        self._steps[slots] = steps + 1
        return model.readout(model.norm(x[:, -1]))


class _Ring:
    """The newest tokens of one layer: token i of an episode stands at place i modulo the ring's size.

    A layer that looks back w steps keeps w + 2 of them, since a past action's token comes one step after its state's.

    Attributes:
        keys, values: (n_slots, size, n_head, head_dim) float32.
    """

    def __init__(self, model: Decoder, reach: int, behind: Tensor) -> None:
        per_step = model.tokens_per_step
        self._n_steps = reach + len(behind)
        self._size = per_step * self._n_steps
        n_head = model.readout.in_features // model.head_dim
        self.keys = model.readout.weight.new_zeros(0, self._size, n_head, model.head_dim)
        self.values = self.keys.clone()
        # who attends to whom, in the first round of the ring and in every further one
        newest = per_step * torch.arange(2 * self._n_steps, device=behind.device)[:, None, None]
        queries = newest + behind[:, None]
        held = newest - (newest - torch.arange(self._size, device=behind.device)) % self._size
        self._allowed = model.may_attend(queries, held, reach) & (held >= 0) | (held == queries)

    def grow(self, n_slots: int) -> None:
        """Make room for so many slots more."""
        self.keys, self.values = (pad(kept, (0, 0, 0, 0, 0, 0, 0, n_slots)) for kept in (self.keys, self.values))

    def put(self, slots: Tensor, tokens: Tensor, k: Tensor, v: Tensor) -> None:
        """Keep keys and values (n, new, n_head, head_dim) of tokens (n, new)."""
        places = (slots[:, None], tokens % self._size)
        self.keys[places], self.values[places] = k, v

    def allowed(self, steps: Tensor, read: slice) -> Tensor:
        """(n, 1, new, size) bool: which places the new tokens of these steps (n,) attend to."""
        row = torch.where(steps < self._n_steps, steps, self._n_steps + steps % self._n_steps)
        return self._allowed[row, None, read]
