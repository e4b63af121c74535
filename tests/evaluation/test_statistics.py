"""Intervals, performance and paired comparison, checked by hand."""

import numpy as np
import pytest
from scipy.stats import t

from ilt.data.episodes import Episodes
from ilt.evaluation.statistics import (
    compare,
    mean_interval,
    mean_interval_of_runs,
    mean_interval_of_runs_and_episodes,
    performance,
    summarize,
)
from ilt.rollout.metrics import episode_metrics
from tests.toys import countdown


def single_steps(*returns: float, first_seed: int = 3000) -> Episodes:
    """Return one-step episodes with these returns on consecutive seeds."""
    n = len(returns)
    return Episodes(
        observations=np.zeros((2 * n, 2), dtype=np.float32),
        actions=np.zeros(n, dtype=np.int64),
        rewards=np.array(returns, dtype=np.float64),
        lengths=np.ones(n, dtype=np.int64),
        terminated=np.ones(n, dtype=bool),
        truncated=np.zeros(n, dtype=bool),
        seeds=np.arange(first_seed, first_seed + n),
    )


def test_the_interval_is_reproducible_and_about_two_standard_errors_on_each_side() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    low, high = mean_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 400**0.5, rel=0.05)
    assert low < values.mean() < high
    np.random.default_rng().random(3)
    assert mean_interval(values) == [low, high]
    half = mean_interval(values, confidence=0.5)
    assert half[1] - half[0] < (high - low) / 2


def test_intervals_of_skewed_values_are_skewed_and_of_constants_have_no_width() -> None:
    values = np.array([*[200.0] * 45, *[-100.0] * 5])
    low, high = mean_interval(values)
    assert values.mean() - low > high - values.mean()
    for constant in ([7.0], [7.0, 7.0, 7.0]):
        assert mean_interval(np.array(constant)) == mean_interval_of_runs(np.array(constant)) == [7.0, 7.0]


@pytest.mark.parametrize(
    ("student", "expert", "random", "expected"),
    [(200.0, 200.0, -100.0, 1.0), (-100.0, 200.0, -100.0, 0.0), (260.0, 200.0, 0.0, 1.3), (5.0, 3.0, 3.0, None)],
)
def test_performance_by_hand(student: float, expert: float, random: float, expected: float | None) -> None:
    assert performance(student, expert, random) == expected


def test_a_summary_contains_metrics_and_the_interval_of_the_mean_return() -> None:
    episodes = single_steps(0.0, 2.0, 4.0, 6.0)
    summary = summarize(episodes, countdown())
    low, high = summary.pop("return_mean_interval")
    assert summary == {**episode_metrics(episodes, countdown()), "n_episodes": 4}
    assert 0.0 <= low < 3.0 < high <= 6.0


def test_a_comparison_is_paired_by_seed() -> None:
    student, expert = single_steps(1.0, 12.0, 20.0), single_steps(2.0, 10.0, 21.0)
    results = compare(student, {"expert": expert, "random": single_steps(0.0, 1.0, 2.0)}, countdown())
    means = [results[f"{name}return_mean"] for name in ("", "expert_", "random_")]
    assert (means, results["performance"]) == ([11.0, 11.0, 1.0], pytest.approx(1.0))
    difference = results["difference_to_expert"]  # −1, 2, −1: much less spread than the returns
    assert difference["mean"] == pytest.approx(0.0)
    assert -1.0 <= difference["interval"][0] < 0.0 < difference["interval"][1] <= 2.0
    assert set(results["policies"]) == {"expert", "random"}
    assert results["policies"]["expert"] == summarize(expert, countdown())


def test_without_an_expert_reference_scores_take_its_place() -> None:
    student, random = single_steps(1.0, 2.0, 3.0), single_steps(0.0, 0.0, 3.0)
    results = compare(student, {"random": random}, countdown())
    none = ("expert_return_mean", "performance", "performance_reference", "difference_to_expert")
    assert [results[name] for name in none] == [None] * 4
    assert results["random_return_mean"] == 1.0
    scores = {"min": -2.0, "max": 6.0}
    results = compare(student, {"random": random}, countdown(), reference_scores=scores)
    assert results["performance_reference"] == {"source": "dataset", "zero": -2.0, "one": 6.0}
    assert results["performance"] == 0.5
    results = compare(student, {"expert": student, "random": random}, countdown(), reference_scores=scores)
    assert results["performance_reference"] == {"source": "expert", "zero": 1.0, "one": 2.0}


@pytest.mark.parametrize("other", [single_steps(1.0, 2.0, first_seed=3001), single_steps(1.0)])
@pytest.mark.parametrize("name", ["expert", "random"])
def test_episodes_on_other_seeds_are_not_compared(name: str, other: Episodes) -> None:
    student = single_steps(1.0, 2.0)
    with pytest.raises(ValueError, match=f"student and {name} were not rolled out on the same seeds"):
        compare(student, {"expert": student, "random": student, name: other}, countdown())


def test_the_interval_over_runs_uses_students_t() -> None:
    low, high = mean_interval_of_runs(np.array([1.0, 2.0, 3.0]))  # t(0.975, 2) = 4.3027, s / sqrt(3) = 0.57735
    assert (low, high) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)


def test_the_interval_over_runs_and_episodes_by_hand() -> None:
    values = np.array([[0.0, 2.0], [2.0, 4.0]])  # means of runs 1, 3 and of episodes 1, 3: each has the variance 2
    half = float(t.ppf(0.975, 2)) * 2**0.5  # variance 2/2 + 2/2; 2² / (1 + 1) degrees of freedom
    assert mean_interval_of_runs_and_episodes(values) == pytest.approx([2 - half, 2 + half])
    assert mean_interval_of_runs_and_episodes(values.T) == pytest.approx([2 - half, 2 + half])


def test_the_interval_over_runs_and_episodes_of_one_run_or_one_episode() -> None:
    values = np.array([[1.0, 2.0, 5.0]])
    assert mean_interval_of_runs_and_episodes(values) == mean_interval(values[0])
    assert mean_interval_of_runs_and_episodes(values.T) == mean_interval_of_runs(values[0])
    assert mean_interval_of_runs_and_episodes(np.full((3, 4), 7.0)) == [7.0, 7.0]


@pytest.mark.parametrize(("of_runs", "of_episodes"), [(1.0, 1.0), (1.0, 10.0), (0.1, 5.0), (0.0, 5.0)])
def test_the_interval_over_runs_and_episodes_covers_the_mean_of_all_of_them(of_runs: float, of_episodes: float) -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        runs, episodes = rng.normal(0, of_runs, (5, 1)), rng.normal(0, of_episodes, (1, 50))
        low, high = mean_interval_of_runs_and_episodes(runs + episodes + rng.normal(0, 1.0, (5, 50)))
        covered += low <= 0 <= high
    assert 0.93 <= covered / 1000 <= 0.98
