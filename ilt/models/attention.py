"""A pre-norm transformer block with optional rotary positions."""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear, pad, scaled_dot_product_attention

EVERY = slice(None)
Attention = Callable[..., Tensor]
"""Maps q (B, n_head, T', head_dim), k and v (B, n_head, T, head_dim), and `dropout`, to (B, n_head, T', head_dim)."""

SHORT = 32
"""Number of tokens at which `plain_attention` is fastest on a CPU. Torch's kernel works in larger blocks, and call
overhead dominates in shorter windows. From about 1.5 times as many tokens, torch's kernel is faster."""


def build_rope_cache(positions: Tensor, head_dim: int) -> Tensor:
    """Compute exp(i · position · frequency) for each pair of coordinates (Su et al. 2021, RoFormer, equation 15).

    Angles are computed in float64. In float32, an angle of a thousand radians has lost four digits, so that attention
    would depend on more than distances.

    Args:
        positions: (…) integers.
        head_dim: width of a head, which must be even.

    Returns:
        (…, head_dim / 2, 2) float32, the real and imaginary parts.
    """
    frequencies = 10_000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim)
    angles = positions[..., None] * frequencies
    return torch.stack([angles.cos(), angles.sin()], dim=-1).float()


class RotatedHeads(torch.autograd.Function):
    """Splits queries, keys and values into heads, and rotates each pair of coordinates of queries and keys.

    After rotation by angles that are proportional to the position, q · k depends only on the distance of two tokens.
    Rotation and the layout that attention needs take two passes over memory, and so does the gradient. As separate
    operations they would take a dozen, a fifth of a step of `small`.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, rope_cache: Tensor) -> tuple[Tensor, ...]:
        """Map (B, T, 3, n_head, head_dim) to q, k and v, each (B, n_head, T, head_dim). Pairs are neighbors.

        Args:
            qkv: queries, keys and values.
            rope_cache: (T, head_dim / 2, 2), from `build_rope_cache`.
        """
        turns = torch.view_as_complex(rope_cache)[:, None, None].expand(-1, 2, qkv.shape[3], -1).contiguous()
        ctx.save_for_backward(turns)
        turned = torch.view_as_real(_as_complex(qkv[:, :, :2]) * turns).flatten(-2)
        heads = qkv.permute(2, 0, 3, 1, 4)
        out = torch.empty_like(heads, memory_format=torch.contiguous_format)
        out[:2] = turned.permute(2, 0, 3, 1, 4)
        out[2] = heads[2]
        return out.unbind(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Rotate the gradients back."""
        n_batch, n_head, n_tokens, head_dim = grads[0].shape
        out = grads[0].new_empty(n_batch, n_tokens, 3, n_head, head_dim)
        for i, grad in enumerate(grads):
            out[:, :, i] = grad.transpose(1, 2)
        _as_complex(out[:, :, :2]).mul_(ctx.saved_tensors[0].conj().resolve_conj())
        return out, None


def _as_complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def rotate(x: Tensor, rope_cache: Tensor) -> Tensor:
    """Rotate queries or keys (…, T, head_dim) as `RotatedHeads` does. Coordinate i is paired with i + head_dim / 2.

    Only real numbers are used, which a compiler for GPUs fuses into one kernel. Angles are applied in float32.
    """
    (cos, sin), (real, imag) = rope_cache.unbind(-1), at_least_float32(x).chunk(2, dim=-1)
    return torch.cat([real * cos - imag * sin, real * sin + imag * cos], dim=-1).to(x.dtype)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, dropout: float) -> Tensor:
    """Compute softmax attention with torch's kernel. Shapes as in `plain_attention`."""
    return scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """Compute causal softmax attention, with half the work of a masked kernel."""
    return scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, dropout: float) -> Tensor:
    """Compute softmax attention of (B, n_head, T', head_dim) over (B, n_head, T, head_dim), attn_mask (T', T)."""
    weights = torch.dropout(attention_weights(q, k, attn_mask), dropout, train=dropout > 0)
    return torch.bmm(weights, v.flatten(0, 1)).unflatten(0, q.shape[:2])


def banded_attention(q: Tensor, k: Tensor, v: Tensor, band: Tensor, chunk: int, dropout: float) -> Tensor:
    """Compute softmax attention in a band, with work that is linear in the number of tokens.

    Queries are cut into chunks, and a chunk is compared only with the keys that it may attend to: its own tokens, and
    those before it. The overlapping ranges of keys are views, not copies.

    Args:
        q: (B, n_head, T', head_dim); k, v: (B, n_head, T, head_dim).
        band: (n_chunks, n_queries, n_keys) bool, which of its chunk's keys each query attends to. The last `chunk` keys
            are the chunk's own tokens; keys before the first token are zeros, which `band` must exclude.
        chunk: tokens per chunk; n_queries is smaller if only some tokens are queries.
        dropout: probability of dropout in attention weights.
    """
    n_chunks, n_queries, n_keys = band.shape
    n_batch, _, n_read, head_dim = q.shape
    around = (0, 0, n_keys - chunk, n_chunks * chunk - k.shape[2])
    k, v = (pad(x, around).flatten(0, 1).unfold(1, n_keys, chunk).transpose(2, 3) for x in (k, v))
    q = pad(q, (0, 0, 0, n_chunks * n_queries - n_read)).reshape(-1, n_chunks, n_queries, head_dim)
    y = scaled_dot_product_attention(q, k, v, attn_mask=band, dropout_p=dropout)
    return y.reshape(n_batch, -1, n_chunks * n_queries, head_dim)[:, :, :n_read]


