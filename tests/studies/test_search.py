"""Hyperparameter searches: their trials, outcomes, reports, and resuming after a kill."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from filelock import FileLock
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ilt.cli.search_space import parse_space
from ilt.cli.train import main
from ilt.schema import ConfigError
from ilt.settings import check_config
from ilt.studies import search_report
from ilt.studies.optuna_study import open_study, reporter
from ilt.studies.search import Outcome, Search
from ilt.tracking.reading import UnreadableFileError
from tests.studies import toy_search
from tests.tracking.hostile_files import REPLACEMENTS

RATE = "optimizer.learning_rate"
TWO_KEYS = {RATE: FloatDistribution(1e-4, 1e-1, log=True), "model.dropout": FloatDistribution(0.0, 0.5)}
figures_of_search = search_report.figures_of_search


Task = Callable[[DictConfig, Path], float | None]
"""Executes a run with this config in this folder; `search.trial` is None for runs of the winner."""


class WorkerKilledError(Exception):
    """Raised by a launcher when a worker process dies."""


def train(cfg: DictConfig, folder: Path) -> float:
    """Return a score that is best at a learning rate of 0.003 and differs slightly between seeds."""
    value = -abs(math.log10(cfg.optimizer.learning_rate / 0.003)) + 0.01 * cfg.seed
    toy_search.leave_traces(cfg, folder, value)
    return value


@cache
def composed() -> DictConfig:
    with initialize_config_module("ilt.conf", version_base="1.3"):
        return compose("train", ["sweep=optuna", "run_name=any"])


def as_in_the_search(runs: Mapping[int, Sequence[Path]]) -> list[dict[str, Any]]:
    """Stand in for evaluating finalists: none can be distinguished from the one with the highest value."""
    same = {"difference": 0.0, "interval": [-1.0, 1.0], "outcome": "undecided"}
    own = [{"trial": trial, "episodes": 100, "return": 5.0} for trial in runs]
    return [own[0], *(each | same for each in own[1:])]


def search(
    folder: Path,
    task: Task = train,
    *,
    space: dict[str, Any] | None = None,
    evaluate: Callable[..., list[dict[str, Any]]] = as_in_the_search,
    **changes: Any,
) -> dict[str, Any]:
    """Search over the learning rate with a task in place of training."""
    cfg = composed().copy()
    for key, value in changes.items():
        key = key.replace("__", ".") if "__" in key or key in cfg else f"search.{key}"
        OmegaConf.update(cfg, key, value, merge=False)
    check_config(cfg)
    folder.mkdir(parents=True, exist_ok=True)

    def outcome(overrides: Sequence[str]) -> Outcome:
        options = dict(override.split("=", 1) for override in overrides)
        own, subfolder = cfg.copy(), options.pop("hydra.sweep.subdir")
        own.merge_with_dotlist([f"{key}={value}" for key, value in options.items()])
        try:
            return task(own, folder / subfolder)
        except WorkerKilledError:
            raise
        except Exception as error:
            return error

    space = space or {RATE: FloatDistribution(1e-4, 1e-1, log=True)}
    return Search(cfg, space, [], folder, lambda batch: [outcome(overrides) for overrides in batch], evaluate).run()


def multirun(task: Callable[[DictConfig], float | None], *overrides: str) -> dict[str, Any]:
    """Run `ilt train -m sweep=optuna …` in this process with another task."""
    quiet = ["hydra.job_logging.root=null", "hydra.hydra_logging.root=null"]
    before = HydraConfig.instance().cfg
    try:
        with initialize_config_module("ilt.conf", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            return hydra.multirun("train", task, ["sweep=optuna", *overrides, *quiet], with_log_configuration=False)
    finally:
        HydraConfig.instance().cfg = before


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the figures: they are slow, and only one test needs them."""
    monkeypatch.setattr(search_report, "figures_of_search", lambda study: {})


def starts(folder: Path) -> dict[str, int]:
    """Return how often each run was started."""
    return {f"{p.parts[-3]}/{p.parts[-2]}": len(p.read_text().split()) for p in folder.glob("*/*/starts.txt")}


