"""Schemas of the config groups `model` and `head`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ilt.schema import ConfigError, component, key, schema_of

if TYPE_CHECKING:
    from ilt.envs.actions import ActionSpace

SIZES = ("nano", "tiny", "mini", "small", "base")


@component("model", "transformer", "ilt.models.decoder.Decoder")
class Transformer:
    """A decoder-only transformer over state and action tokens."""

    n_layer: int = key(2, "Number of blocks.", ge=1)
    n_head: int = key(2, "Attention heads per block.", ge=1)
    d_model: int = key(32, "Width of the model.", ge=1)
    attention: str = key(
        "banded",
        "`banded`: layers share the context, so keys and values can be cached; `full`: each layer sees all of it.",
        choices=("banded", "full"),
    )
    dropout: float = key(0.0, "Dropout probability in embeddings and blocks.", ge=0, lt=1)
    positions: str = key(
        "rotary",
        "`rotary`: relative positions; `learned`: one vector per step of the window; `none`: no positions.",
        choices=("rotary", "learned", "none"),
    )
    tokens: str = key(
        "states_actions", "Tokens of a step; `states` omits past actions.", choices=("states_actions", "states")
    )
    action_dropout: float = key(0.0, "Probability of blanking a past action's token in training.", ge=0, le=1)


@dataclass(kw_only=True)
class _Sized:
    size: str = key("tiny", "Match the number of parameters of the transformer of this size.", choices=SIZES)
    d_model: int | None = key(None, "Width of the hidden layers; null for the width that matches `size`.", ge=1)
    n_layer: int = key(2, "Number of hidden layers.", ge=1)
    dropout: float = key(0.0, "Dropout probability after each hidden layer.", ge=0, lt=1)


@component("model", "linear", "ilt.models.mlp.Linear")
class Linear:
    """A linear map of the current observation."""


@component("model", "mlp", "ilt.models.sizing.mlp")
class MLP(_Sized):
    """A multilayer perceptron that sees only the current observation."""


@component("model", "mlp_stack", "ilt.models.sizing.mlp_stack")
class MLPStack(_Sized):
    """A multilayer perceptron over the last K observations and actions, concatenated (frame stacking)."""

    d_action: int = key(8, "Width of the embedding of a past action.", ge=1)


@component("model", "gru", "ilt.models.sizing.gru")
class GRU(_Sized):
    """A GRU over observations and past actions. In rollouts, it carries its state from the start of the episode."""

    n_layer: int = key(1, "Number of recurrent layers.", ge=1)
    dropout: float = key(0.0, "Dropout probability between recurrent layers.", ge=0, lt=1)


@component("model", "lstm", "ilt.models.sizing.lstm")
class LSTM(GRU):
    """An LSTM over observations and past actions. In rollouts, it carries its state from the start of the episode."""


@component("head")
class AnyHead:
    """Keys of every action head, also of one of your own."""

    chunk: int = key(1, "H, the number of future actions that are predicted at each step (action chunking).", ge=1)
    execute: int = key(
        1, "How many actions of a chunk are executed before the next prediction is used, from 1 to H.", ge=1
    )
    ensemble: float | None = key(
        None,
        "Average all predictions of an action (temporal ensembling), with weight exp(-m·i) for the i-th, oldest first; "
        "below 0, new ones count more.",
    )


@component("head", "auto", "ilt.models.heads.default_head")
class Auto(AnyHead):
    """`categorical` for discrete actions, `mse` for continuous ones."""


@component("head", "categorical", "ilt.models.heads.Categorical")
class Categorical(AnyHead):
    """A categorical distribution over each discrete choice."""

    continuous = False


@component("head", "gaussian", "ilt.models.heads.Gaussian")
class Gaussian(AnyHead):
    """An independent Gaussian for each number of a continuous action."""

    continuous = True


@component("head", "gaussian_mixture", "ilt.models.heads.GaussianMixture")
class GaussianMixture(AnyHead):
    """A weighted mixture of Gaussians over continuous actions."""

    continuous = True
    n_components: int = key(5, "Number of Gaussians.", ge=1)


@component("head", "discretized", "ilt.models.heads.Discretized")
class Discretized(AnyHead):
    """A categorical distribution over bins of equal width, for each number of a continuous action."""

    continuous = True
    n_bins: int = key(51, "Number of bins over the range of each number.", ge=2)


@component("head", "mse", "ilt.models.heads.Regression")
class Regression(AnyHead):
    """The continuous action itself, learned by least squares."""

    continuous = True


def check_head(values: Mapping[str, Any], action_space: "ActionSpace") -> None:
    """Raise ConfigError if a config's `head` is for the other kind of actions: numbers (Box) or choices."""
    found = schema_of("head", values)
    continuous = getattr(found.schema, "continuous", None) if found else None
    if found and continuous is not None and continuous != action_space.continuous:
        kinds = (
            "Discrete and MultiDiscrete actions; head=gaussian is for Box",
            "Box actions; head=categorical is for Discrete and MultiDiscrete",
        )
        raise ConfigError(f"head={found.name} is for {kinds[continuous]}")
    if values.get("ensemble") is not None and not action_space.continuous:
        raise ConfigError(
            "head.ensemble must be null for Discrete and MultiDiscrete actions, since choices have no average, "
            f"got {values['ensemble']}"
        )


def check_chunk(values: Mapping[str, Any]) -> None:
    """Raise ConfigError unless a `head`'s `chunk`, `execute` and `ensemble` go together."""
    chunk, execute, ensemble = (values[name] for name in ("chunk", "execute", "ensemble"))
    if not 1 <= execute <= chunk:
        raise ConfigError(f"head.execute must be from 1 to head.chunk = {chunk}, got {execute}")
    if ensemble is not None and chunk == 1:
        raise ConfigError(
            f"head.ensemble must be null where head.chunk is 1, since each action is predicted once, got {ensemble}"
        )
    if ensemble is not None and execute > 1:
        raise ConfigError(
            f"head.execute must be 1 where head.ensemble is set, since each step uses its new chunk, got {execute}"
        )
