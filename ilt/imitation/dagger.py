"""DAgger: the student acts, and the expert labels every step (Ross et al. 2011)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ilt.imitation.base import Imitation, Round
from ilt.rollout.policies import Policy, SequencePolicy
from ilt.rollout.sampling import MIXING, EpisodeRNG


class DAgger(Imitation):
    """In each round the student acts, mixed with the expert, and the expert labels every step.

    Ross, Gordon and Bagnell 2011, ["A reduction of imitation learning and structured prediction to no-regret online
    learning"](https://arxiv.org/abs/1011.0686).

    Args:
        rounds, initial_fraction: see `Imitation`.
        beta: in round i, the expert acts at each step with probability beta^i.
    """

    def __init__(self, *, rounds: int, initial_fraction: float, beta: float) -> None:
        super().__init__(rounds=rounds, initial_fraction=initial_fraction)
        self._beta = beta

    def round_policy(self, round: Round) -> tuple[Policy, Mapping[str, Any]]:
        beta = self._beta**round.number
        return MixturePolicy(round.student, round.expert, visible=round.env.observations.dim, beta=beta), {"beta": beta}


class MixturePolicy(Policy):
    """At each step the expert acts with probability `beta`, otherwise the student (section 3 of the paper).

    The expert labels every step. Who acts depends only on the episode's seed. The student observes the executed
    actions.

    Args:
        student, expert: the two policies.
        visible: how many numbers of an observation the student sees; they come first.
        beta: probability that the expert acts.

    Attributes:
        labels: the expert's actions at the last call of `act`, in the simulator's units.
    """

    privileged = True  # the expert may be privileged; the student gets only its own part

    def __init__(self, student: SequencePolicy, expert: Policy, *, visible: int, beta: float) -> None:
        self._student, self._expert, self._visible = student, expert, visible
        self._beta, self._rng = beta, EpisodeRNG(MIXING)
        self.labels = np.zeros(0, dtype=np.int64)

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._student.reset(slots, seeds)
        self._expert.reset(slots, seeds)
        self._rng.reset(slots, seeds)

    def observe_reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        self._student.observe_reward(slots, rewards)
        self._expert.observe_reward(slots, rewards)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        seen = observations[:, : self._visible]
        actions = self._student.act(slots, seen)
        self.labels = self._expert.act(slots, observations if self._expert.privileged else seen)
        if self._beta == 0:
            return actions
        by_expert = self._rng.uniform(slots) < self._beta
        actions = np.where(by_expert if actions.ndim == 1 else by_expert[:, None], self.labels, actions)
        self._student.observe_action(slots, actions)
        return actions