def states(found: dict[str, Any]) -> list[str]:
    return [trial["state"] for trial in found["trials"]]


def rates(found: dict[str, Any]) -> list[float]:
    return [trial["params"][RATE] for trial in found["trials"]]


def study_in(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'study.db'}")


def killed_in(trial: int, seed: int, *, times: int = 1) -> Task:
    """Return a task that is killed `times` times in one trial and seed."""
    left = iter(range(times))

    def task(cfg: DictConfig, folder: Path) -> float:
        value = train(cfg, folder)
        if (cfg.search.trial, cfg.seed) == (trial, seed) and next(left, None) is not None:
            raise KeyboardInterrupt
        return value

    return task


def worse_and_worse(cfg: DictConfig, folder: Path) -> float | None:
    """Make each trial worse than the previous one, and report that at two steps."""
    train(cfg, folder)
    report, trial = reporter(cfg, folder.parents[1]), cfg.search.trial or 0
    if report is not None and any(report(step - 100.0 * trial, step) for step in (10, 20)):
        return None
    return 20 - 100.0 * trial


def fail_some(cfg: DictConfig, folder: Path) -> float:
    """Fail at the second seed of the second trial; return NaN in the third trial."""
    if (report := reporter(cfg, folder.parents[1])) is not None:
        report(1.0, 10)
    if (cfg.search.trial, cfg.seed) == (1, 1):
        raise ValueError("a pipe | in a message")
    return float("nan") if cfg.search.trial == 2 else train(cfg, folder)


def test_the_trial_with_the_best_mean_over_seeds_is_retrained_from_fresh_seeds(tmp_path: Path) -> None:
    found = search(tmp_path, n_trials=4, fresh_seeds=[7, 8])
    assert states(found) == ["complete"] * 4
    for trial in found["trials"]:
        assert len(trial["returns"]) == 3
        assert trial["value"] == pytest.approx(np.mean(trial["returns"]))
    winner = found["winner"]
    assert winner["value"] == max(trial["value"] for trial in found["trials"])
    assert found["retrained"]["runs"] == [f"winner-{winner['trial']:03d}/seed-{seed}" for seed in (7, 8)]
    assert found["retrained"]["return_mean"] == pytest.approx(np.mean(found["retrained"]["return_means"]))
    low, high = found["retrained"]["return_mean_interval"]
    assert low < found["retrained"]["return_mean"] < high
    trials = {f"trial-{trial:03d}/seed-{seed}": 1 for trial in range(4) for seed in range(3)}
    assert starts(tmp_path) == trials | dict.fromkeys(found["retrained"]["runs"], 1)
    assert {path.parts[-3] for path in tmp_path.glob("*/*/results.json")} == {f"winner-{winner['trial']:03d}"}


def test_the_report_contains_text_numbers_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_report, "figures_of_search", figures_of_search)
    found = search(tmp_path, fail_some, n_trials=4)
    assert states(found) == ["complete", "fail", "fail", "complete"]
    assert found["trials"][1]["error"] == "ValueError: a pipe | in a message"
    assert found["winner"]["trial"] in (0, 3)
    assert json.loads((tmp_path / "search.json").read_text()) == found
    words = (tmp_path / "search.md").read_text()
    assert "4 trials: 2 complete, 2 fail." in words
    assert f"## The winner: trial {found['winner']['trial']}" in words
    assert "a pipe \\| in a message" in words
    assert f"**{found['retrained']['return_mean']:.1f}**" in words
    assert "all 3 seeds" in words
    for name in ("history", "importances", "slices", "reports"):
        assert f"![{name}]({name}.png)" in words
        assert (tmp_path / f"{name}.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("difference", "outcome", "wins"),
    [(2.0, "better", True), (2.0, "undecided", True), (-2.0, "undecided", False), (-2.0, "worse", False)],
)
def test_the_winner_is_the_best_finalist(difference: float, outcome: str, wins: bool, tmp_path: Path) -> None:
    asked = []

    def evaluate(runs: Mapping[int, Sequence[Path]]) -> list[dict[str, Any]]:
        asked.append({trial: [path.name for path in paths] for trial, paths in runs.items()})
        found = as_in_the_search(runs)
        found[1] |= {"difference": difference, "outcome": outcome}
        return found

    found = search(tmp_path, evaluate=evaluate, n_trials=4, finalists=2)
    ranked = sorted(found["trials"], key=lambda trial: -trial["value"])
    assert asked == [{trial["trial"]: ["seed-0", "seed-1", "seed-2"] for trial in ranked[:2]}]
    assert found["winner"]["trial"] == ranked[int(wins)]["trial"]
    words = (tmp_path / "search.md").read_text()
    assert f"| {ranked[1]['trial']} | 100 | 5.0 | {difference:+.1f} | -1.0 … 1.0 | {outcome} |" in words
    assert search(tmp_path, evaluate=evaluate, n_trials=4, finalists=2)["winner"] == found["winner"]
    assert len(asked) == 1  # a finished search knows its finalists


