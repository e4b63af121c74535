"""A key-value cache for rollouts with a decoder, in ring buffers."""

from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ilt.models import native
from ilt.models.attention import Block
from ilt.models.base import ActionEmbedding
from ilt.models.decoder import Decoder


class CachedDecoder:
    """A decoder that acts step by step in many episodes at once, each in its own slot.

    If `suits` accepts the model, outputs equal those of `Decoder.forward` on the last K steps, up to float rounding and
    without dropout. A step is one call into C, or NumPy where ilt was installed without a compiler: the simulator
    evicts the CPU caches between two steps, and the overhead of a hundred calls then exceeds the arithmetic for a few
    dozen rows.

    The residual stream is only read through LayerNorms, which subtract its mean. So whatever is added to it is centered
    in advance, by its weights, and only the division by its standard deviation remains (Ashkboos et al. 2024,
    [SliceGPT](https://arxiv.org/abs/2401.15024), section 3.1).

    Args:
        model: the decoder, whose current weights are copied.
    """

    def __init__(self, model: Decoder) -> None:
        assert self.suits(model), "its keys and values change as the window slides"
        self._tokens_per_step, self._state_index = model.tokens_per_step, model.state_index
        # a step adds the previous action's token, unless actions are never attended to; a return's, if there is one;
        # and the state's
        self._with_actions = model.with_actions and model.context_length > 1
        self._behind = np.arange(-model.state_index - self._with_actions, 1)
        blocks = [block for block in model.blocks if isinstance(block, Block)]
        # a past action's token arrives one step after its state's
        rings = [_Ring(model, w, w + 1 + self._with_actions, self._behind) for w in model.window_sizes]
        self._layers = [_Layer(model, block, ring) for block, ring in zip(blocks, rings, strict=True)]
        self._mean, std = _copy(model.observation_mean), _copy(model.observation_std)
        n_inputs = model.embed_state.in_features
        self._embed_state = _scaled(_into_stream(model.embed_state), std[:n_inputs])
        self._embed_return = None
        if model.embed_return is not None:
            self._embed_return = _scaled(_into_stream(model.embed_return), std[n_inputs:])
        self._embed_action = None if model.embed_action is None else _ActionEmbedding(model.embed_action)
        self._action_head = _after_norm(model.norm, model.action_head)
        self._rope = None if model.rope_cache is None else _Rope(model.head_dim)
        self._native = None if native.decode is None else _Native(self._layers, self._action_head, self._rope, model)
        rings = [layer.ring for layer in self._layers]
        self._caches: list[_Ring] | list[_Native] = rings if self._native is None else [self._native]
        self._steps = np.zeros(0, dtype=np.int64)  # processed so far in each slot's episode

    @staticmethod
    def suits(model: object) -> TypeGuard[Decoder]:
        """Return whether cached keys and values stay valid as the window slides.

        They do not if positions are counted from the start of the window, or if the layers together look back beyond
        the window.
        """
        return type(model) is Decoder and model.slides  # a subclass may compute something different

    def reset(self, slots: np.ndarray) -> None:
        """Forget the episodes in these slots (n,) int64, where new ones start."""
        missing = slots.max() + 1 - len(self._steps)
        if missing > 0:
            self._steps = np.pad(self._steps, (0, missing))
            for cache in self._caches:
                cache.grow(missing)
        self._steps[slots] = 0
        for cache in self._caches:
            cache.clear(slots)  # a NaN would also reach tokens that do not attend to it

    def step(self, slots: np.ndarray, observations: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Process one step of each slot's episode; see `ilt.models.base.Stepper`."""
        seen = observations - self._mean
        n_inputs, d_model = self._embed_state[0].shape
        shape = len(slots), len(self._behind), d_model
        x = np.empty(shape, dtype=np.float32) if self._native is None else self._native.rows(shape)
        x[:, -1] = _affine(seen[:, :n_inputs], self._embed_state)
        if self._embed_return is not None:
            x[:, -2] = _affine(seen[:, -1:], self._embed_return)
        if self._embed_action is not None and self._with_actions:
            x[:, 0] = self._embed_action(previous)
        if self._native is not None:
            return self._native.step(slots, self._steps)
        steps = self._steps[slots]
        tokens = (self._tokens_per_step * steps + self._state_index)[:, None] + self._behind
        rope_cache = None if self._rope is None else self._rope.of(tokens)
        self._steps[slots] = steps + 1
        everywhere = len(slots) == len(self._steps) and np.array_equal(slots, np.arange(len(slots)))
        held = slice(None) if everywhere else slots  # a slice does not copy
        for layer in self._layers:
            read = -1 if layer is self._layers[-1] else 0
            x = layer.step(x, slots, held, steps, tokens, rope_cache, read=read)
        return _affine(_normalized(x[:, -1]), self._action_head)


class _Rope:
    """The complex numbers that rotate queries and keys, by index of the token; see `build_rope_cache`."""

    def __init__(self, head_dim: int) -> None:
        self._frequencies = 10_000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
        self.table = np.zeros((0, head_dim // 2), dtype=np.complex64)
        """Rows of the tokens from −1 on."""

    def extend(self, token: int) -> None:
        """Add rows, at least up to a token's."""
        angles = np.arange(-1, 2 * token + 256)[:, None] * self._frequencies  # in float64, as in training
        self.table = np.exp(1j * angles).astype(np.complex64)

    def of(self, tokens: np.ndarray) -> np.ndarray:
        """Return the numbers (n, new, 1, 1, head_dim / 2) of tokens (n, new)."""
        if len(self.table) < tokens.max() + 2:
            self.extend(tokens.max())
        return self.table[tokens + 1, None, None]


class _Native:
    """All layers and the action head in C: weights, cached keys and values, and buffers, all padded.

    Args:
        layers, head: the layers, whose rings remain empty, and the action head's weight and bias.
        rope: the rotations, if there are any.
        model: the decoder.
    """

    def __init__(
        self,
        layers: "list[_Layer]",
        head: tuple[np.ndarray, np.ndarray],
        rope: _Rope | None,
        model: Decoder,
    ) -> None:
        self._n_head, self._head_dim, self._n_outputs = layers[0].n_head, model.head_dim, model.n_outputs
        n_new, per_step = layers[0].ring.bias.shape[2], model.tokens_per_step
        self._sizes = self._n_head, self._head_dim, n_new, per_step, model.state_index
        self._rope = rope
        self._weights = [tuple(map(native.padded, layer.weights)) for layer in layers]
        self._biases = [native.padded(layer.ring.bias[:, 0], value=-np.inf) for layer in layers]
        self._rings = [layer.ring.size for layer in layers]
        self._head = native.padded(head[0]), native.padded(head[1])
        self._layers: tuple[tuple[Any, ...], ...] = ()
        self._keys = [self._empty(0, self._head_dim, bias.shape[-1]) for bias in self._biases]
        self._values = [self._empty(0, bias.shape[-1], self._head_dim) for bias in self._biases]
        self._x, self._n_rows = native.rows(0, 0), 0

    def _empty(self, n_slots: int, *shape: int) -> np.ndarray:
        return np.zeros((n_slots, self._n_head, *shape), dtype=np.float32)

    def grow(self, n_slots: int) -> None:
        """Add `n_slots` slots."""
        for cached in (self._keys, self._values):
            cached[:] = [np.concatenate([each, self._empty(n_slots, *each.shape[2:])]) for each in cached]
        parts = zip(self._weights, self._biases, self._keys, self._values, self._rings, strict=True)
        self._layers = tuple((*weights, *rest) for weights, *rest in parts)

    def clear(self, slots: np.ndarray) -> None:
        """Zero the cached keys and values of these slots (n,) int64."""
        for cached in (*self._keys, *self._values):
            cached[slots] = 0.0

    def rows(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Return an array (n, new, d_model) for the embedded tokens of `step`, which overwrites it."""
        n_rows, d_model = shape[0] * shape[1], shape[2]
        if n_rows != self._n_rows:
            self._x, self._n_rows = native.rows(n_rows, d_model), n_rows
        self._x[:] = 0.0  # a NaN must not stay in the padding
        return self._x[:n_rows].reshape(*shape[:2], -1)[:, :, :d_model]

    def step(self, slots: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return the outputs (n, n_outputs) for the tokens in `rows`, and count the steps (n_slots,) up."""
        out = native.rows(len(slots), self._n_outputs)
        slots = np.ascontiguousarray(slots)
        while not native.decode(
            *(self._layers, self._head, slots, steps, self._x),
            *(None if self._rope is None else self._rope.table, out, *self._sizes),
        ):
            assert self._rope is not None
            self._rope.extend(self._sizes[3] * (int(steps[slots].max()) + 1))
        return out[: len(slots), : self._n_outputs]


class _Layer:
    """One block, with the scales of its norms and attention folded into its weights."""

    def __init__(self, model: Decoder, block: Block, ring: "_Ring") -> None:
        self.ring, self.n_head = ring, block.n_head
        d_model, head_dim = model.action_head.in_features, model.head_dim
        weight, bias = _after_norm(block.norm_attention, block.qkv)
        order = np.arange(3 * d_model)
        if model.rope_cache is not None:  # puts rotated pairs side by side, as complex numbers
            halves = order[: 2 * d_model].reshape(2, block.n_head, 2, head_dim // 2)
            order[: 2 * d_model] = halves.swapaxes(2, 3).reshape(-1)
        scale = np.where(np.arange(3 * d_model) < d_model, head_dim**-0.5, 1).astype(np.float32)
        self._qkv = np.ascontiguousarray(weight[:, order] * scale), bias[order] * scale
        self._attention_out = _into_stream(block.attention_out)
        self._mlp_in = _after_norm(block.norm_mlp, block.mlp_in)
        self._mlp_out = _into_stream(block.mlp_out)

    @property
    def weights(self) -> tuple[np.ndarray, ...]:
        """Weights and biases, in the order in which they are used."""
        return *self._qkv, *self._attention_out, *self._mlp_in, *self._mlp_out

    def step(
        self,
        x: np.ndarray,
        slots: np.ndarray,
        held: np.ndarray | slice,
        steps: np.ndarray,
        tokens: np.ndarray,
        rope_cache: np.ndarray | None,
        *,
        read: int,
    ) -> np.ndarray:
        """Apply the block to new tokens (n, new, d_model). Return the outputs from token `read` on."""
        n, new, d_model = x.shape
        qkv = _affine(_normalized(x.reshape(-1, d_model)), self._qkv).reshape(n, new, 3, self.n_head, -1)
        if rope_cache is not None:
            qk = qkv[:, :, :2].view(np.complex64)
            qk *= rope_cache
        keys, values, bias = self.ring.put(slots, held, steps, tokens, qkv[:, :, 1:])
        q, x = qkv[:, read:, 0].swapaxes(1, 2), x[:, read:].reshape(-1, d_model)
        scores = q @ keys.swapaxes(2, 3)
        scores += bias[:, :, read:]
        y = _softmax(scores) @ values
        x = x + _affine(y.swapaxes(1, 2).reshape(-1, d_model), self._attention_out)
        hidden = gelu(torch.from_numpy(_affine(_normalized(x), self._mlp_in))).numpy()  # NumPy has no error function
        x += _affine(hidden, self._mlp_out)
        return x.reshape(n, -1, d_model)


class _Ring:
    """The latest tokens of one layer: token i of an episode is stored at index i modulo the ring's size.

    Args:
        model: the decoder.
        window_size: how many steps the layer looks back.
        n_steps: how many steps it keeps.
        behind: indices of the tokens that a step adds, relative to its state's.
    """

    def __init__(self, model: Decoder, window_size: int, n_steps: int, behind: np.ndarray) -> None:
        per_step = model.tokens_per_step
        self._n_steps = n_steps
        self.size = per_step * self._n_steps
        n_head = model.action_head.in_features // model.head_dim
        self._kv = np.zeros((0, self.size, 2, n_head, model.head_dim), dtype=np.float32)
        # the attention mask, added to the scores: first for the first pass through the ring, then for all later ones
        newest = per_step * torch.arange(2 * self._n_steps)[:, None, None] + model.state_index
        queries = newest + torch.from_numpy(behind)[:, None]
        held = newest - (newest - torch.arange(self.size)) % self.size
        attn_mask = model.may_attend(queries, held, window_size) & (held >= 0) | (held == queries)
        self.bias = np.where(attn_mask.numpy(), 0, -np.inf).astype(np.float32)[:, None]

    def grow(self, n_slots: int) -> None:
        """Add `n_slots` slots."""
        self._kv = np.concatenate([self._kv, np.zeros((n_slots, *self._kv.shape[1:]), dtype=np.float32)])

    def clear(self, slots: np.ndarray) -> None:
        """Zero the cached keys and values of these slots (n,) int64."""
        self._kv[slots] = 0.0

    def put(
        self, slots: np.ndarray, held: np.ndarray | slice, steps: np.ndarray, tokens: np.ndarray, kv: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Store keys and values (n, new, 2, n_head, head_dim) of tokens (n, new).

        Returns:
            all keys and all values of these slots, (n, n_head, size, head_dim), and a bias (n, 1, new, size), −∞ where
            a new token does not attend.
        """
        self._kv[slots[:, None], tokens % self.size] = kv
        row = np.where(steps < self._n_steps, steps, self._n_steps + steps % self._n_steps)
        keys, values = self._kv[held].transpose(2, 0, 3, 1, 4)
        return keys, values, self.bias[row]


def _affine(x: np.ndarray, linear: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Map (n, in) to (n, out) with a weight (in, out) and a bias (out,)."""
    weight, bias = linear
    y = x @ weight
    y += bias
    return y


def _normalized(x: np.ndarray) -> np.ndarray:
    """Apply LayerNorm without scale and shift to centered rows (n, d_model)."""
    return x / np.sqrt(np.einsum("ij,ij->i", x, x)[:, None] / x.shape[-1] + 1e-5)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Replace scores (…, size) by their softmax, in an order of operations that does not depend on a row's place.

    NumPy's `max` and `sum` are slow for short rows.
    """
    rows = scores.reshape(-1, scores.shape[-1])
    rows -= np.ascontiguousarray(rows.T).max(axis=0)[:, None]
    np.exp(rows, out=rows)
    rows /= np.einsum("ij->i", rows)[:, None]
    return scores


def _into_stream(linear: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Center the outputs of a layer. Return its weight (in, out) and bias (out,)."""
    return _centered(_copy(linear.weight).T), _centered(_copy(linear.bias))


def _centered(rows: np.ndarray) -> np.ndarray:
    """Subtract the mean of each row (…, d_model)."""
    return np.ascontiguousarray(rows - rows.mean(axis=-1, keepdims=True, dtype=np.float64), dtype=np.float32)


def _scaled(linear: tuple[np.ndarray, np.ndarray], std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fold the division of the inputs by their deviations (in,) into a weight."""
    weight, bias = linear
    return weight / std[:, None], bias


def _after_norm(norm: nn.LayerNorm, linear: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Fold a norm's scale and shift into the next linear layer. Return its weight (in, out) and bias (out,)."""
    weight = _copy(linear.weight)
    return np.ascontiguousarray((weight * _copy(norm.weight)).T), weight @ _copy(norm.bias) + _copy(linear.bias)


class _ActionEmbedding:
    """The module of `embed_actions` in NumPy. Maps actions (n,) or (n, dim) to (n, d_model)."""

    def __init__(self, module: nn.Module) -> None:
        tables = [module] if isinstance(module, nn.Embedding) else list(getattr(module, "tables", []))
        self._tables = [_centered(_copy(table.weight)) for table in tables]
        self._linear = None
        if isinstance(module, ActionEmbedding) and module.continuous:
            self._linear = _into_stream(module.linear)

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        if self._linear is not None:
            return _affine(actions, self._linear)
        if actions.ndim == 1:
            return self._tables[0][actions]
        return np.sum([table[column] for table, column in zip(self._tables, actions.T, strict=True)], axis=0)


def _copy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy().copy()
