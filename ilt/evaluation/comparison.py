"""Compare policies on the same seeds, over all episodes and subsets of them: metrics, tables and a typical episode."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.evaluation.sequential import Decision
from ilt.evaluation.statistics import (
    difference_interval,
    is_noninferior,
    mean_interval,
    mean_interval_of_runs_and_episodes,
    performance,
    probability_of_improvement,
    rate_bound,
    summarize,
)
from ilt.evaluation.tables import filled, markdown_table, percent
from ilt.schema import ConfigError
from ilt.tracking.store import write_json, write_text
from ilt.training.fit import write_csv

ALL = "all episodes"
CONFIDENCE_SEQUENCE = "confidence sequence"
METRICS = (
    "n_runs",
    "n_episodes",
    "return_mean",
    "return_median",
    "return_p05",
    "return_cvar05",
    "success_rate",
    "crash_rate",
    "performance",
    "performance_lowest",
    "probability_of_improvement",
)
"""Columns of `comparison.csv`, besides the intervals and the difference from the reference."""


def subset_masks(subsets: Mapping[str, tuple[str, float, float]], episodes: Episodes) -> dict[str, np.ndarray]:
    """Return the mask (E,) bool of each subset by name, `ALL` first.

    Args:
        subsets: by name, a randomized parameter (recorded as `episode/<parameter>`), and the lowest and highest
            quantile of its values, both included.

    Raises:
        ConfigError: the parameter was not recorded, or is the same in all episodes.
    """
    masks = {ALL: np.ones(len(episodes), dtype=bool)}
    for name, (drawn, *quantiles) in subsets.items():
        values = episodes.extras.get(f"episode/{drawn}")
        if values is None:
            raise ConfigError(f"subsets.{name} asks for quantiles of {drawn}, which env does not randomize")
        if np.ptp(values) == 0:
            raise ConfigError(f"subsets.{name} asks for quantiles of {drawn}, but it is {values[0]:g} in every episode")
        low, high = np.quantile(values, quantiles)
        masks[name] = (low <= values) & (values <= high)
    return masks


def compare_policies(
    episodes_by_policy: Iterable[tuple[str, Iterable[Episodes]]],
    subsets: Mapping[str, tuple[str, float, float]],
    spec: EnvSpec,
    *,
    reference: str,
    random: str,
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Return metrics by subset and policy, and the returns (runs, E) of each policy.

    A policy may consist of several runs that differ in their training seed. Its metrics are then means over runs. Its
    intervals cover runs and episodes, see `mean_interval_of_runs_and_episodes`. `by_run` has each run's metrics.

    Metrics include `performance`, which is 0 for the policy `random` and 1 for `reference`; `performance_lowest`, the
    lowest of the runs; `difference` from the reference, paired by seed, see `difference_interval`; and
    `probability_of_improvement` over the reference, with its interval. Raise ValueError if the seeds differ.

    Args:
        episodes_by_policy: the name of each policy, and the episodes of each of its runs. All have the seeds of the
            first policy, or the first of them; the reference and the random policy have all.
        subsets: see `subset_masks`.
    """
    returns: dict[str, list[np.ndarray]] = {}
    masks: dict[str, np.ndarray] = {}
    metrics: dict[str, dict[str, list[dict[str, Any]]]] = {}
    seeds = np.zeros(0, dtype=np.int64)
    for name, runs in episodes_by_policy:
        for episodes in runs:
            if not returns:
                seeds, masks = episodes.seeds, subset_masks(subsets, episodes)
                metrics = {subset: {} for subset in masks}
            if not np.array_equal(seeds[: len(episodes)], episodes.seeds):
                raise ValueError(f"{name} was not rolled out on the same seeds as {next(iter(returns))}")
            returns.setdefault(name, []).append(episodes.returns)
            for subset, mask in masks.items():
                chosen = episodes.select(mask[: len(episodes)])
                metrics[subset].setdefault(name, []).append(summarize(chosen, spec))
    stacked = {name: np.stack(each) for name, each in returns.items()}
    return {
        subset: _beside(by_policy, stacked, masks[subset], reference=reference, random=random)
        for subset, by_policy in metrics.items()
    }, stacked


