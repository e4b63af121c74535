"""Intervals, performance and paired comparison, checked by hand."""

import numpy as np
import pytest
from scipy.stats import kstat, mannwhitneyu, skew, t, ttest_ind

from ilt.data.episodes import Episodes
from ilt.evaluation.statistics import (
    compare,
    cvar,
    difference_interval,
    interquartile_mean,
    interquartile_mean_interval,
    is_noninferior,
    mean_interval,
    mean_interval_of_runs,
    mean_interval_of_runs_and_episodes,
    performance,
    performance_profile,
    probability_of_improvement,
    rank_correlation,
    rate_bound,
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
    assert summary == {**episode_metrics(episodes, countdown()), "return_cvar05": 0.0, "n_episodes": 4}
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


A = np.array([[3.0, 10.0], [5.0, 8.0], [2.0, 12.0], [9.0, 7.0], [4.0, 11.0], [6.0, 9.0]])
B = np.array([[4.0, 9.0], [1.0, 13.0], [2.0, 8.0], [5.0, 5.0], [3.0, 14.0]])
"""Two policies: six and five runs on the same two episodes (in rliable's words, tasks)."""


def test_the_bootstrap_is_that_of_the_published_implementation() -> None:
    # `IIDBootstrap(values).conf_int(np.mean, 100_000, method="percentile")` of arch 7.2.0
    values = np.tile([3.0, 5, 2, 9, 4, 6, 1, 12, 7, 8], 5)
    assert mean_interval(values) == pytest.approx([4.82, 6.60], abs=0.03)


def test_an_interval_over_five_runs_and_more_reaches_further_to_the_long_tail() -> None:
    values = np.array([250.0, 260.0, 240.0, 250.0, -50.0])
    quantile, error = float(t.ppf(0.975, 4)), values.std(ddof=1) / 5**0.5
    skewness = float(skew(values, bias=False)) / 5**0.5
    assert skewness == pytest.approx(5**0.5 * float(kstat(values, 3)) / 5 / values.std(ddof=1) ** 3)
    extension = -skewness * (2 * quantile**2 + 1) / 6
    low, high = mean_interval_of_runs(values)
    assert [low, high] == pytest.approx([190 - (quantile + extension) * error, 190 + quantile * error])
    assert [low, high] == pytest.approx([-140, 357], abs=1)
    assert mean_interval_of_runs(-values) == pytest.approx([-high, -low])
    assert mean_interval_of_runs(10 * values + 3) == pytest.approx([10 * low + 3, 10 * high + 3])
    symmetric = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert sum(mean_interval_of_runs(symmetric)) == pytest.approx(6.0)


def test_an_interval_of_a_difference_over_runs_alone_is_that_of_welch() -> None:
    welch = ttest_ind(A[:, 0], B[:, 0], equal_var=False).confidence_interval(0.95)
    low, high = difference_interval(A[:, :1], B[:, :1])
    assert low == pytest.approx(welch.low)
    assert high > welch.high  # the runs of A have a long tail upwards
    few = ttest_ind(A[:4, 0], B[:3, 0], equal_var=False).confidence_interval(0.95)
    assert difference_interval(A[:4, :1], B[:3, :1]) == pytest.approx([few.low, few.high])


def test_an_interval_of_a_difference_is_paired_by_episode_and_covers_the_runs_of_both() -> None:
    values, reference = np.array([[1.0, 5.0], [3.0, 7.0]]), np.array([[0.0, 4.0], [0.0, 6.0]])
    half = float(t.ppf(0.975, 1.5**2 / (1 + 0.25**2 + 0.25**2))) * 1.5**0.5
    assert difference_interval(values, reference) == pytest.approx([1.5 - half, 1.5 + half])
    assert difference_interval(reference, values) == pytest.approx([-1.5 - half, -1.5 + half])
    hard = np.array([[0.0, 500.0]])  # an episode that is easy for both changes nothing
    assert difference_interval(values + hard, reference + hard) == pytest.approx([1.5 - half, 1.5 + half])
    assert difference_interval(values[:1], reference[:1]) == mean_interval(np.array([1.0, 1.0]))
    assert difference_interval(values, np.zeros((1, 2))) == mean_interval_of_runs_and_episodes(values)


@pytest.mark.parametrize(("n", "expected"), [(4, 6.5), (5, 29 / 3), (7, 18.0), (8, 21.5), (10, 199 / 6)])
def test_the_interquartile_mean_is_that_of_the_published_implementation(n: int, expected: float) -> None:
    # `aggregate_iqm` of rliable 1.2.0 over n runs of one task
    assert interquartile_mean(np.arange(n, 0, -1.0) ** 2) == pytest.approx(expected)


def test_the_interquartile_mean_is_one_of_runs_and_its_interval_comes_from_those_that_are_left() -> None:
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0
    values = np.array([-50.0, 240.0, 250.0, 250.0, 260.0])
    assert interquartile_mean(values) == pytest.approx(740 / 3)
    winsorized = np.array([240.0, 240.0, 250.0, 250.0, 250.0])
    half = float(t.ppf(0.975, 2)) * winsorized.std(ddof=1) / ((1 - 2 * 0.25) * 5**0.5)
    assert interquartile_mean_interval(values) == pytest.approx([740 / 3 - half, 740 / 3 + half])
    assert interquartile_mean_interval(np.array([7.0, 7.0, 7.0])) == [7.0, 7.0]
    assert interquartile_mean_interval(values[:1]) == [-50.0, -50.0]


def test_the_conditional_value_at_risk_is_that_of_its_definition_as_a_maximum() -> None:
    returns = np.array([3.0, -7, 12, 5, 0, 9, -2, 4, 8, 1, 6])
    for share in (0.05, 0.25, 0.5, 1.0):  # Rockafellar and Uryasev (2002), theorem 10
        maximum = max(value - np.maximum(value - returns, 0).mean() / share for value in returns)
        assert cvar(returns, share) == pytest.approx(maximum)
    assert cvar(np.arange(100.0)) == pytest.approx(2.0)
    assert cvar(np.arange(10.0), 0.25) == pytest.approx(0.8)
    normal = cvar(np.random.default_rng(0).normal(size=200_000))
    assert normal == pytest.approx(-2.0627, abs=0.02)  # −φ(1.645) / 0.05


def test_the_probability_of_improvement_is_that_of_the_published_implementation() -> None:
    # `probability_of_improvement` of rliable 1.2.0, over both tasks and in each
    assert probability_of_improvement(A, B)[0] == pytest.approx(0.6)
    assert probability_of_improvement(B, A)[0] == pytest.approx(0.4)
    for task, expected in ((0, 0.7333333), (1, 0.4666667)):
        probability, (low, high) = probability_of_improvement(A[:, [task]], B[:, [task]])
        assert probability == pytest.approx(expected)
        assert probability == pytest.approx(mannwhitneyu(A[:, task], B[:, task]).statistic / 30)
        assert 0 <= low < probability < high <= 1


def test_the_probability_of_improvement_of_single_runs_counts_episodes() -> None:
    values, reference = np.array([[3.0, 5.0, 9.0, 1.0]]), np.array([[2.0, 5.0, 10.0, 0.0]])
    assert probability_of_improvement(values, reference) == (0.625, mean_interval(np.array([1.0, 0.5, 0.0, 1.0])))
    assert probability_of_improvement(values, values) == (0.5, [0.5, 0.5])
    assert probability_of_improvement(values + 10, np.tile(reference, (3, 1))) == (1.0, [1.0, 1.0])


def test_a_performance_profile_is_that_of_the_published_implementation() -> None:
    # `create_performance_profile` of rliable 1.2.0
    expected = [1.0, 11 / 12, 0.75, 2 / 3, 0.25, 0.0]
    assert performance_profile(A, np.array([0.0, 2.0, 4.0, 5.0, 9.0, 14.0])) == pytest.approx(expected)
    assert performance_profile(np.array([1.0, 2.0]), np.array([1.0])).tolist() == [0.5]


def test_the_rank_correlation_and_its_interval_by_hand() -> None:
    x, y = np.arange(1.0, 7), np.array([1.0, 3, 2, 4, 6, 5])
    rho, interval = rank_correlation(x, y)
    assert rho == pytest.approx(1 - 6 * 4 / (6 * 35))  # four ranks differ by one
    error = 1.959964 * ((1 + rho**2 / 2) / 3) ** 0.5
    assert interval == pytest.approx([np.tanh(np.arctanh(rho) - error), np.tanh(np.arctanh(rho) + error)])
    assert rank_correlation(x, x**2) == (1.0, [1.0, 1.0])
    assert rank_correlation(x[:4], y[:4]) == rank_correlation(x, np.ones(6)) == (None, None)


def test_a_policy_is_non_inferior_if_its_interval_excludes_the_margin() -> None:
    assert is_noninferior([-3.0, 0.5], 5.0)
    assert not is_noninferior([-3.0, 0.5], 3.0)
    assert is_noninferior([1.0, 9.0], 0.5)


@pytest.mark.parametrize(
    ("successes", "n", "bound"),
    [(5, 5, 0.5493), (20, 20, 0.8609), (19, 20, 0.7839), (8, 10, 0.4931), (0, 5, 0.0), (1000, 1000, 0.9970)],
)
def test_the_bound_of_a_rate_is_exact(successes: int, n: int, bound: float) -> None:
    """Quantiles of the beta distribution (Clopper and Pearson 1934); those of all successes are 0.05^(1/n)."""
    assert rate_bound(successes, n) == pytest.approx(bound, abs=1e-4)
    if successes == n:
        assert rate_bound(n, n, confidence=0.9) == pytest.approx(0.1 ** (1 / n))
