"""A pre-norm transformer block with optional rotary positions."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

EVERY = slice(None)

SHORT = 32
"""Number of tokens at which `plain_attention` is fastest on a CPU. Torch's kernel works in larger blocks, and call
overhead dominates in shorter windows. From about 1.5 times as many tokens, torch's kernel is faster."""


def build_rope_cache(positions: Tensor, head_dim: int) -> Tensor:
    """Compute cosines and sines of position times frequency (Su et al. 2021, RoFormer, equation 15).

    Angles are computed in float64. In float32, an angle of a thousand radians has lost four digits, so that attention
    would depend on more than distances.

    Args:
        positions: (…) integers.
        head_dim: width of a head, which must be even.

    Returns:
        (2, …, head_dim) float32, the factors for `apply_rope`.
    """
    frequencies = 10_000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim)
    angles = positions[..., None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)]).float()


def apply_rope(x: Tensor, rope_cache: Tensor) -> Tensor:
    """Rotate each pair of coordinates by its position's angle, so that q · k depends only on their distance.

    Args:
        x: (…, head_dim); coordinate i is paired with i + head_dim / 2.
        rope_cache: (2, …, head_dim), from `build_rope_cache`.
    """
    cos, sin = rope_cache.to(x.dtype)
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


def fused_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, dropout: float) -> Tensor:
    """Compute softmax attention with torch's kernel. Shapes as in `plain_attention`; attn_mask may be (B, 1, T', T)."""
    return scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, dropout: float) -> Tensor:
    """Compute softmax attention of (B, n_head, T', head_dim) over (B, n_head, T, head_dim), attn_mask (T', T)."""
    weights = torch.dropout(attention_weights(q, k, attn_mask), dropout, train=dropout > 0)
    return torch.bmm(weights, v.flatten(0, 1)).unflatten(0, q.shape[:2])


def attention_weights(q: Tensor, k: Tensor, attn_mask: Tensor) -> Tensor:
    """Return attention weights (B · n_head, T', T). Rows sum to 1; weights are 0 where attn_mask is False."""
    bias = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, float("-inf"))
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    return torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5).softmax(dim=-1)


class Block(nn.Module):
    """Self-attention and an MLP, each after a LayerNorm and with a residual connection.

    `forward` is `project`, `attend` and `join`. A rollout with cached keys and values computes the same from the cache.

    Args:
        d_model, n_head: width and number of heads; d_model must be divisible by n_head.
        dropout: probability of dropout in attention weights and in what is added to the residual stream.
    """

    def __init__(self, *, d_model: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head, self.dropout = n_head, dropout
        self.norm_attention, self.norm_mlp = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.attention_out = nn.Linear(d_model, d_model)
        self.mlp_in = nn.Linear(d_model, 4 * d_model)
        self.mlp_out = nn.Linear(4 * d_model, d_model)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, rope_cache: Tensor | None, attn_mask: Tensor, read: slice = EVERY) -> Tensor:
        """Map (B, T, d_model) to (B, T', d_model), for the T' tokens that `read` selects.

        Args:
            rope_cache: (2, T, head_dim), the rotations of queries and keys; None for no rotation.
            attn_mask: (T', T) bool, the tokens that each selected token attends to.
        """
        q, k, v = self.project(x, rope_cache)
        return self.join(x[:, read], self.attend(q[:, read], k, v, attn_mask))

    def project(self, x: Tensor, rope_cache: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, T, d_model) to q, k and v (B, T, n_head, head_dim); rope_cache is (2, T, …) or (2, B, T, …)."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.n_head, -1))
        qk, v = qkv.split((2, 1), dim=2)
        if rope_cache is not None:
            qk = apply_rope(qk, rope_cache[..., None, None, :])
        q, k = qk.unbind(dim=2)
        return q, k, v.squeeze(2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor) -> Tensor:
        """Attend from queries (B, T', n_head, …) to keys and values (B, T, …); attn_mask (T', T) or (B, 1, T', T)."""
        n_batch, n_tokens = k.shape[:2]
        together = max(SHORT // n_tokens, 1)
        plain = q.is_cpu and attn_mask.ndim == 2 and n_tokens <= 1.5 * SHORT and n_batch % together == 0
        if plain and together > 1:  # several windows in one block-diagonal attention
            attn_mask = torch.block_diag(*[attn_mask] * together)
            q, k, v = (part.reshape(n_batch // together, -1, *part.shape[2:]) for part in (q, k, v))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        attention = plain_attention if plain else fused_attention
        y = attention(q, k, v, attn_mask, self.dropout if self.training else 0.0)
        return y.transpose(1, 2).reshape(n_batch, -1, self.attention_out.in_features)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the attention's output, then the MLP's, to the residual stream; all are (B, T', d_model)."""
        x = x + self.drop(self.attention_out(y))
        return x + self.drop(self.mlp_out(gelu(self.mlp_in(self.norm_mlp(x)))))
