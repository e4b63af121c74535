"""Known faults of imitation learning with sequence models, built in on purpose: `ilt study faults` measures their cost.

Each is a subclass that a config names, such as `dataset._target_=ilt.studies.faults.StatesAfterActions`. Nothing else
imports them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ilt.data.windows import WindowDataset
from ilt.models.attention import build_rope_cache
from ilt.models.decoder import Decoder


class StatesAfterActions(WindowDataset):
    """The state is the one after the action, so the model learns which action led to a state."""

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        batch = super().__getitems__(indices)
        seen = batch["observations"]
        batch["observations"] = torch.cat([seen[:, 1:], seen[:, -1:]], dim=1)
        return batch


class UnscaledActions(WindowDataset):
    """Actions are recorded in the simulator's units, but the student's outputs are rescaled to its bounds."""

    def __getitems__(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        batch = super().__getitems__(indices)
        return {**batch, "actions": batch["actions"] * torch.tensor(self._action_space.high)}


class EqualLayers(Decoder):
    """Every block is initialized with the same seed, so all start with equal weights."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        for block in self.blocks[1:]:
            block.load_state_dict(self.blocks[0].state_dict())


class ActionReadout(Decoder):
    """In evaluation, each output is read one token late, from the current action's, which training never supervised."""

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `SequenceModel.forward`."""
        if self.training:
            return super().forward(observations, actions, mask)
        assert self.embed_action is not None
        present = self.embed_action(torch.zeros_like(actions[:, :1]))
        x = torch.cat([self.tokenize(observations, actions, mask), present], dim=1)
        index = torch.arange(x.shape[1], device=x.device)
        angles = build_rope_cache(index, self.head_dim) if self.is_rotary else None
        for block, window_size in zip(self.blocks, self.window_sizes, strict=True):
            x = block(x, angles, self.may_attend(index[:, None], index, window_size))
        return self.action_head(self.norm(x[:, 1::2]))
