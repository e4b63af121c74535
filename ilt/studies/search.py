"""Hyperparameter search: train trials with several seeds each, then retrain the winner with fresh seeds."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.distributions import distribution_to_json as to_json
from optuna.trial import FrozenTrial, Trial, TrialState

from ilt.evaluation.run_table import run_table
from ilt.evaluation.sequential import WORSE
from ilt.evaluation.tables import markdown_table
from ilt.schema import ConfigError, PlainError, plain
from ilt.settings import training_config
from ilt.studies.optuna_study import draw, open_study
from ilt.studies.search_report import write_report
from ilt.tracking.records import read_run
from ilt.tracking.run_folder import read_config

log = logging.getLogger(__name__)

Outcome = float | Exception | None
"""Outcome of a run: its selection-seed return, None if it was pruned, or the exception that ended it."""

MOST_STARTS = 3  # a trial that is interrupted this often is given up, because it may be what kills the search


class Search:
    """A search that trains `n_trials` trials from Optuna, then retrains the winner.

    A trial is trained with each of `search.seeds`. Its value is the mean of their selection-seed returns. With pruning,
    the first seed is trained before the others. Only this seed reports to Optuna, which compares it with the first
    seeds of other trials at the same step. So a pruned trial costs at most one training, but a good trial with an
    unlucky first seed may be lost.

    Args:
        cfg: the config without the searched keys; `cfg.search` configures the search.
        space: distributions by override key.
        fixed: overrides that all runs share.
        folder: folder of the search, with `study.db`, a folder per trial, and the report.
        launch: runs one job per list of overrides, and returns their outcomes.
        evaluate: compares finalists, see `ilt.studies.finalists.evaluate_finalists`.
    """

    def __init__(
        self,
        cfg: DictConfig,
        space: Mapping[str, BaseDistribution],
        fixed: Sequence[str],
        folder: Path,
        launch: Callable[[Sequence[Sequence[str]]], Sequence[Outcome]],
        evaluate: Callable[[Mapping[int, Sequence[Path]]], list[dict[str, Any]]],
    ) -> None:
        self._cfg, self._options, self._space, self._fixed = cfg, cfg.search, dict(space), list(fixed)
        self._folder, self._launch, self._evaluate = folder, launch, evaluate
        self._launcher_failed = False

    def examples(self) -> Iterator[list[str]]:
        """Yield the overrides of example runs that cover every choice of each key, or both ends of its range."""
        ends: dict[str, Sequence[Any]] = {
            key: each.choices if isinstance(each, CategoricalDistribution) else (each.low, each.high)  # type: ignore[attr-defined]
            for key, each in self._space.items()
        }
        for n in range(max(map(len, ends.values()))):
            values = {key: choices[n % len(choices)] for key, choices in ends.items()}
            yield self._overrides(values, seed=self._options.seeds[0], trial=0)

    def run(self) -> dict[str, Any]:
        """Search, choose and retrain the winner, write the report, and return the content of `search.json`.

        Raises:
            PlainError: another process is searching in this folder, or no trial was completed.
            ConfigError: the folder contains a different search.
        """
        try:
            with FileLock(self._folder / ".search.lock", timeout=0):
                study = open_study(self._cfg, self._folder)
                self._check_that_it_is_this_search(study)
                for batch in self._batches(study):
                    self._train(study, batch)
                return self._train_winner_again(study)
        except Timeout:
            raise PlainError(f"another process is searching in {self._folder}") from None

    def _check_that_it_is_this_search(self, study: optuna.Study) -> None:
        """Raise ConfigError if the study's trials come from another config, space or seeds."""
        described = {
            **training_config(self._cfg),
            "evaluation.reported_checkpoint": self._cfg.evaluation.reported_checkpoint,
            "callbacks.rollout": plain(self._cfg.callbacks.rollout),
            "search.space": {key: to_json(distribution) for key, distribution in sorted(self._space.items())},
            "search.seeds": list(self._options.seeds),
            "search.fresh_seeds": list(self._options.fresh_seeds),
        }
        found = study.user_attrs.get("search", described)
        differing = sorted(key for key in {*found, *described} if found.get(key) != described.get(key))
        if differing:
            raise ConfigError(
                f"{self._folder} contains another search ({', '.join(differing)} differ); give this one its own "
                "search.study_name"
            )
        study.set_user_attr("search", described)

    def _batches(self, study: optuna.Study) -> Iterator[list[Trial]]:
        """Yield batches of trials to train together: first those that a killed search left behind, then new ones."""
        size = self._options.trials_at_once
        interrupted = []
        for left in study.get_trials(states=[TrialState.RUNNING]):
            trial = Trial(study, left._trial_id)
            if trial.user_attrs.get("starts", 0) < MOST_STARTS:
                interrupted.append(draw(self._cfg, trial, self._space))
            else:
                _fail(study, trial, f"interrupted {MOST_STARTS} times")
        for first in range(0, len(interrupted), size):
            yield interrupted[first : first + size]
        while (missing := self._options.n_trials - len(study.trials)) > 0:
            yield [draw(self._cfg, study.ask(), self._space) for _ in range(min(size, missing))]

    def _train(self, study: optuna.Study, batch: list[Trial]) -> None:
        for trial in batch:
            trial.set_user_attr("starts", trial.user_attrs.get("starts", 0) + 1)
        first, *others = self._options.seeds
        values: dict[int, list[float]] = {trial.number: [] for trial in batch}
        for seeds in [[first], others] if self._options.pruning else [[first, *others]]:
            if not batch:
                return
            runs = [(trial, seed) for trial in batch for seed in seeds]
            outcomes = iter(self._outcomes([self._overrides(t.params, seed=s, trial=t.number) for t, s in runs]))
            batch = [trial for trial in batch if self._goes_on(study, trial, [next(outcomes) for _ in seeds], values)]
        for trial in batch:
            mean = math.fsum(values[trial.number]) / len(values[trial.number])
            trial.set_user_attr("returns", values[trial.number])
            study.tell(trial, mean)
            log.info("trial %d: %.1f; the best is trial %d: %.1f", trial.number, mean, *_best(study))

    def _goes_on(
        self,
        study: optuna.Study,
        trial: Trial,
        outcomes: Sequence[Outcome],
        values: dict[int, list[float]],
    ) -> bool:
        """Record the values of a trial's runs. If one failed or was pruned, end the trial and return False."""
        for outcome in outcomes:
            if outcome is None:
                study.tell(trial, state=TrialState.PRUNED)
                log.info("trial %d: pruned", trial.number)
                return False
            if isinstance(outcome, Exception) or not math.isfinite(outcome):
                _fail(study, trial, f"{type(outcome).__name__}: {outcome}")
                return False
            values[trial.number].append(float(outcome))
        return True

    def _outcomes(self, batch: list[list[str]]) -> Sequence[Outcome]:
        """Launch a batch of runs.

        If the launcher itself fails, for example because a worker process runs out of memory, the whole batch fails.
        If it fails twice in a row, the trials are not the cause, and the error ends the search.
        """
        try:
            outcomes = self._launch(batch)
        except Exception as error:
            if self._launcher_failed:
                raise
            self._launcher_failed = True
            return [error] * len(batch)
        self._launcher_failed = False
        return outcomes

    def _train_winner_again(self, study: optuna.Study) -> dict[str, Any]:
        complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if not complete:
            raise PlainError(f"none of the {len(study.trials)} trials in {self._folder} was completed")
        finalists = self._finalists(study, sorted(complete, key=lambda trial: -trial.value))  # type: ignore[operator]
        best = study.trials[_winner_of(finalists)]
        log.info("retraining the winner, trial %d, with fresh seeds, to score it on test seeds", best.number)
        study.set_user_attr("winners", [*dict.fromkeys([*study.user_attrs.get("winners", []), best.number])])
        seeds = self._options.fresh_seeds
        for outcome in self._launch([self._overrides(best.params, seed=s, winner=best.number) for s in seeds]):
            if isinstance(outcome, Exception):
                raise outcome
        runs = [self._folder / _subfolder(seed, winner=best.number) for seed in seeds]
        records = [read_run(path.name, path, read_config(path)) for path in runs]
        table = markdown_table(*run_table(records))
        found = write_report(study, self._folder, runs, table, winner=best, finalists=finalists)
        again = found["retrained"]
        log.info(
            "return of the retrained winner on test seeds: %.1f; %s", again["return_mean"], self._folder / "search.md"
        )
        return found

    def _finalists(self, study: optuna.Study, ranked: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
        """Compare the best trials, the one with the highest value first; a resumed search remembers the result."""
        names = [trial.number for trial in ranked[: self._options.finalists]]
        if len(names) == 1:
            return [{"trial": names[0]}]
        asked = {"trials": names, "episodes": self._options.finalist_episodes}
        known = study.user_attrs.get("finalists", {})
        if known.get("asked") != asked:
            log.info("the best trials, %s, act in new selection episodes", ", ".join(map(str, names)))
            seeds = self._options.seeds
            runs = {name: [self._folder / _subfolder(seed, trial=name) for seed in seeds] for name in names}
            study.set_user_attr("finalists", known := {"asked": asked, "found": self._evaluate(runs)})
        return list(known["found"])

    def _overrides(
        self, values: Mapping[str, Any], *, seed: int, trial: int | None = None, winner: int | None = None
    ) -> list[str]:
        return [
            *self._fixed,
            *(f"{key}={value}" for key, value in values.items()),
            f"seed={seed}",
            f"search.study_name={self._options.study_name}",  # resolved, because a run's hash would differ
            f"search.trial={'null' if trial is None else trial}",
            f"hydra.sweep.subdir={_subfolder(seed, trial=trial, winner=winner)}",
        ]


def _fail(study: optuna.Study, trial: Trial, error: str) -> None:
    trial.set_user_attr("error", error)
    study.tell(trial, state=TrialState.FAIL)
    log.warning("trial %d failed and is skipped: %s", trial.number, error)


def _best(study: optuna.Study) -> tuple[int, float]:
    return study.best_trial.number, study.best_value


def _subfolder(seed: int, *, trial: int | None = None, winner: int | None = None) -> str:
    return f"trial-{trial:03d}/seed-{seed}" if winner is None else f"winner-{winner:03d}/seed-{seed}"


def _winner_of(finalists: Sequence[Mapping[str, Any]]) -> int:
    """Return the trial with the highest mean of those that are not worse than the first one, in the same episodes."""
    first, *others = finalists
    best = max(others, key=lambda each: each["difference"], default=None)
    ahead = best is not None and best["outcome"] != WORSE and best["difference"] > 0
    return int(best["trial"] if best is not None and ahead else first["trial"])