def test_one_finalist_wins_without_another_episode(tmp_path: Path) -> None:
    def evaluate(runs: Mapping[int, Sequence[Path]]) -> list[dict[str, Any]]:
        raise AssertionError

    found = search(tmp_path, evaluate=evaluate, n_trials=3, finalists=1)
    assert found["winner"]["value"] == max(trial["value"] for trial in found["trials"])
    assert found["finalists"] == [{"trial": found["winner"]["trial"]}]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_is_extended_to_a_total_and_repeats_no_trial(tmp_path: Path, sampler: str) -> None:
    first = search(tmp_path, n_trials=2, sampler=sampler)
    assert search(tmp_path, n_trials=2, sampler=sampler) == first
    found = search(tmp_path, n_trials=5, sampler=sampler)
    assert found["trials"][:2] == first["trials"]
    assert len(set(rates(found))) == 5
    assert {n for run, n in starts(tmp_path).items() if run.startswith("trial")} == {1}
    assert set(found["scored_on_test_seeds"]) == {first["winner"]["trial"], found["winner"]["trial"]}


def test_a_killed_search_resumes_the_interrupted_trial(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, killed_in(1, 2), n_trials=3)
    interrupted = study_in(tmp_path).trials
    assert [trial.state.name for trial in interrupted] == ["COMPLETE", "RUNNING"]
    found = search(tmp_path, n_trials=3)
    assert states(found) == ["complete"] * 3
    assert rates(found)[1] == interrupted[1].params[RATE]
    assert starts(tmp_path)["trial-001/seed-2"] == 2
    assert starts(tmp_path)["trial-000/seed-2"] == 1


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("killed", [[(0, 0)], [(0, 2), (1, 1)], [(2, 0), (3, 0), (3, 2)]])
def test_a_killed_search_draws_what_an_undisturbed_one_does(
    killed: list[tuple[int, int]], sampler: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"space": TWO_KEYS, "n_trials": 5, "startup_trials": 2, "sampler": sampler}
    expected = search(tmp_path / "undisturbed", **options)
    for place in killed:
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path / "killed", killed_in(*place), **options)
    found = search(tmp_path / "killed", **options)
    assert [trial["params"] for trial in found["trials"]] == [trial["params"] for trial in expected["trials"]]


def test_a_search_killed_while_it_draws_a_trial_draws_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"space": TWO_KEYS, "n_trials": 3}
    expected = search(tmp_path / "undisturbed", **options)
    suggest = optuna.trial.Trial._suggest

    def killed(trial: optuna.trial.Trial, name: str, distribution: Any) -> Any:
        if (trial.number, name) == (1, "model.dropout"):
            raise KeyboardInterrupt
        return suggest(trial, name, distribution)

    monkeypatch.setattr(optuna.trial.Trial, "_suggest", killed)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "killed", **options)
    assert list(study_in(tmp_path / "killed").trials[1].params) == [RATE]
    monkeypatch.undo()
    found = search(tmp_path / "killed", **options)
    assert [trial["params"] for trial in found["trials"]] == [trial["params"] for trial in expected["trials"]]