def _beside(
    by_policy: Mapping[str, list[dict[str, Any]]],
    returns: Mapping[str, np.ndarray],
    mask: np.ndarray,
    *,
    reference: str,
    random: str,
) -> dict[str, dict[str, Any]]:
    """Return each policy's metrics in one subset, with performance and difference from the reference."""
    numbers = {}
    for name, runs in by_policy.items():
        chosen = np.flatnonzero(mask[: returns[name].shape[1]])  # on the episodes of this policy
        own, opposite, chance = (returns[each][:, chosen] for each in (name, reference, random))
        for run, earned in zip(runs, own, strict=True):
            difference = earned - opposite.mean(axis=0)
            run["performance"] = performance(run["return_mean"], float(opposite.mean()), float(chance.mean()))
            run["difference"] = {"mean": float(difference.mean()), "interval": mean_interval(difference)}
        numbers[name] = _together(runs, own)
        probability, interval = (0.5, [0.5, 0.5]) if name == reference else probability_of_improvement(own, opposite)
        numbers[name] |= {
            "n_runs": len(runs),
            "difference": {
                "mean": float(own.mean() - opposite.mean()),
                "interval": [0.0, 0.0] if name == reference else difference_interval(own, opposite),
            },
            "probability_of_improvement": probability,
            "probability_of_improvement_interval": interval,
        }
    return numbers


def _together(runs: list[dict[str, Any]], returns: np.ndarray) -> dict[str, Any]:
    """Return the metrics of a single run, or their means over several runs with returns (runs, E)."""
    performances = [run["performance"] for run in runs]
    lowest = None if None in performances else min(performances)
    if len(runs) == 1:
        return {**runs[0], "performance_lowest": lowest}
    means = {name: [run[name] for run in runs] for name, value in runs[0].items() if isinstance(value, float)}
    return {
        **runs[0],  # the number of episodes, and rates that are None
        **{name: float(np.mean(values)) for name, values in means.items()},
        "return_mean_interval": mean_interval_of_runs_and_episodes(returns),
        "performance": None if lowest is None else float(np.mean(performances)),
        "performance_lowest": lowest,
        "by_run": runs,
    }


