"""Schema of the config's part `evaluation`."""

from ilt.schema import component, key


@component("evaluation")
class Evaluation:
    """How a trained student is scored."""

    n_episodes: int = key(1000, "Test episodes of the student, the expert and the random policy.", ge=1)
    reported_checkpoint: str = key(
        "last",
        "Which weights to report: the last ones, or the best by selection-seed return.",
        choices=("last", "best"),
    )
    context_length: int | None = key(None, "Steps of context; null for dataset.context_length.", ge=1)
    deterministic: bool = key(True, "Take the student's most likely action; false samples one.")
    target_return: float | None = key(
        None, "Return to ask of a return-conditioned student; null for the highest among the demonstrations."
    )
    video: bool = key(True, "Render the student's median episode next to the expert's.")
