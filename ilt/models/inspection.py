"""Inspection of models: what they see when deployed, the hidden states of any model, and the attention of a decoder."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ilt.data.config import RETURNS_STATES_ACTIONS
from ilt.data.datamodule import VALIDATION_STEPS
from ilt.data.episodes import Episodes
from ilt.data.windows import WindowDataset
from ilt.envs.actions import ActionSpace
from ilt.models.attention import Block, attention_weights
from ilt.models.base import SequenceModel, validation_length
from ilt.models.decoder import Decoder
from ilt.models.steppers import evaluate


def deployed_batches(
    model: SequenceModel, episodes: Episodes, *, action_space: ActionSpace, context_length: int
) -> Iterator[dict[str, Tensor]]:
    """Yield windows of recorded episodes on the model's device, in which `scored` marks every step once.

    At a scored step, the model sees what it would see in a rollout with this context; see `WindowDataset`.
    """
    windows = WindowDataset(
        episodes,
        action_space=action_space,
        context_length=context_length,
        as_deployed=True,
        window_length=validation_length(model, context_length),
        tokens=RETURNS_STATES_ACTIONS if model.return_conditioned else "states_actions",
    )
    windows.to(model.observation_mean.device)
    for which in torch.arange(len(windows)).split(max(VALIDATION_STEPS // windows.window_length, 1)):
        yield windows.__getitems__(which)


@torch.no_grad()
def hidden_states(model: SequenceModel, observations: Tensor, actions: Tensor) -> dict[str, Tensor]:
    """Return the hidden states (B, D) at the last step of each window, for each of the model's `probe_points`.

    Args:
        model: the model, which runs in evaluation mode; its mode is then restored.
        observations, actions: windows without padding, as `SequenceModel.forward` takes them.
    """
    points = model.probe_points()
    outputs = [output for _, output in _calls(model, list(points.values()), observations, actions)]
    outputs = [output[0] if isinstance(output, tuple) else output for output in outputs]  # a recurrent layer's state
    return {name: output[:, -1].float().cpu() for name, output in zip(points, outputs, strict=True)}


@torch.no_grad()
def attention_of(model: Decoder, observations: Tensor, actions: Tensor) -> Tensor:
    """Return the attention of the last state token to each of the window's T tokens: (n_layer, B, n_head, T).

    The tokens are those of `Decoder.tokenize`. Tokens outside the band of a layer have weight 0.
    """
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    calls = _calls(model, blocks, observations, actions)
    found = zip(blocks, model.attn_mask, calls, strict=True)
    return torch.stack([_last_weights(block, mask, *given[:2]) for block, mask, (given, _) in found]).cpu()


def _calls(
    model: SequenceModel, modules: Sequence[nn.Module], observations: Tensor, actions: Tensor
) -> list[tuple[Any, Any]]:
    """Run the model. Return the arguments and the output of each module."""
    calls: dict[nn.Module, tuple[Any, Any]] = {}

    def keep(module: nn.Module, given: Any, output: Any) -> None:
        calls[module] = (given, output)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        evaluate(model, observations, actions)
    finally:
        for hook in hooks:
            hook.remove()
    return [calls[module] for module in modules]


def _last_weights(block: Block, attn_mask: Tensor, x: Tensor, rope_cache: Tensor | None) -> Tensor:
    """Return the attention (B, n_head, T) of the last token, given the mask and the inputs of the block."""
    q, k, _ = block.project(x, rope_cache)
    n_tokens = x.shape[1]
    return attention_weights(q[:, :, -1:], k, attn_mask[n_tokens - 1 : n_tokens, :n_tokens]).view(
        len(x), block.n_head, -1
    )
