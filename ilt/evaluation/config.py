"""Schema of the config's part `evaluation`."""

from ilt.schema import component, key


@component("evaluation")
class Evaluation:
    """How a trained student is scored."""

    n_episodes: int = key(1000, "Test seeds, run by student, expert and random policy.", ge=1)
    reported_checkpoint: str = key(
        "last",
        "Which weights are reported: the last ones, or the best by selection-seed return.",
        choices=("last", "best"),
    )
    context_length: int | None = key(None, "Steps the student looks back on; null for dataset.context_length.", ge=1)
    deterministic: bool = key(True, "The student's most likely action, or a sample.")
    video: bool = key(True, "Render the student's median episode beside the expert's.")
