"""The contract of an imitation algorithm: which expert labels a student is trained on, and from whose episodes.

Every algorithm gets the same budget: as many expert labels as the demonstrations have steps. A fraction
`initial_fraction` of them comes from the demonstrations; `rounds` rounds, evenly spaced over training, share the rest
equally.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.models.base import SequenceModel
from ilt.models.heads import ActionHead
from ilt.rollout.policies import Policy, SequencePolicy
from ilt.schema import ConfigError, build
from ilt.settings import has_expert


@dataclass(frozen=True, kw_only=True)
class Round:
    """What an algorithm is given at the start of a round.

    Attributes:
        number: number of the round, from 1.
        env: the environment.
        model, head: the current student, in evaluation mode.
        expert: the expert, which may be privileged.
        validation: episodes that are never trained on.
        context_length: how many steps the student sees.
        deterministic: whether the student takes its most likely action instead of sampling.
    """

    number: int
    env: EnvSpec
    model: SequenceModel
    head: ActionHead
    expert: Policy
    validation: Episodes
    context_length: int
    deterministic: bool

    @property
    def student(self) -> SequencePolicy:
        """The student as a policy."""
        return SequencePolicy(
            self.model, self.head, context_length=self.context_length, deterministic=self.deterministic
        )


class Imitation(ABC):
    """An imitation algorithm.

    To write your own, subclass it and set `imitation._target_` to the path of your class, which is called with the
    config's own keys. `round_policy` returns the policy that acts in a round.

    Example:
        ```python
        class MyAlgorithm(ilt.Imitation):
            def round_policy(self, round):
                return MyPolicy(round.student, round.expert), {}
        ```

    Args:
        rounds: number of rounds in which the expert labels more steps during training; 0 for none.
        initial_fraction: fraction of all labels that come from the demonstrations.

    Attributes:
        version: increase it when the results change.
    """

    version = 1

    def __init__(self, *, rounds: int = 0, initial_fraction: float = 1.0) -> None:
        if rounds > 0 and initial_fraction >= 1:
            raise ConfigError(
                f"imitation.initial_fraction must be below 1 where there are rounds, got {initial_fraction}"
            )
        self.rounds, self.initial_fraction = rounds, initial_fraction if rounds else 1.0

    @abstractmethod
    def round_policy(self, round: Round) -> tuple[Policy, Mapping[str, Any]]:
        """Return the policy that acts in a round, and the manifest's entry about it.

        The policy must have the attribute `labels`, the expert's actions at the last call of `act`; see
        `ilt.rollout.policies.Labeling`. They become the training targets, while the model's past inputs are the
        executed actions.
        """


class BC(Imitation):
    """Behavior cloning: training on the expert's demonstrations only.

    Pomerleau 1991, ["Efficient training of artificial neural networks for autonomous
    navigation"](https://doi.org/10.1162/neco.1991.3.1.88).
    """

    def round_policy(self, round: Round) -> tuple[Policy, Mapping[str, Any]]:
        raise AssertionError("behavior cloning has no rounds")


def make_imitation(values: Any) -> Imitation:
    """Build the algorithm of a config's `imitation`. Raise ConfigError if it is not a subclass of `Imitation`."""
    made = build("imitation", values, known={})
    if not isinstance(made, Imitation):
        raise ConfigError(f"imitation._target_ must be a subclass of ilt.Imitation, got {values['_target_']}")
    return made


def check_labels(values: Any, expert: Any) -> None:
    """Raise ConfigError if a config's `imitation` cannot be made, or needs labels where there is no expert."""
    if make_imitation(values).rounds and not has_expert(expert):
        raise ConfigError(
            f"expert must be one that labels the student's episodes where imitation._target_={values['_target_']}, got "
            "none; imitation=bc needs no labels"
        )
