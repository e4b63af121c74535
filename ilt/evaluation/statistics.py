"""Confidence intervals of mean returns, and a student's performance relative to its expert."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import bootstrap, sem, t

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
    """Return Student's t interval [low, high] of the mean of (n,) runs. A bootstrap is too narrow for few runs."""
    if len(values) < 2 or np.ptp(values) == 0:
        return [float(values.mean())] * 2
    low, high = t.interval(confidence, len(values) - 1, loc=values.mean(), scale=sem(values))
    return [float(low), float(high)]


def mean_interval_of_runs_and_episodes(values: np.ndarray, *, confidence: float = 0.95) -> list[float]:
    """Return an interval [low, high] of the mean of (R, E) values of R runs on the same E episodes.

    Both runs and episodes are random samples: another training seed, or other test episodes, would give another mean.
    The variance is that of the means of runs plus that of the means of episodes, a slight overestimate (Owen 2007, "The
    pigeonhole bootstrap", section 3); Student's t has the degrees of freedom of Satterthwaite (1946). The interval of a
    single run is over its episodes.
    """
    n_runs, n_episodes = values.shape
    if n_runs == 1:
        return mean_interval(values[0], confidence=confidence)
    if n_episodes == 1:
        return mean_interval_of_runs(values[:, 0], confidence=confidence)
    parts = np.array([values.mean(axis=1).var(ddof=1) / n_runs, values.mean(axis=0).var(ddof=1) / n_episodes])
    variance = parts.sum()
    if variance == 0:
        return [float(values.mean())] * 2
    freedom = variance**2 / np.sum(parts**2 / np.array([n_runs - 1, n_episodes - 1]))
    low, high = t.interval(confidence, freedom, loc=values.mean(), scale=np.sqrt(variance))
    return [float(low), float(high)]


def interval_of(means: Sequence[float], own: Sequence[float]) -> Sequence[float]:
    """Return the interval of the mean over several runs, or for a single run, its `own` interval over episodes."""
    return mean_interval_of_runs(np.array(means)) if len(means) > 1 else own


def mean_rate(rates: Sequence[float | None]) -> float | None:
    """Return the mean of the rates that are not None, or None if all are None."""
    known = [rate for rate in rates if rate is not None]
    return fmean(known) if known else None


def summarize(episodes: "Episodes", spec: "EnvSpec") -> dict[str, Any]:
    """Return the metrics of a set of episodes, with the interval of their mean return."""
    from ilt.rollout.metrics import episode_metrics  # imports torch, which the other functions do not need

    return {
        **episode_metrics(episodes, spec),
        "return_mean_interval": mean_interval(episodes.returns),
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
            "truncation_rate", "length_mean", "return_mean_interval",
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
