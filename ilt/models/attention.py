"""One pre-norm transformer block, with rotary positions where they are wanted."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


def rotary_angles(n_tokens: int, head_dim: int) -> Tensor:
    """(n_tokens, head_dim / 2) float32 angles: position times frequency (Su et al. 2021, RoFormer, equation 15)."""
    frequencies = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    return torch.arange(n_tokens)[:, None] * frequencies


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of coordinates by its position's angles, so that q · k depends on their distance alone.

    Args:
        x: (B, n_head, n_tokens, head_dim); coordinate i is paired with i + head_dim / 2.
        angles: (n_tokens, head_dim / 2).
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Block(nn.Module):
    """Causal self-attention and an MLP, each behind a LayerNorm and beside a residual path.

    Args:
        d_model, n_head: width, and number of heads; d_model must be divisible by n_head.
        dropout: probability, applied to attention weights and to what joins the residual path.
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

    def forward(self, x: Tensor, angles: Tensor | None) -> Tensor:
        """(B, n_tokens, d_model) to the same shape; `angles` (n_tokens, head_dim / 2) turn queries and keys."""
        x = x + self.drop(self.attention_out(self._attend(self.norm_attention(x), angles)))
        return x + self.drop(self.mlp_out(gelu(self.mlp_in(self.norm_mlp(x)))))

    def _attend(self, x: Tensor, angles: Tensor | None) -> Tensor:
        n_batch, n_tokens, d_model = x.shape
        qkv = self.qkv(x).view(n_batch, n_tokens, 3, self.n_head, d_model // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        dropout = self.dropout if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        return y.transpose(1, 2).reshape(n_batch, n_tokens, d_model)
