"""The decoder-only transformer over interleaved state and action tokens."""

import functools

import torch
from torch import Tensor, nn

from ilt.envs.actions import ActionSpace
from ilt.models.attention import (
    EVERY,
    Attention,
    Block,
    at_least_float32,
    banded_attention,
    build_rope_cache,
    causal_attention,
)
from ilt.models.base import ActionEmbedding, SequenceModel, Stepper, embed_actions

FROM = 256
"""Number of tokens from which a CPU computes banded attention in chunks, if chunks are at most half of the work."""


class Decoder(SequenceModel):
    """P(a_t | s_0, a_0, …, s_t) from a window of up to K = `context_length` steps.

    Tokens are s_0, a_0, s_1, a_1, …, s_{K-1} (`states_actions`) or s_0, s_1, …, s_{K-1} (`states`). If the model is
    return-conditioned, a token of the return-to-go comes before each state: R_0, s_0, a_0, R_1, s_1, a_1, …. Attention
    is causal and the action head reads the state tokens, so position t predicts action t from everything before it and
    nothing after it. Padding is on the right, after every real step, so it cannot change one.

    With `banded` attention the layers share the context: each looks back about (K − 1) / n_layer steps, and together
    they look back exactly K − 1 steps. A prediction then depends on no step outside its window, so cached keys and
    values stay valid as the window slides, and each step of a rollout costs one step of computation. `full` attention
    (every layer sees the whole window) recomputes K steps: with more than one layer, cached keys would depend on steps
    that have left the window. Refilling a cache now and then would show the student fewer than K steps most of the
    time; one band of K steps in every layer would show it n_layer times `context_length`.

    Returns, states and actions are tokens as in [Decision Transformer](https://arxiv.org/abs/2106.01345) (Chen et al.
    2021). Rotary positions are from [RoFormer](https://arxiv.org/abs/2104.09864) (Su et al. 2021), sliding
    windows of attention from [Longformer](https://arxiv.org/abs/2004.05150) (Beltagy et al. 2020).

    Args:
        observation_dim, action_space, n_outputs, context_length, return_conditioned: see `SequenceModel`.
        n_layer, n_head, d_model: depth, heads per layer, width.
        attention: `banded` or `full`.
        dropout: dropout probability in embeddings and blocks.
        positions: `rotary` (relative), `learned` (one vector per step of the window) or `none`.
        tokens: `states_actions` or `states`.
        action_dropout: probability of blanking a past action's token in training, so that students do not just copy
            their last action ([causal confusion](https://arxiv.org/abs/1905.11979), de Haan et al. 2019).
    """

    rope_cache: Tensor | None
    attn_mask: Tensor

    def __init__(
        self,
        *,
        observation_dim: int,
        action_space: ActionSpace,
        n_outputs: int,
        context_length: int,
        n_layer: int,
        n_head: int,
        d_model: int,
        attention: str = "banded",
        dropout: float = 0.0,
        positions: str = "rotary",
        tokens: str = "states_actions",
        action_dropout: float = 0.0,
        return_conditioned: bool = False,
    ) -> None:
        super().__init__(
            observation_dim=observation_dim,
            action_space=action_space,
            n_outputs=n_outputs,
            context_length=context_length,
            return_conditioned=return_conditioned,
        )
        self.with_actions, self.action_dropout = tokens == "states_actions", action_dropout
        self.embed_state = nn.Linear(observation_dim - return_conditioned, d_model)
        self.embed_return = nn.Linear(1, d_model) if return_conditioned else None
        self.embed_action = embed_actions(action_space, d_model) if self.with_actions else None
        self.embed_position = nn.Embedding(context_length, d_model) if positions == "learned" else None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(d_model=d_model, n_head=n_head, dropout=dropout) for _ in range(n_layer))
        self.norm = nn.LayerNorm(d_model)
        self.action_head = nn.Linear(d_model, n_outputs)
        self.state_index, self.tokens_per_step = int(return_conditioned), 1 + return_conditioned + self.with_actions
        # only the state tokens of the last block are read
        states = slice(self.state_index, None, self.tokens_per_step) if self.tokens_per_step > 1 else EVERY
        self.reads = [EVERY] * (n_layer - 1) + [states]
        self.window_sizes = (
            split_context(context_length, n_layer) if attention == "banded" else [context_length - 1] * n_layer
        )
        n_tokens = self.tokens_per_step * (context_length - 1) + self.state_index + 1
        self.head_dim, self.is_rotary = d_model // n_head, positions == "rotary"
        index = torch.arange(n_tokens)
        rope_cache = build_rope_cache(index, self.head_dim) if self.is_rotary else None
        attn_mask = [self.may_attend(index[:, None], index, window_size) for window_size in self.window_sizes]
        self.register_buffer("rope_cache", rope_cache, persistent=False)
        self.register_buffer("attn_mask", torch.stack(attn_mask), persistent=False)
        self._init_weights(n_layer)

    @property
    def slides(self) -> bool:  # type: ignore[override]
        """Whether positions are relative and all layers together look back at most K − 1 steps."""
        is_known = type(self) is Decoder  # a subclass may compute something different
        return is_known and self.embed_position is None and sum(self.window_sizes) < self.context_length

    def _init_weights(self, n_layer: int) -> None:
        """Initialize from Normal(0, 0.02), with residual projections scaled by 1 / √(2 n_layer), as in GPT-2."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                joins_residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * n_layer) ** 0.5 if joins_residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        for embed in (self.embed_state, self.embed_return):
            if embed is not None:
                nn.init.normal_(embed.weight, std=embed.in_features**-0.5)
        if isinstance(self.embed_action, ActionEmbedding) and self.embed_action.continuous:
            nn.init.normal_(self.embed_action.linear.weight, std=self.embed_action.linear.in_features**-0.5)

    def make_stepper(self) -> Stepper | None:
        """Return a key-value cache, if cached keys and values stay valid as the window slides."""
        from ilt.models.cache import CachedDecoder

        return CachedDecoder(self) if CachedDecoder.suits(self) else None

    def probe_points(self) -> dict[str, nn.Module]:
        """Return the modules of the residual stream: the embedding, and each block."""
        return {"embedding": self.drop, **{f"layer {i + 1}": block for i, block in enumerate(self.blocks)}}

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """See `SequenceModel.forward`. Padded steps are blanked. Raise ValueError if a window is too long."""
        x = self.tokenize(observations, actions, mask)
        n_tokens, rope_cache = x.shape[1], self.rope_cache
        if rope_cache is not None and n_tokens > len(rope_cache):  # a longer window than in training
            rope_cache = build_rope_cache(torch.arange(n_tokens, device=x.device), self.head_dim)
        rope_cache = None if rope_cache is None else rope_cache[:n_tokens]
        for i, (block, read) in enumerate(zip(self.blocks, self.reads, strict=True)):
            x = block(x, rope_cache, *self._attention(i, n_tokens, read))
        return self.action_head(self.norm(x))

    def _attention(self, layer: int, n_tokens: int, read: slice) -> tuple[Tensor, slice, Attention | None]:
        """Return what `Block.forward` takes: the mask of a layer, what it reads, and how it attends."""
        faster = self._faster_attention(layer, n_tokens, read)
        if n_tokens <= self.attn_mask.shape[-1] or faster is not None:  # which ignores the mask
            return self.attn_mask[layer, :n_tokens, :n_tokens][read], read, faster
        tokens = torch.arange(n_tokens, device=self.attn_mask.device)  # a longer window than in training
        return self.may_attend(tokens[read][:, None], tokens, self.window_sizes[layer]), read, None

    def _faster_attention(self, layer: int, n_tokens: int, read: slice) -> Attention | None:
        """Return attention that does not compare all tokens with each other, where it is faster."""
        window_size = self.window_sizes[layer]
        if not self.attn_mask.is_cpu:
            whole = read == EVERY and window_size >= self.context_length - 1 and n_tokens <= self.attn_mask.shape[-1]
            return causal_attention if whole else None
        n_steps = 16
        while 2 * n_steps < window_size:  # at least half as many steps in a chunk as the layer looks back
            n_steps *= 2
        behind, chunk = -(-self.tokens_per_step * window_size // 8) * 8, self.tokens_per_step * n_steps
        if n_tokens < FROM or 2 * (behind + chunk) > n_tokens:
            return None
        tokens, starts = torch.arange(chunk), torch.arange(0, n_tokens, chunk)[:, None, None]
        queries, keys = starts + tokens[read][:, None], starts + torch.arange(-behind, chunk)
        band = self.may_attend(queries, keys, window_size) & (keys >= 0)
        return functools.partial(banded_attention, band=band, chunk=chunk)

    def may_attend(self, queries: Tensor, keys: Tensor, window_size: int) -> Tensor:
        """Return which keys each query may attend to, by token index: past ones, up to `window_size` steps back."""
        steps_back = queries // self.tokens_per_step - keys // self.tokens_per_step
        return (keys <= queries) & (steps_back <= window_size)

    def tokenize(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embed observations (B, L, obs_dim) and actions (B, L[, dim]) as (B, T, d_model), where the last is a state.

        T is 2L − 1 with states and actions, L with states only, and L more if the model is return-conditioned.
        """
        length = observations.shape[1]
        if length > self.context_length and not self.slides:
            raise ValueError(f"the model sees at most {self.context_length} steps, got a window of {length}")
        if mask is not None:
            observations = observations.masked_fill(~mask[..., None], 0.0)
            actions = actions.masked_fill(~(mask if actions.ndim == 2 else mask[..., None]), 0)
        seen = self.normalize(observations)
        present = [self.embed_state(seen if self.embed_return is None else seen[..., :-1])]  # tokens of every step
        if self.embed_return is not None:
            present.insert(0, self.embed_return(seen[..., -1:]))
        if self.embed_position is not None:
            present = [token + self.embed_position.weight[:length] for token in present]
        if self.embed_action is None:
            return at_least_float32(self.drop(_interleave(present)))
        past = self.embed_action(actions[:, :-1])
        if self.training and self.action_dropout > 0:
            past = past * (torch.rand(past.shape[:2], device=past.device) >= self.action_dropout)[..., None]
        if self.embed_position is not None:
            past = past + self.embed_position.weight[: length - 1]
        before = _interleave([*(token[:, :-1] for token in present), past])
        return at_least_float32(self.drop(torch.cat([before, *(token[:, -1:] for token in present)], dim=1)))


def _interleave(tokens: list[Tensor]) -> Tensor:
    """Interleave n tokens of each step, each (B, L, D), to (B, n · L, D)."""
    return tokens[0] if len(tokens) == 1 else torch.stack(tokens, dim=2).flatten(1, 2)


def split_context(context_length: int, n_layer: int) -> list[int]:
    """Split `context_length` − 1 steps of look-back equally among the layers; early layers get the remainder."""
    each, more = divmod(context_length - 1, n_layer)
    return [each + (layer < more) for layer in range(n_layer)]
