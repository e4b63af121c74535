"""The Optuna study of a search, stored in SQLite, and the callback that reports a training to it."""

import os
from collections.abc import Callable
from pathlib import Path

import optuna
from numpy.random import SeedSequence
from omegaconf import DictConfig
from optuna.trial import Trial
from sqlalchemy.engine import URL

from ilt.tracking.reading import open_regular, reading


def open_study(cfg: DictConfig, folder: Path) -> optuna.Study:
    """Open the study in the folder's `study.db`, or create it. Raise UnreadableFileError if the file is damaged."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options, path = cfg.search, folder / "study.db"
    if os.path.lexists(path):
        open_regular(path).close()
    with reading(path):
        study = optuna.create_study(
            study_name=folder.name,
            storage=optuna.storages.RDBStorage(
                URL.create("sqlite", database=str(path.resolve())).render_as_string(),
                engine_kwargs={"connect_args": {"timeout": 60}},  # seconds to wait while another process writes
            ),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=options.startup_trials),
            direction="maximize",
            load_if_exists=True,
        )
    # with the same sampler seed, a resumed search would draw the same trials again
    seed = int(SeedSequence([options.seed, len(study.trials)]).generate_state(1)[0])
    if options.sampler == "random":
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=options.startup_trials, seed=seed)
    return study


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
