"""Confidence intervals and other statistics of returns, and a student's performance relative to its expert.

Arrays of returns are (R, E): R training runs on the same E test episodes. A run is one training seed.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest, bootstrap, norm, spearmanr, t, trim_mean
from scipy.stats.mstats import trimmed_mean_ci

from ilt.tracking.run_folder import performance_reference

if TYPE_CHECKING:
    from ilt.data.episodes import Episodes
    from ilt.envs.spec import EnvSpec


def mean_interval(values: np.ndarray, *, confidence: float = 0.95, n_resamples: int = 10_000) -> list[float]:
    """Return the percentile bootstrap interval [low, high] of the mean of (E,) values, with a fixed seed."""
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(values.mean())] * 2
    interval = bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=n_resamples,
        batch=1000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def mean_interval_of_runs(values: np.ndarray, *, confidence: float = 0.95) -> list[float]:
    """Return an interval [low, high] of the mean of (n,) runs: Student's t, extended towards the long tail.

    A few bad runs pull the mean down and say that there may be more of them. From five runs on, the interval therefore
    reaches further to the side of the longer tail, by the skewness term of the Cornish–Fisher expansion of Student's
    statistic (Johnson 1978, "Modified t tests and confidence intervals for asymmetrical populations", JASA 73(363)).
    The other side is not shortened, and three or four values say too little about their skewness.

    Example:
        `mean_interval_of_runs(np.array([1.0, 2.0, 3.0]))` is [−0.48, 4.48], 2 ± 4.30 · 0.58. For returns of 250, 260,
        240, 250 and a failure at −50, Student's t gives [23, 357], and the extended interval is [−140, 357].
    """
    return _interval(float(values.mean()), [values], confidence)


def mean_interval_of_runs_and_episodes(values: np.ndarray, *, confidence: float = 0.95) -> list[float]:
    """Return an interval [low, high] of the mean of (R, E) values of R runs on the same E episodes.

    Both runs and episodes are random samples: another training seed, or other test episodes, would give another mean.
    The variance is that of the means of runs plus that of the means of episodes, a slight overestimate (Owen 2007, "The
    pigeonhole bootstrap", section 3); Student's t has the degrees of freedom of Satterthwaite (1946), and is extended
    as in `mean_interval_of_runs`. The interval of a single run is over its episodes, see `mean_interval`.

    Example:
        For [[0, 2], [2, 4]], the means of runs are 1 and 3, and so are those of episodes. The variance of the mean is
        2/2 + 2/2, with two degrees of freedom: the interval is [−4.08, 8.08].
    """
    return difference_interval(values, np.zeros((1, values.shape[1])), confidence=confidence)


def difference_interval(values: np.ndarray, reference: np.ndarray, *, confidence: float = 0.95) -> list[float]:
    """Return an interval [low, high] of the mean difference between (R, E) and (S, E) values on the same E episodes.

    Differences are paired by episode, so the luck of an episode cancels. The variance is the sum of those of the means
    of both policies' runs (as in Welch's test) and of the differences of episodes; otherwise, the interval is that of
    `mean_interval_of_runs_and_episodes`. A policy with a single run is taken as it is: nothing is known about its other
    training seeds. For two single runs, the interval is a bootstrap over episodes.

    Example:
        For [[1, 5], [3, 7]] against [[0, 4], [0, 6]], the means of runs are 3 and 5 against 2 and 3, and the episodes'
        differences 2 and 1. The variance is 2/2 + 0.5/2 + 0.5/2, with two degrees of freedom, so the interval of the
        difference of 1.5 is [−3.77, 6.77].
    """
    paired = values.mean(axis=0) - reference.mean(axis=0)
    if len(values) == len(reference) == 1:
        return mean_interval(paired, confidence=confidence)
    parts = [values.mean(axis=1), -reference.mean(axis=1), paired]
    return _interval(float(paired.mean()), parts, confidence)


def _interval(mean: float, parts: Sequence[np.ndarray], confidence: float) -> list[float]:
    """Return the interval of an estimate whose error is the sum of those of the means of independent samples.

    A sample of one value has no error. With the skewness s of the estimate and the quantile q of Student's t, the end
    on the side of the longer tail is q + |s| (2q² + 1) / 6 errors away, and the other one q.
    """
    parts = [part for part in parts if len(part) > 1 and np.ptp(part) > 0]
    variances = np.array([part.var(ddof=1) / len(part) for part in parts])
    variance = variances.sum()
    if variance == 0:
        return [mean, mean]
    freedom = variance**2 / np.sum(variances**2 / np.array([len(part) - 1 for part in parts]))
    quantile = t.ppf((1 + confidence) / 2, freedom)
    third = sum(_third_cumulant(part) / len(part) ** 2 for part in parts if len(part) >= 5)
    skewness = third / variance**1.5
    extension = skewness * (2 * quantile**2 + 1) / 6
    error = variance**0.5
    return [
        float(mean - (quantile + max(-extension, 0)) * error),
        float(mean + (quantile + max(extension, 0)) * error),
    ]


def _third_cumulant(values: np.ndarray) -> float:
    """Return the unbiased estimate of the third cumulant of (n,) values, as `scipy.stats.kstat`, which is slow."""
    n = len(values)
    return float(np.sum((values - values.mean()) ** 3)) * n / ((n - 1) * (n - 2))


def interquartile_mean(values: np.ndarray) -> float:
    """Return the mean of (n,) runs without the best and the worst quarter, rounded down (the IQM of rliable).

    Its values are runs, never pooled episodes: one crash in five episodes would not be seen at all. With fewer than
    four runs, it is the mean.

    Example:
        `interquartile_mean(np.array([-50.0, 240.0, 250.0, 250.0, 260.0]))` is 246.7; the mean is 190.

    Source: Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS.
    """
    return float(trim_mean(values, 0.25))


def interquartile_mean_interval(values: np.ndarray, *, confidence: float = 0.95) -> list[float]:
    """Return the interval [low, high] of the interquartile mean of (n,) runs.

    It is that of Tukey and McLaughlin (1963), "Less vulnerable confidence and significance procedures for location", as
    in SciPy: the error comes from the Winsorized variance, and Student's t has the degrees of freedom of the runs that
    are left.

    Example:
        `interquartile_mean_interval(np.array([3.0, 5, 2, 9, 4, 6, 1, 12, 7, 8]))` is [1.97, 9.03].
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(values.mean())] * 2
    low, high = trimmed_mean_ci(values, limits=(0.25, 0.25), alpha=1 - confidence)
    return [float(low), float(high)]