def test_a_trial_that_is_killed_repeatedly_is_skipped(tmp_path: Path) -> None:
    task = killed_in(0, 0, times=3)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, task, n_trials=2)
    found = search(tmp_path, task, n_trials=2)
    assert states(found) == ["fail", "complete"]
    assert found["trials"][0]["error"] == "interrupted 3 times"


def test_a_search_with_only_failed_trials_has_no_winner(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="none of the 2 trials"):
        search(tmp_path, lambda cfg, folder: 1 / 0, n_trials=2)


def test_a_trial_below_the_median_at_its_first_seed_is_pruned(tmp_path: Path) -> None:
    found = search(tmp_path, worse_and_worse, n_trials=4, startup_trials=2)
    assert states(found) == ["complete", "complete", "pruned", "pruned"]
    assert found["trials"][2]["value"] == 10 - 200
    assert {run for run in starts(tmp_path) if run.startswith("trial-002")} == {"trial-002/seed-0"}
    assert "2 complete, 2 pruned" in (tmp_path / "search.md").read_text()
    unpruned = search(tmp_path / "unpruned", worse_and_worse, n_trials=3, startup_trials=1, pruning=False)
    assert states(unpruned) == ["complete"] * 3


def test_a_failing_launcher_loses_one_batch_and_ends_the_search_only_if_it_fails_twice_in_a_row(tmp_path: Path) -> None:
    def task(cfg: DictConfig, folder: Path) -> float:
        if cfg.search.trial in killing:
            raise WorkerKilledError("out of memory")
        return train(cfg, folder)

    killing = [0, 2]
    found = search(tmp_path / "now and then", task, n_trials=4)
    assert states(found) == ["fail", "complete", "fail", "complete"]
    assert found["trials"][2]["error"] == "WorkerKilledError: out of memory"
    killing = [1, 2]
    with pytest.raises(WorkerKilledError):
        search(tmp_path / "twice", task, n_trials=4)


@pytest.mark.parametrize("name", ["who?", "a#b%41", "{c}", "d e&f=g"])
def test_a_study_is_stored_in_its_folder_whatever_its_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    search = {"sampler": "random", "seed": 0, "startup_trials": 1}
    for n_trials in (0, 1):
        study = open_study(OmegaConf.create({"search": search}), folder)
        assert len(study.trials) == n_trials
        study.ask()
    assert [path.name for path in folder.iterdir()] == ["study.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("how", ["a FIFO", "a folder", "a device", "cut short"])
def test_a_damaged_study_is_named(how: str, tmp_path: Path) -> None:
    REPLACEMENTS[how](tmp_path / "study.db")
    with pytest.raises(UnreadableFileError, match=r"study\.db cannot be used: "):
        open_study(OmegaConf.create({"search": {"sampler": "random", "seed": 0, "startup_trials": 1}}), tmp_path)


def test_a_folder_is_for_one_search_and_one_process_at_a_time(tmp_path: Path) -> None:
    search(tmp_path, n_trials=1)
    with pytest.raises(ValueError, match=r"contains another search \(search.space differ\); give this one its own"):
        search(tmp_path, n_trials=1, space={RATE: FloatDistribution(1e-4, 1e-2)})
    search(tmp_path, n_trials=1, evaluation__video=False, evaluation__n_episodes=7, n_envs=3)  # still the same search
    with pytest.raises(ValueError, match=r"contains another search \(model, search.seeds differ\)"):
        search(tmp_path, n_trials=1, model__n_layer=1, seeds=[0, 1, 2, 3])
    with FileLock(tmp_path / ".search.lock"), pytest.raises(RuntimeError, match="another process is searching in"):
        search(tmp_path, n_trials=2)


@pytest.mark.slow
def test_trials_run_in_parallel_through_the_launcher(tmp_path: Path) -> None:
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "search.trials_at_once=2"]
    options = ["search.n_trials=2", "search.fresh_seeds=[9]", "search.finalists=1", f"hydra.sweep.dir={tmp_path}"]
    found = multirun(toy_search.train_in_company, *options, *parallel)
    assert states(found) == ["complete"] * 2
    assert len(set(rates(found))) == 2


