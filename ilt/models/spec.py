"""Building, saving and loading a model and its action head."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ilt.envs.actions import ActionSpace
from ilt.models.base import SequenceModel
from ilt.models.chunks import ActionChunks
from ilt.models.config import check_head
from ilt.models.heads import ActionHead
from ilt.schema import ConfigError, build, check, common_keys
from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.weights import load_module, load_weights, save_weights


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything that is needed to build a model, as plain containers.

    Attributes:
        model, head: configs, each with a `_target_` and its keys.
        observation_dim: size of one observation.
        action_space: the actions.
        context_length: K, the longest window in steps.
        return_conditioned: whether the last number of an observation is the return-to-go; observation_dim includes it.
        observation_names: names of the numbers of a `Dict` observation, in order; None for other observations.
    """

    model: Mapping[str, Any]
    head: Mapping[str, Any]
    observation_dim: int
    action_space: ActionSpace
    context_length: int
    return_conditioned: bool = False
    observation_names: Sequence[str] | None = None

    def build(self, *, trust: Sequence[str] | None = None) -> tuple[SequenceModel, ActionHead]:
        """Build a model with new weights, and its head. Raise ConfigError, naming the key, if the config is wrong."""
        head = self.build_head(trust=trust)
        known = {
            "observation_dim": self.observation_dim,
            "action_space": self.action_space,
            "n_outputs": head.n_outputs,
            "context_length": self.context_length,
            **({"return_conditioned": True} if self.return_conditioned else {}),
        }
        model = build("model", self.model, known=known, trust=trust)
        if not isinstance(model, SequenceModel):
            raise ConfigError(
                f"model._target_ must be a subclass of ilt.SequenceModel, got {self.model['_target_']}, "
                f"which makes a {type(model).__name__}"
            )
        if model.return_conditioned != self.return_conditioned:
            raise ConfigError(
                f"model._target_={self.model['_target_']} must pass return_conditioned on to ilt.SequenceModel, as "
                "**sizes does, for dataset.tokens=returns_states_actions"
            )
        return model, head

    def build_head(self, *, trust: Sequence[str] | None = None) -> ActionHead:
        """Build the action head. Raise ConfigError, naming the key, if the config is wrong."""
        check_head(self.head, self.action_space)
        head = build("head", self.head, known={"action_space": self.action_space}, trust=trust)
        if not isinstance(head, ActionHead):
            raise ConfigError(
                f"head._target_ must be a subclass of ilt.ActionHead, got {self.head['_target_']}, "
                f"which makes a {type(head).__name__}"
            )
        common = common_keys("head")
        assert common is not None
        chunk = {name: self.head.get(name, default) for name, default in common.defaults.items()}
        check(common, chunk, prefix="head")
        return head if chunk == common.defaults else ActionChunks(head, **chunk)

    def save(self, model: SequenceModel, path: Path) -> None:
        """Write a model's weights, and everything that is needed to build it, to one safetensors file."""
        save_weights(model, path, {key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def load(cls, path: Path, *, trust: Sequence[str] | None = ()) -> "tuple[ModelSpec, SequenceModel, ActionHead]":
        """Load a model, in evaluation mode, from a file that `save` wrote. Raise ValueError if the file is invalid.

        Args:
            trust: packages besides `ilt` whose code may be run to build it; None for all.
        """
        config, state = load_weights(path)
        try:
            action_space = ActionSpace(**{name: tuple(value) for name, value in config.pop("action_space").items()})
            spec = cls(**config, action_space=action_space)
            ours = spec.model["_target_"].startswith("ilt.")
        except Exception as error:  # a damaged or foreign file can raise anything
            raise UnreadableFileError(f"{path} was not written by this version of ilt: {error}") from error
        # other packages' models may not work on the meta device
        model = load_module(path, lambda: spec.build(trust=trust)[0], config, state, plan=ours)
        return spec, model, spec.build_head(trust=trust)
