"""The Optuna study of a search, stored in SQLite, and the callback that reports a training to it."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna
from numpy.random import SeedSequence
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution
from optuna.trial import Trial
from sqlalchemy.engine import URL

from ilt.tracking.reading import open_regular, reading


def open_study(cfg: DictConfig, folder: Path) -> optuna.Study:
    """Open the study in the folder's `study.db`, or create it. Raise UnreadableFileError if the file is damaged."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / "study.db"
    if os.path.lexists(path):
        open_regular(path).close()
    with reading(path):
        study = optuna.create_study(
            study_name=folder.name,
            storage=optuna.storages.RDBStorage(
                URL.create("sqlite", database=str(path.resolve())).render_as_string(),
                engine_kwargs={"connect_args": {"timeout": 60}},  # seconds to wait while another process writes
            ),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=cfg.search.startup_trials),
            direction="maximize",
            load_if_exists=True,
        )
    return study


def draw(cfg: DictConfig, trial: Trial, space: Mapping[str, BaseDistribution]) -> Trial:
    """Draw the values of a trial that it does not have yet, and return it.

    What is drawn depends on the search's seed, the number of the trial, the key and the trials completed before, so a
    resumed search draws what it would have drawn without the interruption, even in the middle of a trial.
    """
    options = cfg.search
    for number, (key, distribution) in enumerate(space.items()):
        seed = int(SeedSequence([options.seed, trial.number, number]).generate_state(1)[0])
        if options.sampler == "random":
            trial.study.sampler = optuna.samplers.RandomSampler(seed=seed)
        else:
            trial.study.sampler = optuna.samplers.TPESampler(n_startup_trials=options.startup_trials, seed=seed)
        trial._suggest(key, distribution)
    return trial


def reporter(cfg: DictConfig, folder: Path) -> Callable[[float, int], bool] | None:
    """Return a function that reports a selection-seed return and its step, and returns whether to prune the trial.

    Return None for a run that does not report: only a trial's first seed reports, and only with pruning.
    """
    options = cfg.search
    if options.trial is None or not options.pruning or cfg.seed != options.seeds[0]:
        return None
    study = open_study(cfg, folder)
    found = study.trials[options.trial]
    trial, reported = Trial(study, found._trial_id), set(found.intermediate_values)

    def report(value: float, step: int) -> bool:
        if step not in reported:  # a resumed run may repeat an evaluation
            trial.report(value, step)
        return trial.should_prune()

    return report
