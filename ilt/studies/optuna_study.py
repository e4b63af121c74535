"""What Optuna is told: a search space in Hydra's syntax, a study in a file, and how a training reports to it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from numpy.random import SeedSequence
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from ilt.schema import ConfigError


def parse_space(
    space: Mapping[str, str] | None, arguments: Sequence[str], parser: OverridesParser
) -> tuple[dict[str, BaseDistribution], list[str]]:
    """What is searched over, and the overrides of every run.

    Args:
        space: sweeps in Hydra's syntax by override key, such as `tag(log, interval(0.0001, 0.01))`.
        arguments: of the command line. A sweep goes before the one in `space`, a value takes the key out of it.

    ConfigError if nothing is left to search over, or if it is the seed.
    """
    found = {key: distribution(parser.parse_override(f"{key}={text}")) for key, text in (space or {}).items()}
    fixed = []
    for argument, override in zip(arguments, parser.parse_overrides(list(arguments)), strict=True):
        key = override.get_key_element()
        if override.key_or_group == "seed":
            raise ConfigError(f"seed is set by search.seeds and search.fresh_seeds in a search, got {argument}")
        if override.is_sweep_override():
            found[key] = distribution(override)
        else:
            found.pop(key, None)
            fixed.append(argument)
    if not found:
        raise ConfigError("search.space must hold something to search over, or a sweep must be given")
    return found, fixed


def distribution(override: Override) -> BaseDistribution:
    """A sweep of Hydra's as Optuna's distribution.

    `interval(a, b)` is continuous, `int(interval(a, b))` whole numbers, both with `tag(log, …)` on a logarithmic scale;
    `range(a, b, step)` leaves out b, as everywhere in Hydra; `choice(…)` or `a,b,c` are unordered.
    """
    if not override.is_sweep_override():
        raise ConfigError(f"search.space must hold sweeps such as interval(0, 1), got {override.input_line}")
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        return _numbers([sweep.start, sweep.end])(sweep.start, sweep.end, log="log" in sweep.tags)
    values: list[Any] = list(override.sweep_iterator(Transformer.encode))
    if isinstance(sweep, RangeSweep):
        return _numbers(values)(min(values), max(values), step=abs(sweep.step))
    return CategoricalDistribution(values)


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


def _numbers(values: Sequence[Any]) -> Callable[..., BaseDistribution]:
    return IntDistribution if all(isinstance(value, int) for value in values) else FloatDistribution
