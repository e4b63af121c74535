"""What goes on inside a decoder: its residual stream, and its attention."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ilt.models.attention import Block, attention_weights
from ilt.models.decoder import Decoder


class Inside(NamedTuple):
    """What a decoder computed of the present step, the last one of each of B windows.

    Attributes:
        residual: (n_layer + 1, B, d_model), the residual stream at its state token: as embedded, and after each block.
            The last row is what norm and action_head make logits of.
        attention: (n_layer, B, n_head, T), how much that token takes from each of the window's T tokens, those of
            `Decoder.tokenize`. What a banded layer does not look back on has weight 0.
    """

    residual: Tensor
    attention: Tensor


class _Call(NamedTuple):
    """One block at work: what it was given, as `Block.forward` takes it, and what it gave."""

    block: Block
    given: tuple[Tensor, Tensor | None, Tensor, slice]
    gave: Tensor


@torch.no_grad()
def look_inside(model: Decoder, observations: Tensor, actions: Tensor) -> Inside:
    """Run a decoder in evaluation mode on windows without padding, and keep what its blocks were given and gave.

    Args:
        model: is left in the mode it was in.
        observations, actions: (B, L, obs_dim) and (B, L), as `Decoder.forward` takes them.
    """
    calls: list[_Call] = []

    def keep(block: nn.Module, given: tuple[Tensor, Tensor | None, Tensor, slice], gave: Tensor) -> None:
        assert isinstance(block, Block)
        calls.append(_Call(block, given, gave))

    hooks = [block.register_forward_hook(keep) for block in model.blocks]
    was_training = model.training
    model.eval()
    try:
        model(observations, actions)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    embedded = calls[0].given[0]
    return Inside(
        residual=torch.stack([x[:, -1] for x in (embedded, *(call.gave for call in calls))]),
        attention=torch.stack([_last_weights(call.block, *call.given) for call in calls]),
    )


def _last_weights(block: Block, x: Tensor, rope_cache: Tensor | None, attn_mask: Tensor, read: slice) -> Tensor:
    """(B, n_head, T): the attention of the last token, by what the block was given."""
    q, k, _ = block.project(x, rope_cache)
    q, k = q[:, read][:, -1:].transpose(1, 2), k.transpose(1, 2)
    return attention_weights(q, k, attn_mask[-1:]).view(len(x), block.n_head, -1)