def cvar(returns: np.ndarray, share: float = 0.05) -> float:
    """Return the mean of the worst `share` of (E,) returns: their conditional value at risk.

    If `share` · E is no integer, the last of these returns has the weight that is left, as in Rockafellar and Uryasev
    (2002), "Conditional value-at-risk for general loss distributions", J. Banking & Finance 26(7). The fifth
    percentile says where the worst twentieth of the episodes begins; this says how bad it is.

    Example:
        `cvar(np.arange(100.0))` is 2, the mean of 0 to 4. `cvar(np.arange(10.0), 0.25)` is (0 + 1 + 2/2) / 2.5 = 0.8.
    """
    worst = share * len(returns)
    weights = np.clip(worst - np.arange(len(returns)), 0, 1)
    return float(np.sort(returns) @ weights / worst)


def probability_of_improvement(
    values: np.ndarray, reference: np.ndarray, *, confidence: float = 0.95
) -> tuple[float, list[float]]:
    """Return P(value > reference value) of (R, E) and (S, E) values on the same E episodes, and its interval.

    A run of the policy and one of the reference are drawn, and one of the episodes; ties count half. This is the
    probability of improvement of rliable (Agarwal et al. 2021), with episodes in place of its tasks. For single numbers
    of each run, such as mean returns, pass (R, 1) and (S, 1): the Mann–Whitney U statistic divided by R · S. The
    interval covers runs and episodes as `difference_interval` does.

    Example:
        With runs of 3, 5 and 9 against 4 and 5, three pairs are won, one is tied, and the probability is 3.5 / 6.
    """
    by_run, of_reference = np.zeros(values.shape), np.zeros(reference.shape)
    for run, earned in enumerate(reference):
        won = (values > earned) + 0.5 * (values == earned)
        by_run += won / len(reference)
        of_reference[run] = won.mean(axis=0)
    paired = by_run.mean(axis=0)
    if len(values) == len(reference) == 1:
        interval = mean_interval(paired, confidence=confidence)
    else:
        parts = [by_run.mean(axis=1), of_reference.mean(axis=1), paired]
        interval = np.clip(_interval(float(paired.mean()), parts, confidence), 0, 1).tolist()
    return float(paired.mean()), interval