def attention_weights(q: Tensor, k: Tensor, attn_mask: Tensor) -> Tensor:
    """Return attention weights (B · n_head, T', T). Rows sum to 1; weights are 0 where attn_mask is False."""
    bias = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    return torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5).softmax(dim=-1)


class Block(nn.Module):
    """Self-attention and an MLP, each after a LayerNorm and with a residual connection.

    On a CPU in mixed precision, attention is computed in float32: its many small products are slower in bfloat16. On
    other devices queries, keys and values have the precision of matrix products, and torch's kernel sums in float32.

    Args:
        d_model, n_head: width and number of heads; d_model must be divisible by n_head.
        dropout: probability of dropout in attention weights and in what is added to the residual stream.
    """

    _neighbors: Tensor

    def __init__(self, *, d_model: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head, self.dropout = n_head, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.attention_out = nn.Linear(d_model, d_model)
        self.mlp_in = nn.Linear(d_model, 4 * d_model)
        self.mlp_out = nn.Linear(4 * d_model, d_model)
        self.drop = nn.Dropout(dropout)
        # coordinate i of a query or key is paired with i + head_dim / 2; neighbors are complex numbers
        order = torch.arange(3 * d_model).unflatten(0, (3, n_head, -1))
        if (head_dim := order.shape[-1]) % 2 == 0:
            order[:2] = order[:2].unflatten(-1, (2, head_dim // 2)).transpose(-1, -2).flatten(-2).clone()
        self.register_buffer("_neighbors", order.flatten(), persistent=False)

    def forward(
        self,
        x: Tensor,
        rope_cache: Tensor | None,
        attn_mask: Tensor,
        read: slice = EVERY,
        attend: Attention | None = None,
    ) -> Tensor:
        """Map (B, T, d_model) to (B, T', d_model), for the T' tokens that `read` selects.

        Args:
            rope_cache: (T, head_dim / 2, 2), the rotations of queries and keys; None for no rotation.
            attn_mask: (T', T) bool, the tokens that each selected token attends to.
            attend: computes the same attention faster; None for the usual kernels.
        """
        n_batch, n_tokens, d_model = x.shape
        dropout = self.dropout if self.training else 0.0
        if attend is not None or not x.is_cpu or torch.compiler.is_compiling():
            q, k, v = self.project(x, rope_cache)
            attend = attend or functools.partial(fused_attention, attn_mask=attn_mask)
            with torch.autocast("cpu", enabled=False) if x.is_cpu else nullcontext():
                y = attend(q[:, :, read], k, v, dropout=dropout)
            return self.join(x[:, read], y.transpose(1, 2).flatten(2))
        plain = n_tokens <= 1.5 * SHORT
        n = max(SHORT // n_tokens, 1) if plain else 1  # several windows in one block-diagonal attention
        n = n if n_batch % n == 0 else 1
        q, k, v = self.project(
            x.reshape(n_batch // n, n * n_tokens, d_model), None if rope_cache is None else rope_cache.repeat(n, 1, 1)
        )
        if read != EVERY:
            q = q.unflatten(2, (n, n_tokens))[:, :, :, read].flatten(2, 3)
        attention = plain_attention if plain else fused_attention
        with torch.autocast("cpu", enabled=False):
            y = attention(q, k, v, torch.block_diag(*[attn_mask] * n), dropout)
        return self.join(x[:, read], y.transpose(1, 2).reshape(n_batch, -1, d_model))

    def project(self, x: Tensor, rope_cache: Tensor | None) -> tuple[Tensor, ...]:
        """Map (B, T, d_model) to q, k and v (B, n_head, T, head_dim), on a CPU in at least float32; see `forward`."""
        x = self.norm_attention(x)
        fused = x.is_cpu and not torch.compiler.is_compiling()
        if rope_cache is None or not fused:
            qkv = self.qkv(x).unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)
            qkv = at_least_float32(qkv) if x.is_cpu else qkv
            return qkv.unbind(0) if rope_cache is None else (*rotate(qkv[:2], rope_cache), qkv[2])
        weight, bias = (parameter.index_select(0, self._neighbors) for parameter in self.qkv.parameters())
        qkv = at_least_float32(linear(x, weight, bias)).unflatten(-1, (3, self.n_head, -1))
        return RotatedHeads.apply(qkv, rope_cache)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the attention's output, then the MLP's, to the residual stream; all are (B, T', d_model)."""
        x = x + self.drop(self.attention_out(y))
        return x + self.drop(self.mlp_out(gelu(self.mlp_in(self.norm_mlp(x)))))


def at_least_float32(x: Tensor) -> Tensor:
    """Convert halves to float32, and leave float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
