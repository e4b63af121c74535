"""Schema of the config's part `search`."""

from ilt.rules import LARGEST_SEED, MAPPING, NAME
from ilt.schema import component, key


@component("search")
class Search:
    """Hyperparameter search."""

    study_name: str = key("???", "Name of the study and its folder; the same command finds the same study.", rule=NAME)
    n_trials: int = key(30, "Number of trials, including pruned and failed ones.", ge=1)
    trials_at_once: int = key(
        1, "Trials to run at once with hydra/launcher=joblib; they do not learn from each other.", ge=1
    )
    sampler: str = key("tpe", "How values are chosen.", choices=("tpe", "random"))
    startup_trials: int = key(8, "Trials drawn at random, and trials to complete before pruning starts.", ge=1)
    pruning: bool = key(True, "Stop a trial whose first seed is below the median of earlier trials at the same step.")
    seed: int = key(0, "Seed of the sampler.", ge=0, le=LARGEST_SEED)
    seeds: list[int] = key([0, 1, 2], "Training seeds of every trial, at least three.", ge=0, le=LARGEST_SEED)
    fresh_seeds: list[int] = key(
        [100, 101, 102], "Training seeds of the retrained winner; none of search.seeds.", ge=0, le=LARGEST_SEED
    )
    trial: int | None = key(None, "Set by the search: the number of the trial that a run belongs to.", ge=0)
    space: dict[str, str] | None = key(
        None, "Sweeps by key. On the command line, a sweep replaces one, a value fixes it.", rule=MAPPING.or_null()
    )
