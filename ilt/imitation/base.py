"""The contract of an imitation algorithm: which labels a training is given, from whose episodes, in which rounds.

To write another, subclass `Imitation` and name the class as `imitation._target_`; it is called with the config's own
keys. An algorithm with rounds says who acts in one:

    class MyAlgorithm(Imitation):
        def round_policy(self, round):
            return MyPolicy(round.student, round.expert), {}

Every algorithm gets the same budget: as many expert labels as the demonstrations have steps. `initial_fraction` of them
are the demonstrations' own, the rest is shared equally by `rounds` rounds, evenly over the training.
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


@dataclass(frozen=True, kw_only=True)
class Round:
    """What an algorithm has when a round begins.

    Attributes:
        number: from 1 on.
        env: the environment.
        model, head: the student as it is now, in evaluation mode.
        expert: as it demonstrates; it may be privileged.
        validation: episodes that are never trained on.
        context_length: how many steps the student looks back on.
        deterministic: whether the student takes its most likely action, or samples.
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
    """Which labels a training is given.

    Args:
        rounds: in which the expert is asked while the student learns; 0 for none.
        initial_fraction: of all labels, those of the demonstrations.

    Attributes:
        version: raise it when what it computes changes.
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
        """Who acts in a round, and what its manifest is to say of that.

        The policy must have the attribute `labels`: what the expert would have done at the newest call of `act`; see
        `ilt.rollout.policies.Labeling`. What it is trained on is `step/label`; what was executed is the model's past.
        """


class BC(Imitation):
    """Behavior cloning: the expert's demonstrations are all there is."""

    def round_policy(self, round: Round) -> tuple[Policy, Mapping[str, Any]]:
        raise AssertionError("behavior cloning has no rounds")


def make_imitation(values: Any) -> Imitation:
    """The algorithm of a config's `imitation`."""
    made = build("imitation", values, known={})
    if not isinstance(made, Imitation):
        raise ConfigError(f"imitation._target_ must be a subclass of ilt.Imitation, got {values['_target_']}")
    return made
