"""Schemas of the config group `imitation`."""

from ilt.schema import component, key


@component("imitation", "bc", "ilt.imitation.base.BC")
class BC:
    """Behavior cloning: training on the expert's demonstrations only."""


@component("imitation", "dagger", "ilt.imitation.dagger.DAgger")
class DAgger:
    """The student acts in rounds, and the expert labels every step. The label budget is the same as for `bc`."""

    rounds: int = key(3, "Number of rounds, evenly spaced over training.", ge=1)
    initial_fraction: float = key(0.25, "Fraction of all labels that come from the expert's own episodes.", gt=0, lt=1)
    beta: float = key(0.0, "In round i, the expert acts at each step with probability beta^i.", ge=0, le=1)


@component("imitation", "dart", "ilt.imitation.dart.DART")
class DART:
    """The expert acts in rounds with noise fitted to the student's errors. The label budget is the same as for `bc`."""

    rounds: int = key(3, "Number of rounds, evenly spaced over training.", ge=1)
    initial_fraction: float = key(
        0.25, "Fraction of all labels that come from the expert's episodes without noise.", gt=0, lt=1
    )
