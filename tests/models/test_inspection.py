"""The reported hidden states and attention weights are those that the model uses."""

import pytest
import torch
from torch import Tensor

from ilt.envs.actions import ActionSpace
from ilt.models.attention import Block
from ilt.models.decoder import Decoder
from ilt.models.inspection import attention_of, hidden_states
from tests.models.test_check import BASELINES, BOX, FOUR, make_up, small, spec
from tests.models.test_decoder import ATTENTIONS, POSITIONS, TOKENS, K, close, decoder, each, window


def residual(model: Decoder, observations: Tensor, actions: Tensor) -> Tensor:
    """Return the residual stream, (n_layer + 1, B, d_model)."""
    return torch.stack(list(hidden_states(model, observations, actions).values()))


@each(attention=ATTENTIONS, tokens=TOKENS, positions=POSITIONS)
def test_outputs_follow_from_the_last_hidden_state(options: dict[str, str]) -> None:
    model = decoder(**options, n_layer=3)
    states = hidden_states(model, *window())
    assert list(states) == ["embedding", "layer 1", "layer 2", "layer 3"]
    assert torch.equal(model.action_head(model.norm(states["layer 3"])), model(*window())[:, -1])
    assert torch.equal(
        states["embedding"], model.tokenize(*window())[:, -1]
    )  # it starts with the present state's token


def test_earlier_hidden_states_equal_those_of_a_shallower_model() -> None:
    deep = decoder(n_layer=2, attention="full")
    shallow = decoder(n_layer=1, attention="full")
    shallow.load_state_dict({name: tensor for name, tensor in deep.state_dict().items() if "blocks.1" not in name})
    close(residual(deep, *window())[:2], residual(shallow, *window()))


@pytest.mark.parametrize("space", [FOUR, BOX], ids=["choices", "numbers"])
@pytest.mark.parametrize("name", BASELINES)
def test_outputs_of_baselines_follow_from_their_last_hidden_state(name: str, space: ActionSpace) -> None:
    points = ["layer 1", "layer 2"] if name.startswith("mlp") else ["embedding", "state"]
    model, windows = small(name, space).eval(), make_up(space)
    states = hidden_states(model, *windows)
    assert list(states) == points
    last = states[points[-1]]
    close(
        model.layers[-1](last) if name.startswith("mlp") else model.action_head(model.norm(last)),
        model(*windows)[:, -1],
    )


def test_a_linear_policy_has_no_hidden_states() -> None:
    assert hidden_states(spec("linear", FOUR).build()[0], *make_up(FOUR)) == {}


def last_by_weights(model: Decoder, observations: Tensor, actions: Tensor) -> Tensor:
    """Return the last block's output at the present state, (B, d_model), from the reported attention weights."""
    x = model.tokenize(observations, actions)
    n_tokens, rope_cache = x.shape[1], None if model.rope_cache is None else model.rope_cache[: x.shape[1]]
    *before, last = (block for block in model.blocks if isinstance(block, Block))
    for block, allowed in zip(before, model.attn_mask, strict=False):
        x = block(x, rope_cache, allowed[:n_tokens, :n_tokens])
    _, _, v = last.project(x, rope_cache)
    y = torch.einsum("bht,bhtd->bhd", attention_of(model, observations, actions)[-1], v).flatten(1)
    return last.join(x[:, -1], y)


@each(attention=ATTENTIONS, tokens=TOKENS)
def test_reported_attention_weights_reproduce_the_hidden_states(options: dict[str, str]) -> None:
    model = decoder(**options, context_length=30)
    for length in (1, 3, 8, 30):  # short windows use plain attention, long ones a kernel
        close(last_by_weights(model, *window(8, length)), residual(model, *window(8, length))[-1])


@each(attention=ATTENTIONS, tokens=TOKENS)
def test_attention_sums_to_one_over_the_window_of_a_layer(options: dict[str, str]) -> None:
    model = decoder(**options)
    weights = attention_of(model, *window())
    n_tokens = model.tokens_per_step * (K - 1) + 1
    assert weights.shape == (2, 3, 2, n_tokens)
    close(weights.sum(dim=-1), torch.ones(2, 3, 2))
    steps_back = (n_tokens - 1) // model.tokens_per_step - torch.arange(n_tokens) // model.tokens_per_step
    for layer, window_size in zip(weights, model.window_sizes, strict=True):
        assert torch.equal((layer > 0).all(dim=(0, 1)), steps_back <= window_size)


def test_inspection_leaves_the_model_unchanged() -> None:
    model = decoder(dropout=0.5, action_dropout=0.5).train()
    assert torch.equal(residual(model, *window()), residual(model, *window()))  # dropout is off
    assert all(module.training for module in model.modules())
    assert not any(block._forward_hooks for block in model.blocks)
