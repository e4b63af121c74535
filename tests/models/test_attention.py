"""The transformer block against a plain reference, and the properties of rotary positions."""

import math

import pytest
import torch
from torch import Tensor

from ilt.models.attention import Block, build_rope_cache, fused_attention, plain_attention


def block(seed: int = 0, **changes: float) -> Block:
    """Return a block with two heads of size 4 and large weights, so attention is far from uniform."""
    torch.manual_seed(seed)
    made = Block(**{"d_model": 8, "n_head": 2, "dropout": 0.0, **changes})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def tokens(n_tokens: int = 6, n: int = 3) -> Tensor:
    return torch.randn(n, n_tokens, 8, generator=torch.Generator().manual_seed(1))


def rope_cache(n_tokens: int, first: int = 0) -> Tensor:
    return build_rope_cache(torch.arange(first, first + n_tokens), 4)


CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()


def attention_by_hand(made: Block, x: Tensor, *, rotary: bool) -> Tensor:
    """Compute softmax attention for one head and one query at a time, with coordinate pairs as complex numbers."""
    q, k, v = made.qkv(x).chunk(3, dim=-1)
    frequencies = torch.tensor([1.0, 0.01]) if rotary else torch.zeros(2)  # 10 000 ** (−0 / 4) and 10 000 ** (−2 / 4)
    y = torch.zeros_like(x)
    for head in (slice(0, 4), slice(4, 8)):
        queries, keys = (torch.complex(*part[..., head].split(2, dim=-1)) for part in (q, k))
        for i in range(x.shape[1]):
            turns = torch.exp(1j * frequencies * torch.arange(i, -1, -1)[:, None])
            scores = (queries[:, i, None] * keys[:, : i + 1].conj() * turns).real.sum(dim=-1) / 2  # / √4
            weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
            y[:, i, head] = (weights[..., None] * v[:, : i + 1, head]).sum(dim=1)
    return y


def by_hand(made: Block, x: Tensor, *, rotary: bool) -> Tensor:
    """Compute a block with causal attention."""
    y = x + made.attention_out(attention_by_hand(made, made.norm_attention(x), rotary=rotary))
    hidden = made.mlp_in(made.norm_mlp(y))
    return y + made.mlp_out(hidden * (1 + torch.erf(hidden / 2**0.5)) / 2)  # GELU, written out


@pytest.mark.parametrize("n_tokens", [1, 2, 10, 16, 17, 31, 49])  # several short windows share an attention
@pytest.mark.parametrize("rotary", [True, False])
def test_outputs_and_gradients_equal_those_of_a_plain_reference(n_tokens: int, rotary: bool) -> None:
    made, x = block(), tokens(n_tokens, 6).requires_grad_()
    causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()
    outputs = made(x, rope_cache(n_tokens) if rotary else None, causal), by_hand(made, x, rotary=rotary)
    weights = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(2))
    one, other = ([y, *torch.autograd.grad((y * weights).sum(), [x, *made.parameters()])] for y in outputs)
    for ours, expected in zip(one, other, strict=True):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(ours / scale, expected / scale, atol=1e-5, rtol=1e-5)


def test_rotations_are_exact_far_into_an_episode() -> None:
    real, imaginary = build_rope_cache(torch.tensor([100_003]), 4)[0, 0]
    assert real.item() == pytest.approx(math.cos(100_003), abs=1e-7)
    assert imaginary.item() == pytest.approx(math.sin(100_003), abs=1e-7)


def test_rotary_attention_depends_only_on_relative_distance() -> None:
    made, x = block(), tokens()
    torch.testing.assert_close(
        made(x, rope_cache(6, 2000), CAUSAL), made(x, rope_cache(6), CAUSAL), atol=1e-5, rtol=1e-5
    )
    spread = build_rope_cache(2 * torch.arange(6), 4)  # other distances
    assert not torch.allclose(made(x, spread, CAUSAL), made(x, rope_cache(6), CAUSAL), atol=1e-3)


def test_only_allowed_tokens_are_attended_to() -> None:
    made, x = block(), tokens()
    allowed = CAUSAL.clone()
    allowed[5, 2] = False
    changed = x.clone()
    changed[:, 2] = 9.0
    before, after = made(x, rope_cache(6), allowed), made(changed, rope_cache(6), allowed)
    torch.testing.assert_close(before[:, 5], after[:, 5])
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-2)


def test_computing_only_some_tokens_gives_the_same_outputs() -> None:
    made, x = block(), tokens()
    read = slice(1, None, 2)
    some = made(x, rope_cache(6), CAUSAL[read], read)
    torch.testing.assert_close(some, made(x, rope_cache(6), CAUSAL)[:, read])


def test_dropout_acts_only_in_training() -> None:
    made, x = block(dropout=0.5), tokens()
    assert torch.equal(made(x, None, CAUSAL), made(x, None, CAUSAL))
    made.train()
    assert not torch.allclose(made(x, None, CAUSAL), made(x, None, CAUSAL), atol=1e-2)


@pytest.mark.parametrize(
    "allowed",
    [CAUSAL, CAUSAL.triu(-2), CAUSAL[1::2], torch.ones(1, 6, dtype=torch.bool)],
    ids=["all", "band", "read", "one"],
)
def test_plain_and_fused_attention_have_equal_outputs_and_gradients(allowed: Tensor) -> None:
    generator = torch.Generator().manual_seed(2)
    shapes = [(3, 2, n_tokens, 4) for n_tokens in (len(allowed), 6, 6)]
    parts = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    weights = torch.randn(shapes[0], generator=generator)
    results = []
    for attention in (plain_attention, fused_attention):
        y = attention(*parts, allowed, 0.0)
        results.append([y, *torch.autograd.grad((y * weights).sum(), parts)])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-5)


def test_plain_attention_drops_weights_at_the_right_rate_and_rescales_the_rest() -> None:
    torch.manual_seed(0)
    q, v = torch.zeros(500, 2, 6, 4), torch.ones(500, 2, 6, 4)
    y = plain_attention(q, q, v, torch.ones(6, 6, dtype=torch.bool), 0.25)[..., 0]
    kept = y * 6 * 0.75  # the number of weights kept out of six
    torch.testing.assert_close(kept, kept.round())
    assert kept.mean().item() == pytest.approx(4.5, abs=0.05)


def test_mixed_precision_on_a_cpu_leaves_attention_in_float32() -> None:
    made, x = block(), tokens(16)
    causal = torch.ones(16, 16, dtype=torch.bool).tril()
    found: list[torch.dtype] = []
    hook = made.attention_out.register_forward_pre_hook(lambda _, given: found.append(given[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = made(x, rope_cache(16), causal)
        assert {part.dtype for part in made.project(x, rope_cache(16))} == {torch.float32}
    hook.remove()
    assert found == [torch.float32]
    torch.testing.assert_close(y, made(x, rope_cache(16), causal), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("n_tokens", [16, 31])
def test_attention_dropout_acts_only_in_training_at_any_length(n_tokens: int) -> None:
    made, x = block(dropout=0.5), tokens(n_tokens)
    made.drop.p = 0.0  # dropout of attention weights only
    allowed = torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril()
    assert torch.equal(made(x, None, allowed), made(x, None, allowed))
    made.train()
    assert not torch.allclose(made(x, None, allowed), made(x, None, allowed), atol=1e-2)
