"""How often intervals contain the truth, by simulation. `pytest -s -m slow` prints the tables of the documentation."""

import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm, sem, t

from ilt.evaluation.statistics import (
    interquartile_mean_interval,
    mean_interval,
    mean_interval_of_runs,
    mean_interval_of_runs_and_episodes,
)

N_EPISODES = 1000
KINDS = {"normal": 250.0, "rare crashes": 242.0, "skewed seeds": 240.0, "one seed in ten fails": 220.0}
"""Distributions of returns, with their means. The values are those of runs (R, 1), episodes (1, E) and noise (R, E)."""


def draw(kind: str, n_runs: int, rng: np.random.Generator) -> np.ndarray:
    """Return returns (R, E) of runs on the same episodes, with the mean that `KINDS` says."""
    runs, episodes = rng.normal(size=(n_runs, 1)), rng.normal(size=(1, N_EPISODES))
    noise = rng.normal(size=(n_runs, N_EPISODES))
    steady: np.ndarray = 250 + 20 * episodes + 20 * noise
    if kind == "normal":
        return steady + 5 * runs
    if kind == "rare crashes":  # of 2 % of the episodes, more of some runs and episodes; each costs 400
        crashed = 0.4 * runs + 0.4 * episodes + 0.68**0.5 * noise < norm.ppf(0.02)
        return 250 + 10 * episodes + 10 * noise - 400 * crashed
    if kind == "skewed seeds":
        return steady - 10 * rng.exponential(size=(n_runs, 1))
    return steady + 2 * runs - 300 * (rng.random((n_runs, 1)) < 0.1)


def students_t(values: np.ndarray) -> list[float]:
    """Return Student's interval over the means of runs."""
    low, high = t.interval(0.95, len(values) - 1, loc=values.mean(), scale=sem(values.mean(axis=1)))
    return [low, high]


def hierarchical_bootstrap(values: np.ndarray) -> list[float]:
    """Return the percentile interval of resampled runs, and resampled episodes of each: their mean is almost normal."""
    rng, n_runs = np.random.default_rng(0), len(values)
    chosen = rng.integers(n_runs, size=(500, n_runs))
    errors = rng.normal(size=chosen.shape) * (values.std(axis=1) / N_EPISODES**0.5)[chosen]
    low, high = np.quantile((values.mean(axis=1)[chosen] + errors).mean(axis=1), [0.025, 0.975])
    return [low, high]


METHODS = (hierarchical_bootstrap, students_t, mean_interval_of_runs_and_episodes)


def coverage(
    interval: Callable[[np.ndarray], list[float]], values: Callable[[np.random.Generator], np.ndarray], truth: float,
    n: int,
) -> float:  # fmt: skip
    """Return how often an interval of random values contains the truth, in percent."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(n):
        low, high = interval(values(rng))
        covered += low <= truth <= high
    return 100 * covered / n


def of_kind(interval: Callable[[np.ndarray], list[float]], kind: str, n_runs: int, n: int) -> float:
    return coverage(interval, lambda rng: draw(kind, n_runs, rng), KINDS[kind], n)


def test_an_interval_over_runs_and_episodes_covers_a_mean_of_rare_crashes_more_often_than_students_t() -> None:
    ours, plain = (of_kind(method, "rare crashes", 10, 300) for method in METHODS[::-2])
    assert plain < ours
    assert 89 <= ours <= 97


def show(name: str, cells: list[float]) -> None:
    sys.stdout.write(f"\n| {name} | {' | '.join(f'{cell:.1f} %' for cell in cells)} |\n")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_coverage_of_training_seeds_and_episodes(kind: str) -> None:
    cells = [of_kind(method, kind, n_runs, 1000) for n_runs in (5, 10, 20) for method in METHODS]
    show(kind, cells)
    ours = cells[2::3]
    if kind == "normal":
        assert all(93 <= each <= 97 for each in ours)
    elif kind != "one seed in ten fails":  # no data say what did not happen
        assert ours[0] >= 85
        assert all(90 <= each <= 97 for each in ours[1:])


SEEDS = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0, 0.0),
    "Student's t, 3 degrees of freedom": (lambda rng, n: rng.standard_t(3, size=n), 0.0, 0.0),
    "skewed (gamma)": (lambda rng, n: -rng.gamma(4.0, size=n), -4.0, -3.7302),
    "very skewed (exponential)": (lambda rng, n: -rng.exponential(size=n), -1.0, -0.7384),
}
"""Distributions of training seeds, with their mean and interquartile mean."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEEDS)
def test_coverage_of_training_seeds_alone(kind: str) -> None:
    values, mean, iqm = SEEDS[kind]
    assert iqm == pytest.approx(middle(kind), abs=0.01)
    cells = []
    for n_runs in (5, 10, 20):
        for interval, truth in ((students_t_of_runs, mean), (mean_interval_of_runs, mean), (IQM, iqm)):
            cells.append(coverage(interval, lambda rng, n=n_runs: values(rng, n), truth, 2000))  # type: ignore[misc]
    show(kind, cells)
    assert all(93 <= each <= 98 for each in cells[1::3] if kind != "very skewed (exponential)")
    assert min(cells[1::3]) >= 90


IQM = interquartile_mean_interval


def students_t_of_runs(values: np.ndarray) -> list[float]:
    return students_t(values[:, None])


def middle(kind: str) -> float:
    """Return the interquartile mean of a distribution."""
    values = np.sort(SEEDS[kind][0](np.random.default_rng(0), 400_000))
    return float(values[100_000:300_000].mean())


@pytest.mark.slow
@pytest.mark.parametrize("percent", [0.0, 0.2, 1.0, 5.0])
def test_coverage_of_episodes(percent: float) -> None:
    """Returns of a single run with a deviation of 20, and crashes that cost 400."""

    def returns(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.normal(250, 20, n) - 400 * (rng.random(n) < percent / 100)

    def bootstrap(values: np.ndarray) -> list[float]:
        return mean_interval(values, n_resamples=500)

    cells = [
        coverage(bootstrap, lambda rng, n=n: returns(rng, n), 250 - 4 * percent, 500)  # type: ignore[misc]
        for n in (100, 300, 1000)
    ]
    show(f"{percent:g} %", cells)
    assert cells[-1] >= 91
