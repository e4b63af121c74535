"""Schema of the config's part `search`."""

from ilt.schema import LARGEST_SEED, MAPPING, NAME, component, key


@component("search")
class Search:
    """Hyperparameter search."""

    study_name: str = key("???", "The folder's name too: the same command finds the same study.", rule=NAME)
    n_trials: int = key(30, "In all, pruned and failed ones included.", ge=1)
    trials_at_once: int = key(
        1, "With hydra/launcher=joblib; those that run at once do not learn from each other.", ge=1
    )
    sampler: str = key("tpe", "How values are chosen.", choices=("tpe", "random"))
    startup_trials: int = key(8, "Drawn at random; and so many must be complete before any is pruned.", ge=1)
    pruning: bool = key(True, "Give up a trial whose first seed is, at an evaluation, below the median so far.")
    seed: int = key(0, "Of the sampler.", ge=0, le=LARGEST_SEED)
    seeds: list[int] = key([0, 1, 2], "Training seeds of every trial, at least three.", ge=0, le=LARGEST_SEED)
    fresh_seeds: list[int] = key(
        [100, 101, 102], "Training seeds of the winner, none of those above.", ge=0, le=LARGEST_SEED
    )
    trial: int | None = key(None, "Set by the search: the number of the trial that a run belongs to.", ge=0)
    space: dict[str, str] | None = key(
        None, "Sweeps by key; on the command line a sweep replaces one, a value fixes it.", rule=MAPPING.or_null()
    )
