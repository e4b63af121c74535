"""Schemas of the config group `imitation`."""

from ilt.schema import component, key


@component("imitation", "bc", "ilt.imitation.base.BC")
class BC:
    """Behavior cloning: the expert's demonstrations are all there is."""


@component("imitation", "dagger", "ilt.imitation.dagger.DAgger")
class DAgger:
    """The student acts in rounds, and the expert labels every step. As many labels as `bc` is given."""

    rounds: int = key(3, "Evenly over the training.", ge=1)
    initial_fraction: float = key(0.25, "Of all labels, those of the expert's own episodes.", gt=0, lt=1)
    beta: float = key(
        0.0, "How likely the expert acts at a step of round 1; its square in round 2, and so on.", ge=0, le=1
    )


@component("imitation", "dart", "ilt.imitation.dart.DART")
class DART:
    """The expert acts in rounds with noise as strong as the student errs. As many labels as `bc` is given."""

    rounds: int = key(3, "Evenly over the training.", ge=1)
    initial_fraction: float = key(0.25, "Of all labels, those of the expert's undisturbed episodes.", gt=0, lt=1)