def performance_profile(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return the fraction (n,) of the values, of any shape, that are above each of (n,) thresholds.

    With one value for each run and environment, it is the score distribution of rliable (Agarwal et al. 2021). Where
    one curve is above another everywhere, its policy is better at every quantile.

    Example:
        `performance_profile(np.array([[0.2, 0.9], [0.8, 1.0]]), np.array([0.5, 0.9]))` is [0.75, 0.25].
    """
    fraction: np.ndarray = (values.reshape(-1, 1) > thresholds).mean(axis=0)
    return fraction


def rank_correlation(
    x: np.ndarray, y: np.ndarray, *, confidence: float = 0.95
) -> tuple[float, list[float]] | tuple[None, None]:
    """Return Spearman's rank correlation of (n,) pairs, and its interval [low, high].

    The interval is that of Fisher's transformation, with the variance of Bonett and Wright (2000), "Sample size
    requirements for estimating Pearson, Kendall and Spearman correlations", Psychometrika 65(1). With fewer than five
    pairs, or if all values of x or of y are equal, there is neither.

    Example:
        For x of 1 to 6 and y of 1, 3, 2, 4, 6, 5, it is 0.886 with the interval [0.07, 0.99].
    """
    n = len(x)
    if n < 5 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, None
    rho = float(spearmanr(x, y).statistic)
    if abs(rho) > 1 - 1e-12:
        return rho, [rho, rho]
    error = float(norm.ppf((1 + confidence) / 2)) * ((1 + rho**2 / 2) / (n - 3)) ** 0.5
    return rho, np.tanh([np.arctanh(rho) - error, np.arctanh(rho) + error]).tolist()


def is_noninferior(interval: Sequence[float], margin: float) -> bool:
    """Return whether an interval [low, high] of a difference from a reference excludes losses of `margin` or more.

    The margin must be given before the results are seen. The test is one-sided; with a 95 % interval, it finds a policy
    non-inferior that loses exactly `margin` with a probability of 2.5 % (ICH E9, "Statistical principles for clinical
    trials", section 3.3.2).

    Example:
        A difference of −1.2 with the interval [−3.0, 0.5] is non-inferior by a margin of 5, and not by one of 3.
    """
    return interval[0] > -margin


def rate_bound(successes: int, n: int, *, confidence: float = 0.95) -> float:
    """Return the exact lower bound of a rate of which `successes` of `n` were seen (Clopper and Pearson 1934).

    It is one-sided. If all succeed, it is (1 − confidence)^(1/n). The upper bound of a rate of failures is one minus
    the bound of the successes.

    Example:
        `rate_bound(5, 5)` is 0.549 and `rate_bound(20, 20)` is 0.861: if all of twenty training seeds reach the bar, at
        least 86 % of all training seeds do. `1 - rate_bound(1000, 1000)` is 0.003, the "rule of three".
    """
    test = binomtest(successes, n, alternative="greater")
    return float(test.proportion_ci(confidence, method="exact").low)


def interval_of(means: Sequence[float], own: Sequence[float]) -> Sequence[float]:
    """Return the interval of the mean over several runs, or for a single run, its `own` interval over episodes."""
    return mean_interval_of_runs(np.array(means)) if len(means) > 1 else own


def mean_rate(rates: Sequence[float | None]) -> float | None:
    """Return the mean of the rates that are not None, or None if all are None."""
    known = [rate for rate in rates if rate is not None]
    return fmean(known) if known else None


def summarize(episodes: "Episodes", spec: "EnvSpec") -> dict[str, Any]:
    """Return the metrics of a set of episodes, with the interval of their mean return and the mean of the worst 5 %."""
    from ilt.rollout.metrics import episode_metrics  # imports torch, which the other functions do not need

    return {
        **episode_metrics(episodes, spec),
        "return_mean_interval": mean_interval(episodes.returns),
        "return_cvar05": cvar(episodes.returns),
        "n_episodes": len(episodes),
    }


def data_set_reference(scores: Mapping[str, float]) -> dict[str, Any]:
    """Return the returns at which performance is 0 and 1, as a data set's reference scores `min` and `max` say."""
    return {"source": "dataset", "zero": scores["min"], "one": scores["max"]}


def performance(student: float, expert: float, random: float) -> float | None:
    """Return (R − R_random) / (R_expert − R_random): 0 for random, 1 for the expert; None if the two are equal."""
    return None if expert == random else (student - random) / (expert - random)


NOT_SCORED: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            "return_mean", "return_std", "return_median", "return_p05", "success_rate", "crash_rate",
            "truncation_rate", "length_mean", "return_mean_interval", "return_cvar05",
        )
    ),
    "n_episodes": 0,
    **dict.fromkeys(("expert_return_mean", "random_return_mean", "performance", "performance_reference")),
    "difference_to_expert": None,
    "policies": {},
}  # fmt: skip
"""What `compare` returns, for a student that has no environment to act in."""


def compare(
    student: "Episodes",
    references: Mapping[str, "Episodes"],
    spec: "EnvSpec",
    *,
    reference_scores: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return a student's metrics, compared with `expert` and `random` on the same seeds, as in `results.json`.

    Raise ValueError if the seeds differ.

    Args:
        references: episodes of `random` and, if there is one, of `expert`.
        reference_scores: the recordings' mean returns of a random policy, `min`, and of an expert, `max`. They replace
            a missing expert as the reference of the performance.
    """
    for name, episodes in references.items():
        if not np.array_equal(episodes.seeds, student.seeds):
            raise ValueError(f"student and {name} were not rolled out on the same seeds")
    policies = {name: summarize(episodes, spec) for name, episodes in references.items()}
    own = summarize(student, spec)
    means = {name: policies[name]["return_mean"] if name in policies else None for name in ("expert", "random")}
    compared = {f"{name}_return_mean": mean for name, mean in means.items()}
    reference, difference = performance_reference(compared), None
    if "expert" in references:
        gap = student.returns - references["expert"].returns
        difference = {"mean": float(gap.mean()), "interval": mean_interval(gap)}
    elif reference_scores is not None:
        reference = data_set_reference(reference_scores)
    return {
        **own,
        **compared,
        "performance": reference and performance(own["return_mean"], reference["one"], reference["zero"]),
        "performance_reference": reference,
        "difference_to_expert": difference,
        "policies": policies,
    }