def median_run(returns: np.ndarray) -> int:
    """Return the index of the run with the median mean return in (runs, E), or of the lower of the middle two."""
    return int(np.argsort(returns.mean(axis=1), kind="stable")[(len(returns) - 1) // 2])


def typical_episode(returns: Mapping[str, np.ndarray]) -> int:
    """Return the index of the episode that is closest to every policy's median, or the first one if several tie.

    It minimizes the maximum, over policies, of the distance between its rank by return and the median rank.

    Args:
        returns: (E,) by policy.
    """
    distances = [np.abs(rankdata(values) - (len(values) + 1) / 2) for values in returns.values()]
    return int(np.argmin(np.max(distances, axis=0)))


def decided(comparison: Mapping[str, Any], decisions: Mapping[str, Decision]) -> dict[str, Any]:
    """Return a comparison with decisions about its policies, whose confidence sequences replace other intervals.

    Args:
        comparison: the content of `comparison.json`, with `margin` and `most_episodes` under `until`.
        decisions: by compared policy.
    """
    until, reference, metrics = comparison["until"], comparison["reference"], comparison["metrics"]
    words = {"margin": until["margin"], "most": until["most_episodes"]}
    described = {
        name: {**asdict(decision), "sentence": decision.sentence(name, reference, **words)}
        for name, decision in decisions.items()
    }
    replaced = {
        name: {
            **metrics[ALL][name],
            "difference": {"mean": decision.mean, "interval": decision.interval, "kind": CONFIDENCE_SEQUENCE},
        }
        for name, decision in decisions.items()
    }
    return {
        **comparison,
        "until": {**until, "decisions": described},
        "metrics": {**metrics, ALL: {**metrics[ALL], **replaced}},
    }


def sentences(comparison: Mapping[str, Any]) -> list[str]:
    """Return what was decided about each policy, in words: with a margin, or until all was decided."""
    if "until" in comparison:
        return [decision["sentence"] for decision in comparison["until"]["decisions"].values()]
    if "margin" not in comparison:
        return []
    reference = comparison["reference"]
    others = {
        name: numbers for name, numbers in comparison["metrics"][ALL].items() if name not in (reference, "random")
    }
    return [_noninferiority(name, reference, each, comparison["margin"]) for name, each in others.items()]


def _noninferiority(name: str, reference: str, numbers: Mapping[str, Any], margin: float) -> str:
    difference, runs = numbers["difference"], numbers.get("by_run", [])
    found = "is non-inferior" if is_noninferior(difference["interval"], margin) else "is not shown to be non-inferior"
    low, high = difference["interval"]
    said = (
        f"{name} {found} to {reference} by a margin of {margin:g}: {name} - {reference} is {difference['mean']:.1f} "
        f"(95 % interval {low:.1f} to {high:.1f})"
    )
    if not runs:
        return said
    n_shown = sum(is_noninferior(run["difference"]["interval"], margin) for run in runs)
    bound = 100 * rate_bound(n_shown, len(runs))
    return (
        f"{said}; each by itself, {n_shown} of {len(runs)} runs are, so at least {bound:.0f} % of all training seeds "
        "are (exact 95 % bound)"
    )


def comparison_table(by_policy: Mapping[str, Mapping[str, Any]], reference: str) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows, one row per policy.

    If policies have different numbers of episodes, a column shows them. If there are confidence sequences of
    differences, the policies without one have no interval of the difference.
    """
    counts = {numbers["n_episodes"] for numbers in by_policy.values()}
    sequential = any("kind" in numbers["difference"] for numbers in by_policy.values())
    columns = ("policy", "runs", "episodes", "return", "95 % interval", "median", "worst 5 %", "success", "crashes")
    rows = [
        [
            name,
            str(numbers["n_runs"]),
            str(numbers["n_episodes"]) if len(counts) > 1 else None,
            f"{numbers['return_mean']:.1f}",
            "{:.1f} … {:.1f}".format(*numbers["return_mean_interval"]),
            f"{numbers['return_median']:.1f}",
            f"{numbers['return_cvar05']:.1f}",
            percent(numbers["success_rate"]),
            percent(numbers["crash_rate"]),
            *("–" if numbers[key] is None else f"{numbers[key]:.3f}" for key in ("performance", "performance_lowest")),
            "–" if name == reference else f"{numbers['difference']['mean']:+.1f}",
            "–"
            if name == reference or (sequential and "kind" not in numbers["difference"])
            else "{:+.1f} … {:+.1f}".format(*numbers["difference"]["interval"]),
            "–" if name == reference else f"{numbers['probability_of_improvement']:.2f}",
        ]
        for name, numbers in by_policy.items()
    ]
    interval = CONFIDENCE_SEQUENCE if sequential else "interval of that"
    return filled((*columns, "performance", "lowest run", f"− {reference}", interval, "P(improvement)"), rows)


def headings(comparison: Mapping[str, Any]) -> dict[str, str]:
    """Return the heading of each subset's table."""
    titles = {}
    for subset, by_policy in comparison["metrics"].items():
        n_episodes, most = by_policy[comparison["reference"]]["n_episodes"], comparison["seeds"]["count"]
        stopped = "until" in comparison and n_episodes < most
        count = f"{n_episodes}{f' of at most {most}' if stopped else ''} {comparison['seeds']['block']} episodes"
        rule = comparison["subsets"].get(subset)
        which = "" if rule is None else " ({}: {} between its quantiles {:g} and {:g})".format(subset, *rule)
        titles[subset] = f"{comparison['name']}, {count}{which}"
    return titles


def write_comparison(folder: Path, comparison: Mapping[str, Any]) -> None:
    """Write `comparison.json`, `.csv` (a row per subset and policy) and `.md` (a table per subset, and decisions)."""
    write_json(folder / "comparison.json", comparison)
    metrics, reference = comparison["metrics"], comparison["reference"]
    tables = [
        f"{title}\n\n{markdown_table(*comparison_table(metrics[subset], reference))}"
        for subset, title in headings(comparison).items()
    ]
    if decisions := sentences(comparison):
        tables.append("".join(f"- {sentence}\n" for sentence in decisions))
    write_text(folder / "comparison.md", "\n".join(tables))
    known = [metric for metric in METRICS if any(n[metric] is not None for n in metrics[ALL].values())]
    lines = [
        {
            "subset": subset,
            "policy": name,
            **{metric: numbers[metric] for metric in known},
            "return_low": numbers["return_mean_interval"][0],
            "return_high": numbers["return_mean_interval"][1],
            "difference_mean": numbers["difference"]["mean"],
            "difference_low": numbers["difference"]["interval"][0],
            "difference_high": numbers["difference"]["interval"][1],
            "probability_low": numbers["probability_of_improvement_interval"][0],
            "probability_high": numbers["probability_of_improvement_interval"][1],
            **(_decision_cells(comparison["until"], name, numbers) if "until" in comparison else {}),
        }
        for subset, by_policy in metrics.items()
        for name, numbers in by_policy.items()
    ]
    write_csv(folder / "comparison.csv", lines)


def _decision_cells(until: Mapping[str, Any], name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's columns of `comparison.csv` that only a comparison with decisions has."""
    outcome = until["decisions"].get(name, {}).get("outcome")
    return {"difference_interval": numbers["difference"].get("kind"), "decision": outcome}
