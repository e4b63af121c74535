"""The decoder-only transformer over interleaved state and action tokens."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ilt.models.attention import EVERY, Block, build_rope_cache
from ilt.tracking.weights import load_weights, save_weights

POSITIONS = ("rotary", "learned", "none")
TOKENS = ("states_actions", "states")
ATTENTIONS = ("banded", "full")


class Decoder(nn.Module):
    """P(a_t | s_0, a_0, …, s_t) from a window of up to K = `context_length` steps.

    Tokens are s_0, a_0, s_1, a_1, …, s_{K-1} (`states_actions`) or s_0, s_1, …, s_{K-1} (`states`). Attention is
    causal and the action_head sits on the state tokens, so position t predicts action t from everything before it and
    from nothing after it. Since padding is on the right, it comes after every real step and cannot change one.

    With `banded` attention the layers share the context: each looks back on about (K − 1) / n_layer steps, together on
    exactly the K − 1 steps before the present one. Then what a layer computed for a step depends on nothing that a
    window of K steps does not hold, and stays the same while that window slides: keys and values can be kept, and
    flying costs one step where `full` attention (every layer sees the whole window) costs K. With `full` attention and
    more than one layer, cached keys would carry what has already left the window. Re-filling a cache now and then
    would let the student see fewer than K steps most of the time; one band of K steps in every layer would let it see
    n_layer times as many as `context_length` says.

    Args:
        observation_dim: size of one observation.
        n_actions: number of discrete actions.
        context_length: K, the longest window in steps.
        n_layer, n_head, d_model: depth, heads per layer, width.
        dropout: probability, in embeddings and blocks.
        positions: `rotary` (relative), `learned` (one vector per step of the window) or `none`.
        tokens: `states_actions` or `states`.
        attention: `banded` or `full`.
        action_dropout: probability with which a past action's token is blanked in training, against students that
            copy their last action instead of looking at the state (de Haan et al. 2019, causal confusion).
    """

    observation_mean: Tensor
    observation_std: Tensor
    rope_cache: Tensor | None
    allowed: Tensor

    def __init__(
        self,
        *,
        observation_dim: int,
        n_actions: int,
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
        super().__init__()
        if d_model % n_head:
            raise ValueError(f"model.d_model must be divisible by model.n_head = {n_head}, got {d_model}")
        if positions == "rotary" and (d_model // n_head) % 2:
            raise ValueError(f"model.positions=rotary needs an even head size, got {d_model} / {n_head}")
        if positions not in POSITIONS:
            raise ValueError(f"model.positions must be one of {list(POSITIONS)}, got {positions!r}")
        if tokens not in TOKENS:
            raise ValueError(f"dataset.tokens must be one of {list(TOKENS)}, got {tokens!r}")
        if attention not in ATTENTIONS:
            raise ValueError(f"model.attention must be one of {list(ATTENTIONS)}, got {attention!r}")
        self.config: dict[str, Any] = {
            "observation_dim": observation_dim,
            "n_actions": n_actions,
            "context_length": context_length,
            "n_layer": n_layer,
            "n_head": n_head,
            "d_model": d_model,
            "attention": attention,
            "dropout": dropout,
            "positions": positions,
            "tokens": tokens,
            "action_dropout": action_dropout,
        }
        self.context_length, self.with_actions = context_length, tokens == "states_actions"
        self.action_dropout = action_dropout
        self.register_buffer("observation_mean", torch.zeros(observation_dim))
        self.register_buffer("observation_std", torch.ones(observation_dim))
        self.embed_state = nn.Linear(observation_dim, d_model)
        self.embed_action = nn.Embedding(n_actions, d_model) if self.with_actions else None
        self.embed_position = nn.Embedding(context_length, d_model) if positions == "learned" else None
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(d_model=d_model, n_head=n_head, dropout=dropout) for _ in range(n_layer))
        self.norm = nn.LayerNorm(d_model)
        self.action_head = nn.Linear(d_model, n_actions)
        # of the last block, nothing but what stands at the state tokens is read
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
        allowed = [self.may_attend(index[:, None], index, window_size) for window_size in self.window_sizes]
        self.register_buffer("allowed", torch.stack(allowed), persistent=False)
        self._init_weights(n_layer)

    def _init_weights(self, n_layer: int) -> None:
        """Normal(0, 0.02), with what joins the residual path scaled by 1 / √(2 n_layer), as in GPT-2."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                joins_residual = name.endswith(("attention_out.weight", "mlp_out.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * n_layer) ** 0.5 if joins_residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.embed_state.weight, std=self.embed_state.in_features**-0.5)

    def set_normalization(self, mean: Tensor, std: Tensor) -> None:
        """Standardize observations by these (obs_dim,) statistics; they are saved with the weights."""
        self.observation_mean.copy_(mean)
        self.observation_std.copy_(std)

    def save(self, path: Path) -> None:
        """Write weights, normalization and sizes to one safetensors file."""
        save_weights(self, path, self.config)

    @classmethod
    def load(cls, path: Path) -> "Decoder":
        """Read what `save` wrote. ValueError if that was a model with other options."""
        config, state = load_weights(path)
        options = set(inspect.signature(Decoder).parameters)
        if config.keys() != options:
            raise ValueError(f"{path} was written by another version of ilt: {sorted(options ^ config.keys())} differ")
        model = cls(**config)
        model.load_state_dict(state)
        return model.eval()

    def forward(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits for the action at every step of the window.

        Args:
            observations: (B, L, obs_dim) float32, with 1 ≤ L ≤ K.
            actions: (B, L) int64; `actions[:, t]` follows `observations[:, t]` and is seen from step t + 1 on, so
                what stands in the last place has no influence.
            mask: (B, L) bool, True at real steps. What stands elsewhere is blanked; without it, all steps are real.

        Returns:
            (B, L, n_actions): `[:, t]` are the logits of the action at step t.
        """
        x = self.tokenize(observations, actions, mask)
        n_tokens = x.shape[1]
        rope_cache = None if self.rope_cache is None else self.rope_cache[:, :n_tokens]
        for block, allowed, read in zip(self.blocks, self.allowed, self.reads, strict=True):
            x = block(x, rope_cache, allowed[:n_tokens, :n_tokens][read], read)
        return self.action_head(self.norm(x))

    def may_attend(self, queries: Tensor, keys: Tensor, window_size: int) -> Tensor:
        """Which tokens a layer attends to, by their number in the episode: of the past, up to `window_size` steps."""
        steps_back = queries // self.tokens_per_step - keys // self.tokens_per_step
        return (keys <= queries) & (steps_back <= window_size)

    def tokenize(self, observations: Tensor, actions: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, obs_dim) observations and (B, L) actions to tokens (B, 2L − 1, d_model), or (B, L, d_model)."""
        length = observations.shape[1]
        if length > self.context_length:
            raise ValueError(f"the model sees at most {self.context_length} steps, got a window of {length}")
        if mask is not None:
            observations = observations.masked_fill(~mask[..., None], 0.0)
            actions = actions.masked_fill(~mask, 0)
        states = self.embed_state((observations - self.observation_mean) / self.observation_std)
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
    """How many steps each layer looks back, so that together it is exactly `context_length` − 1; early layers more."""
    each, more = divmod(context_length - 1, n_layer)
    return [each + (layer < more) for layer in range(n_layer)]
