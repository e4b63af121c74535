"""The decoder-only transformer over interleaved state and action tokens."""

import torch
from torch import Tensor, nn

from ilt.envs.actions import ActionSpace
from ilt.models.attention import EVERY, Block, build_rope_cache
from ilt.models.base import ActionEmbedding, SequenceModel, Stepper, embed_actions


class Decoder(SequenceModel):
    """P(a_t | s_0, a_0, …, s_t) from a window of up to K = `context_length` steps.

    Tokens are s_0, a_0, s_1, a_1, …, s_{K-1} (`states_actions`) or s_0, s_1, …, s_{K-1} (`states`). Attention is
    causal and the action head reads the state tokens, so position t predicts action t from everything before it and
    nothing after it. Padding is on the right, after every real step, so it cannot change one.

    With `banded` attention the layers share the context: each looks back about (K − 1) / n_layer steps, and together
    they look back exactly K − 1 steps. A prediction then depends on no step outside its window, so cached keys and
    values stay valid as the window slides, and each step of a rollout costs one step of computation. `full` attention
    (every layer sees the whole window) recomputes K steps: with more than one layer, cached keys would depend on steps
    that have left the window. Refilling a cache now and then would show the student fewer than K steps most of the
    time; one band of K steps in every layer would show it n_layer times `context_length`.

    States and actions are tokens as in [Decision Transformer](https://arxiv.org/abs/2106.01345) (Chen et al. 2021), but
    without returns. Rotary positions are from [RoFormer](https://arxiv.org/abs/2104.09864) (Su et al. 2021), sliding
    windows of attention from [Longformer](https://arxiv.org/abs/2004.05150) (Beltagy et al. 2020).

    Args:
        observation_dim, action_space, n_outputs, context_length: see `SequenceModel`.
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
    ) -> None:
        super().__init__(
            observation_dim=observation_dim,
            action_space=action_space,
            n_outputs=n_outputs,
            context_length=context_length,
        )
        self.with_actions, self.action_dropout = tokens == "states_actions", action_dropout
        self.embed_state = nn.Linear(observation_dim, d_model)
        self.embed_action = embed_actions(action_space, d_model) if self.with_actions else None
        self.embed_position = nn.Embedding(context_length, d_model) if positions == "learned" else None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(d_model=d_model, n_head=n_head, dropout=dropout) for _ in range(n_layer))
        self.norm = nn.LayerNorm(d_model)
        self.action_head = nn.Linear(d_model, n_outputs)
        # only the state tokens of the last block are read
        self.reads = [EVERY] * (n_layer - 1) + [slice(None, None, 2) if self.with_actions else EVERY]
        self.tokens_per_step = 2 if self.with_actions else 1
        self.window_sizes = (
            split_context(context_length, n_layer) if attention == "banded" else [context_length - 1] * n_layer
        )
        n_tokens = self.tokens_per_step * (context_length - 1) + 1
        index = torch.arange(n_tokens)
        self.head_dim = d_model // n_head
        rope_cache = build_rope_cache(index, self.head_dim) if positions == "rotary" else None
        self.register_buffer("rope_cache", rope_cache, persistent=False)
        attn_mask = [self.may_attend(index[:, None], index, window_size) for window_size in self.window_sizes]
        self.register_buffer("attn_mask", torch.stack(attn_mask), persistent=False)
        self._init_weights(n_layer)

    def _init_weights(self, n_layer: int) -> None:
        """Initialize from Normal(0, 0.02), with residual projections scaled by 1 / √(2 n_layer), as in GPT-2."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                joins_residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * n_layer) ** 0.5 if joins_residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.embed_state.weight, std=self.embed_state.in_features**-0.5)
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
        """See `SequenceModel.forward`. Padded steps are blanked. Raise ValueError if a window is longer than K."""
        x = self.tokenize(observations, actions, mask)
        n_tokens = x.shape[1]
        rope_cache = None if self.rope_cache is None else self.rope_cache[:, :n_tokens]
        for block, attn_mask, read in zip(self.blocks, self.attn_mask, self.reads, strict=True):
            x = block(x, rope_cache, attn_mask[:n_tokens, :n_tokens][read], read)
        return self.action_head(self.norm(x))

    def may_attend(self, queries: Tensor, keys: Tensor, window_size: int) -> Tensor:
        """Return which keys each query may attend to, by token index: past ones, up to `window_size` steps back."""
        steps_back = queries // self.tokens_per_step - keys // self.tokens_per_step
        return (keys <= queries) & (steps_back <= window_size)

    def tokenize(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Embed observations (B, L, obs_dim) and actions (B, L[, dim]) as (B, 2L − 1, d_model) or (B, L, d_model)."""
        length = observations.shape[1]
        if length > self.context_length:
            raise ValueError(f"the model sees at most {self.context_length} steps, got a window of {length}")
        if mask is not None:
            observations = observations.masked_fill(~mask[..., None], 0.0)
            actions = actions.masked_fill(~(mask if actions.ndim == 2 else mask[..., None]), 0)
        states = self.embed_state(self.normalize(observations))
        if self.embed_position is not None:
            states = states + self.embed_position.weight[:length]
        if self.embed_action is None:
            return self.drop(states)
        past = self.embed_action(actions[:, :-1])
        if self.training and self.action_dropout > 0:
            past = past * (torch.rand(past.shape[:2], device=past.device) >= self.action_dropout)[..., None]
        if self.embed_position is not None:
            past = past + self.embed_position.weight[: length - 1]
        pairs = torch.stack([states[:, :-1], past], dim=2).flatten(1, 2)
        return self.drop(torch.cat([pairs, states[:, -1:]], dim=1))


def split_context(context_length: int, n_layer: int) -> list[int]:
    """Split `context_length` − 1 steps of look-back equally among the layers; early layers get the remainder."""
    each, more = divmod(context_length - 1, n_layer)
    return [each + (layer < more) for layer in range(n_layer)]
