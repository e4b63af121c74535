"""Schemas of the config's parts `search` and `study`."""

from typing import Any

from ilt.rules import LARGEST_SEED, MAPPING, NAME, Rule
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
    finalists: int = key(
        3, "Best trials that act in new selection episodes, until the winner is known; 1 for the best value.", ge=1
    )
    finalist_episodes: int = key(1000, "Most episodes of each seed of a finalist.", ge=1)
    trial: int | None = key(None, "Set by the search: the number of the trial that a run belongs to.", ge=0)
    space: dict[str, str] | None = key(
        None, "Sweeps by key. On the command line, a sweep replaces one, a value fixes it.", rule=MAPPING.or_null()
    )


_OVERRIDES = "overrides of ilt train: a mapping from keys to values, in which commas separate the values of a sweep"


def _are_overrides(value: Any) -> bool:
    scalars = str | int | float | bool | None
    return MAPPING.allows(value) and all(isinstance(key, str) and isinstance(value[key], scalars) for key in value)


def _are_sweeps(value: Any) -> bool:
    return (
        MAPPING.allows(value)
        and len(value) > 0
        and all(NAME.allows(name) and _are_overrides(value[name]) for name in value)
    )


@component("study")
class Study:
    """A named set of sweeps, and the table that compares their runs."""

    title: str = key("???", "Heading of the table.")
    question: str | None = key(None, "What the study is meant to answer.")
    hypothesis: str | None = key(None, "What is expected, written before the first job.")
    conclusion: str | None = key(None, "What was found, written after the last job.")
    shared: dict[str, object] = key(
        {}, "Overrides of every sweep; a sweep's own replace them.", rule=Rule(_are_overrides, _OVERRIDES)
    )
    sweeps: dict[str, object] = key(
        "???",
        "Overrides of `ilt train` by sweep; commas separate values, and every combination is a job.",
        rule=Rule(_are_sweeps, f"a mapping from names to {_OVERRIDES}"),
    )
    rows: list[str] = key(
        ["env"], "Keys or groups whose values make a row of the table; `sweep` for the name of the sweep."
    )
    columns: list[str] = key(["imitation", "model"], "Keys or groups whose values make a column, as in `rows`.")
    words: dict[str, str] = key({}, "How to write a key or a value in tables and figures.")
    metric: str = key(
        "performance",
        "What the table shows: the return, the return from 0 (random policy) to 1 (expert), or the return on selection "
        "seeds, for choices between configs.",
        choices=("performance", "return", "selection"),
    )
    bar: float | None = key(None, "The least mean over training seeds; cells below it are marked.")
    lowest_bar: float | None = key(None, "The least value of every training seed; cells below it are marked.")
    copycat: bool = key(
        False, "Whether tables show how much students rely on past actions; see `ilt.evaluation.copycat`."
    )
    loss_and_return: bool = key(
        False, "Whether to report the rank correlation of validation loss and return over the runs of each row."
    )
    seconds: dict[str, float] = key(
        {}, "How long a job of each sweep takes, for the estimate before a similar job is finished."
    )
