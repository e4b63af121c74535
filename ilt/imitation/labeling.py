"""Policies that ask an expert at every step what it would do, whether or not that is what is done."""

import numpy as np

from ilt.rollout.policies import MIXING, EpisodeRNG, Policy, sample
from ilt.rollout.sequence_policy import SequencePolicy


class MixturePolicy:
    """The student flies, or by chance the expert, who labels every step (DAgger: Ross et al. 2011, section 3).

    Who acts is drawn anew at every step, from the episode's seed alone. The student is told what was done.

    Args:
        student, expert: the two.
        visible: how many numbers of an observation the student sees; they stand first.
        beta: how likely it is that the expert acts, β in the paper.

    Attributes:
        labels: (n,) int64, what the expert would have done at the newest call of `act`.
    """

    privileged = True  # the expert may be, and the student is shown its part

    def __init__(self, student: SequencePolicy, expert: Policy, *, visible: int, beta: float) -> None:
        self._student, self._expert, self._visible = student, expert, visible
        self._beta, self._rng = beta, EpisodeRNG(MIXING)
        self.labels = np.zeros(0, dtype=np.int64)

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        for each in (self._student, self._expert, self._rng):
            each.begin(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        seen = observations[:, : self._visible]
        actions = self._student.act(slots, seen)
        self.labels = self._expert.act(slots, observations if self._expert.privileged else seen)
        if self._beta == 0:
            return actions
        actions = np.where(self._rng.uniform(slots) < self._beta, self.labels, actions)
        self._student.note(slots, actions)
        return actions


class NoiseInjectionPolicy:
    """The expert flies, but what it means to do is by chance replaced (DART: Laskey et al. 2017).

    Args:
        expert: whose intended actions are the labels.
        confusion: (A, A) float64, `confusion[a]` is the distribution of what is done where the expert means to do `a`.

    Attributes:
        labels: (n,) int64, what the expert meant to do at the newest call of `act`.
    """

    def __init__(self, expert: Policy, confusion: np.ndarray) -> None:
        self.privileged = expert.privileged
        self._expert, self._confusion, self._rng = expert, confusion, EpisodeRNG(MIXING)
        self.labels = np.zeros(0, dtype=np.int64)

    def begin(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._expert.begin(slots, seeds)
        self._rng.begin(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        self.labels = self._expert.act(slots, observations)
        return sample(self._confusion[self.labels], self._rng.uniform(slots))
