"""What goes on inside a decoder is told as it is."""

import pytest
import torch
from torch import Tensor

from ilt.models.attention import Block
from ilt.models.decoder import ATTENTIONS, POSITIONS, TOKENS, Decoder
from ilt.models.inspection import look_inside
from tests.models.test_decoder import K, close, decoder, window


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_end_of_the_residual_stream_is_what_the_logits_are_made_of(
    attention: str, tokens: str, positions: str
) -> None:
    model = decoder(attention=attention, tokens=tokens, positions=positions, n_layer=3)
    inside = look_inside(model, *window())
    assert inside.residual.shape == (4, 3, 8)
    close(model.action_head(model.norm(inside.residual[-1])), model(*window())[:, -1])


@pytest.mark.parametrize("tokens", TOKENS)
def test_the_residual_stream_begins_with_the_present_states_token(tokens: str) -> None:
    model = decoder(tokens=tokens)
    assert torch.equal(look_inside(model, *window()).residual[0], model.tokenize(*window())[:, -1])


def test_in_between_it_is_what_a_shallower_model_would_end_with() -> None:
    deep = decoder(n_layer=2, attention="full")
    shallow = decoder(n_layer=1, attention="full")
    shallow.load_state_dict({name: tensor for name, tensor in deep.state_dict().items() if "blocks.1" not in name})
    close(look_inside(deep, *window()).residual[:2], look_inside(shallow, *window()).residual)


def last_by_weights(model: Decoder, observations: Tensor, actions: Tensor) -> Tensor:
    """(B, d_model): what the last block gives at the present state, by the attention weights that are told."""
    inside = look_inside(model, observations, actions)
    x = model.tokenize(observations, actions)
    n_tokens, rope_cache = x.shape[1], None if model.rope_cache is None else model.rope_cache[:, : x.shape[1]]
    *before, last = (block for block in model.blocks if isinstance(block, Block))
    for block, allowed in zip(before, model.allowed, strict=False):
        x = block(x, rope_cache, allowed[:n_tokens, :n_tokens])
    _, _, v = last.project(x, rope_cache)
    y = torch.einsum("bht,bthd->bhd", inside.attention[-1], v).flatten(1)
    return last.join(x[:, -1], y)


@pytest.mark.parametrize("length", [1, 3, 8, 30])  # short windows are attended to side by side, long ones by a kernel
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_weights_are_those_that_the_model_uses(attention: str, tokens: str, length: int) -> None:
    model = decoder(attention=attention, tokens=tokens, context_length=30)
    observations, actions = window(8, length)
    close(last_by_weights(model, observations, actions), look_inside(model, observations, actions).residual[-1])


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attention_sums_to_one_over_what_a_layer_may_look_at(attention: str, tokens: str) -> None:
    model = decoder(attention=attention, tokens=tokens)
    weights = look_inside(model, *window()).attention
    n_tokens = model.tokens_per_step * (K - 1) + 1
    assert weights.shape == (2, 3, 2, n_tokens)
    close(weights.sum(dim=-1), torch.ones(2, 3, 2))
    steps_back = (n_tokens - 1) // model.tokens_per_step - torch.arange(n_tokens) // model.tokens_per_step
    for layer, window_size in zip(weights, model.window_sizes, strict=True):
        assert torch.equal((layer > 0).all(dim=(0, 1)), steps_back <= window_size)


def test_looking_leaves_no_trace() -> None:
    model = decoder(dropout=0.5, action_dropout=0.5).train()
    first, second = look_inside(model, *window()), look_inside(model, *window())
    assert torch.equal(first.residual, second.residual)  # dropout has no part in it
    assert all(module.training for module in model.modules())
    assert not any(block._forward_hooks for block in model.blocks)
