"""One pre-norm transformer block, with rotary positions where they are wanted."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

EVERY = slice(None)


def rotary_turns(positions: Tensor, head_dim: int) -> Tensor:
    """Cosines and sines of position times frequency (Su et al. 2021, RoFormer, equation 15).

    Computed in float64: an angle of a thousand radians has lost four digits in float32, and with them the promise that
    only distances count.

    Args:
        positions: (…) integers.

    Returns:
        (2, …, head_dim) float32: what `rotate` multiplies by.
    """
    frequencies = 10_000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim)
    angles = positions[..., None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)]).float()


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Turn each pair of coordinates by its position's angle, so that q · k depends on their distance alone.

    Args:
        x: (…, head_dim); coordinate i is paired with i + head_dim / 2.
        turns: (2, …, head_dim), as `rotary_turns` makes them.
    """
    cos, sin = turns.to(x.dtype)
    return x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin


class Block(nn.Module):
    """Self-attention and an MLP, each behind a LayerNorm and beside a residual path.

    `forward` is `join` after `attend` after `project`; flying with cached keys and values puts the cache in between.

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

    def forward(self, x: Tensor, turns: Tensor | None, allowed: Tensor, read: slice = EVERY) -> Tensor:
        """(B, T, d_model) to (B, T', d_model): the T' tokens that `read` picks.

        Args:
            turns: (2, T, head_dim), what queries and keys are turned by; None for no positions.
            allowed: (T', T) bool, which tokens each of them attends to.
        """
        q, k, v = self.project(x, turns)
        return self.join(x[:, read], self.attend(q[:, read], k, v, allowed))

    def project(self, x: Tensor, turns: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, d_model) to queries, keys and values (B, T, n_head, head_dim); turns (2, T, …) or (2, B, T, …)."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.n_head, -1))
        qk, v = qkv.split((2, 1), dim=2)
        if turns is not None:
            qk = rotate(qk, turns[..., None, None, :])
        q, k = qk.unbind(dim=2)
        return q, k, v.squeeze(2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
        """Queries (B, T', n_head, head_dim), keys and values (B, T, …), allowed (T', T) or (B, 1, T', T)."""
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        y = scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout)
        return y.transpose(1, 2).flatten(-2)

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Let what attention gave, and then the MLP, join the residual path; all (B, T', d_model)."""
        x = x + self.drop(self.attention_out(y))
        return x + self.drop(self.mlp_out(gelu(self.mlp_in(self.norm_mlp(x)))))
