"""Optuna's side of a search: a study in a file, and how a training reports to it."""

from collections.abc import Callable
from pathlib import Path

import optuna
from numpy.random import SeedSequence
from omegaconf import DictConfig
from optuna.trial import Trial


def open_study(cfg: DictConfig, folder: Path) -> optuna.Study:
    """The study in the folder's `study.db`, made if it is not there."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options = cfg.search
    study = optuna.create_study(
        study_name=folder.name,
        storage=optuna.storages.RDBStorage(
            f"sqlite:///{(folder / 'study.db').resolve()}",
            engine_kwargs={"connect_args": {"timeout": 60}},  # seconds, while another process writes
        ),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=options.startup_trials),
        direction="maximize",
        load_if_exists=True,
    )
    # the same seed again would draw the same trials again
    seed = int(SeedSequence([options.seed, len(study.trials)]).generate_state(1)[0])
    if options.sampler == "random":
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=options.startup_trials, seed=seed)
    return study


def reporter(cfg: DictConfig, folder: Path) -> Callable[[float, int], bool] | None:
    """What takes a run's selection-seed return and step, and says whether the search gives the trial up.

    None for a run that does not report: only the first seed of a trial does.
    """
    options = cfg.search
    if options.trial is None or not options.pruning or cfg.seed != options.seeds[0]:
        return None
    study = open_study(cfg, folder)
    found = study.trials[options.trial]
    trial, reported = Trial(study, found._trial_id), set(found.intermediate_values)

    def report(value: float, step: int) -> bool:
        if step not in reported:  # as it is when a killed run repeats an evaluation
            trial.report(value, step)
        return trial.should_prune()

    return report