def test_an_unknown_key_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigCompositionException, match=r"model\.dropuot"):
        multirun(toy_search.train, f"hydra.sweep.dir={tmp_path / 'sweep'}", "model.dropuot=interval(0, 0.1)")
    assert not (tmp_path / "sweep").exists()


def test_a_search_trains_and_scores_real_models(tmp_path: Path) -> None:
    small = ["experiment=smoke", f"outputs={tmp_path}", "evaluation.video=false", "demos.n_episodes=3"]
    small += ["demos.n_validation_episodes=1", "trainer.max_steps=4", "trainer.val_check_interval=2"]
    small += ["evaluation.n_episodes=2", "callbacks.rollout.n_episodes=2", "search.fresh_seeds=[5]"]
    searched = ["search.n_trials=2", "search.study_name=sweep", "search.space=null", "model.dropout=interval(0, 0.1)"]
    found = multirun(main.__wrapped__, *small, *searched, "search.pruning=false", "search.finalist_episodes=3")
    folder = tmp_path / "multirun" / "sweep"
    assert states(found) == ["complete"] * 2
    assert [each["episodes"] for each in found["finalists"]] == [3, 3]
    assert found["retrained"]["evaluated_on"] == {"block": "test", "offset": 0, "count": 2}
    assert not [*folder.glob("trial-*/*/results.json"), *folder.glob("trial-*/*/episodes.csv")]
    assert len(list(folder.glob("trial-000/*/weights/last.safetensors"))) == 3


def parsed(space: dict[str, str] | None, *arguments: str) -> tuple[dict[str, Any], list[str]]:
    return parse_space(space, arguments, OverridesParser.create())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0, 0.5)", FloatDistribution(0, 0.5)),
        ("tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
        ("int(interval(1, 4))", IntDistribution(1, 4)),
        ("tag(log, int(interval(8, 128)))", IntDistribution(8, 128, log=True)),
        ("range(1, 5)", IntDistribution(1, 4)),
        ("range(2, 9, 3)", IntDistribution(2, 8, step=3)),
        ("range(0, 1, 0.25)", FloatDistribution(0, 0.75, step=0.25)),
        ("choice(2, 4, 8)", CategoricalDistribution([2, 4, 8])),
        ("tiny,small", CategoricalDistribution(["tiny", "small"])),
        ("choice([0.9,0.95], [0.9,0.99])", CategoricalDistribution(["[0.9,0.95]", "[0.9,0.99]"])),
        ("choice(true, false)", CategoricalDistribution([True, False])),
    ],
)
def test_hydra_sweeps_become_distributions(text: str, expected: Any) -> None:
    assert parsed({"key": text}) == ({"key": expected}, [])


def test_the_command_line_overrides_the_search_space() -> None:
    space = {"model.dropout": "interval(0, 0.2)", "model": "choice(tiny, small)", "dataset.stride": "range(1, 3)"}
    found, fixed = parsed(space, "model.dropout=interval(0, 0.9)", "model=base", "demos.n_episodes=50")
    assert found == {"model.dropout": FloatDistribution(0, 0.9), "dataset.stride": IntDistribution(1, 2)}
    assert fixed == ["model=base", "demos.n_episodes=50"]


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        (None, [], "search.space must contain something to search over"),
        ({"model": "choice(tiny, small)"}, ["model=tiny"], "search.space must contain something to search over"),
        ({"model.dropout": "0.1"}, [], "search.space must contain sweeps such as interval"),
        ({"model": "choice(tiny, small)"}, ["seed=0,1"], "seed is set by search.seeds"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(space: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parsed(space, *arguments)
