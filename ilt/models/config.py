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
    """The decoder-only transformer over state and action tokens."""

    n_layer: int = key(2, "Number of blocks.", ge=1)
    n_head: int = key(2, "Attention heads of each block.", ge=1)
    d_model: int = key(32, "Width.", ge=1)
    attention: str = key(
        "banded",
        "`banded`: layers share the context, so keys and values can be cached; `full`: each layer sees all of it.",
        choices=("banded", "full"),
    )
    dropout: float = key(0.0, "Probability, in embeddings and blocks.", ge=0, lt=1)
    positions: str = key(
        "rotary", "Relative, one vector per step of the window, or none.", choices=("rotary", "learned", "none")
    )
    tokens: str = key("states_actions", "`states` leaves out past actions.", choices=("states_actions", "states"))
    action_dropout: float = key(0.0, "Probability of blanking a past action's token in training.", ge=0, le=1)


@dataclass(kw_only=True)
class _Sized:
    size: str = key("tiny", "As many parameters as the transformer of this size.", choices=SIZES)
    d_model: int | None = key(None, "Width; null for the one that `size` asks for.", ge=1)
    n_layer: int = key(2, "Hidden layers; 0 is a linear policy.", ge=0)
    dropout: float = key(0.0, "Probability, after each hidden layer.", ge=0, lt=1)


@component("model", "mlp", "ilt.models.sizing.mlp")
class MLP(_Sized):
    """A multilayer perceptron that sees the current observation only."""


@component("model", "mlp_stack", "ilt.models.sizing.mlp_stack")
class MLPStack(_Sized):
    """A multilayer perceptron over the last K observations and actions, concatenated (frame stacking)."""

    d_action: int = key(8, "Width of a past action's embedding.", ge=1)


@component("model", "gru", "ilt.models.sizing.gru")
class GRU(_Sized):
    """A GRU over observations and past actions; its state is carried while acting."""

    n_layer: int = key(1, "Recurrent layers.", ge=1)
    dropout: float = key(0.0, "Probability, between recurrent layers.", ge=0, lt=1)


@component("model", "lstm", "ilt.models.sizing.lstm")
class LSTM(GRU):
    """An LSTM over observations and past actions; its state is carried while acting."""


@component("head", "auto", "ilt.models.heads.default_head")
class Auto:
    """Categorical for choices, least squares for numbers."""


@component("head", "categorical", "ilt.models.heads.Categorical")
class Categorical:
    """Logits over choices."""

    continuous = False


@component("head", "gaussian", "ilt.models.heads.Gaussian")
class Gaussian:
    """A mean and a standard deviation for each number."""

    continuous = True


@component("head", "gaussian_mixture", "ilt.models.heads.GaussianMixture")
class GaussianMixture:
    """A weighted mixture of Gaussians."""

    continuous = True
    n_components: int = key(5, "Number of Gaussians.", ge=1)


@component("head", "discretized", "ilt.models.heads.Discretized")
class Discretized:
    """Bins of equal width for each number."""

    continuous = True
    n_bins: int = key(51, "Bins over the range of each number.", ge=2)


@component("head", "mse", "ilt.models.heads.Regression")
class Regression:
    """The action itself, by least squares."""

    continuous = True


def check_head(values: Mapping[str, Any], action_space: "ActionSpace") -> None:
    """Raise ConfigError if a config's `head` is for other actions: numbers (Box), or choices."""
    found = schema_of("head", values)
    continuous = getattr(found.schema, "continuous", None) if found else None
    if found and continuous is not None and continuous != action_space.continuous:
        kinds = (
            "Discrete and MultiDiscrete actions; head=gaussian is for Box",
            "Box actions; head=categorical is for Discrete and MultiDiscrete",
        )
        raise ConfigError(f"head={found.name} is for {kinds[continuous]}")
