"""Schemas of the config group `imitation`."""

from ilt.schema import component, key


@component("imitation", "bc", "ilt.imitation.base.BC")
class BC:
    """Behavior cloning: training on the expert's demonstrations only."""


@component("imitation", "dagger", "ilt.imitation.dagger.DAgger")
class DAgger:
    """The student acts in rounds, and the expert labels every step. The budget of labels is that of `bc`."""

    rounds: int = key(3, "Number of rounds, evenly spaced over the training.", ge=1)
    initial_fraction: float = key(0.25, "Fraction of all labels from the expert's own episodes.", gt=0, lt=1)
    beta: float = key(
        0.0, "Probability that the expert acts at a step of round 1; its square in round 2, and so on.", ge=0, le=1
    )


@component("imitation", "dart", "ilt.imitation.dart.DART")
class DART:
    """The expert acts in rounds with noise fitted to the student's errors. The budget of labels is that of `bc`."""

    rounds: int = key(3, "Number of rounds, evenly spaced over the training.", ge=1)
    initial_fraction: float = key(0.25, "Fraction of all labels from the expert's episodes without noise.", gt=0, lt=1)
