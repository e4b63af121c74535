"""The cards at the top of the report page. Each shows how good one config is."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ilt.analysis.charts import Band, band, sparkline
from ilt.analysis.page_tables import (
    Cell,
    Track,
    difference_cell,
    mean_with_interval,
    number_cell,
    rate_cell,
    returned,
    returns_of,
)
from ilt.evaluation.statistics import mean_rate
from ilt.tracking.records import Group, RunRecord, by_environment, middle_run

MOST_CARDS = 6
"""Maximum number of cards on the first screen. Environments share them, and each has at least one."""

ROLLOUT = "rollout/return_mean"


@dataclass(frozen=True, kw_only=True)
class Card:
    """The results of one config: means over training seeds, on held-out test seeds.

    Attributes:
        label: the config's name, which is unique within its environment.
        run: the run whose median episode is shown.
        n_runs: number of training seeds.
        test_return: the mean return and its interval.
        facts: cells to show with the return, by name.
        track: the returns of student, expert (if there is one) and random policy, on a scale that the cards of an
            environment share.
        curve: the learning curve as SVG, on a scale that the cards of an environment share; empty if there is none.
        curve_words: the learning curve in words.
    """

    label: str
    run: RunRecord
    n_runs: int
    test_return: Cell
    facts: dict[str, Cell]
    track: Track
    curve: str
    curve_words: str


def shown_groups(groups: Sequence[Group], example: RunRecord) -> list[Group]:
    """Return the groups with a card on the first screen: the best by selection return, and the example's group.

    Environments share `MOST_CARDS`, and each has at least one.
    """
    environments = by_environment([group.runs[0] for group in groups]).values()
    most = max(1, MOST_CARDS // len(environments))
    first = {run.path for runs in environments for run in runs[:most]}
    return [group for group in groups if group.runs[0].path in first or _has(group, example)]


def shown_run(group: Group, example: RunRecord) -> RunRecord:
    """Return the run of a group whose episode is shown: the example, or the run with the median selection return."""
    return example if _has(group, example) else middle_run(group.runs)


def _has(group: Group, example: RunRecord) -> bool:
    return any(run.path == example.path for run in group.runs)


def cards(groups: Sequence[Group], example: RunRecord) -> list[Card]:
    """Make a card for each group. All groups must have the same environment."""
    curves = [_curve(group) for group in groups]
    logged = [value for curve in curves if curve is not None for value in curve.values.ravel()]
    ends = [
        value for group in groups for value in (*mean_with_interval(group, returned)[1], *returns_of(group).values())
    ]
    scale, curve_scale = (min(ends), max(ends)), (min(logged, default=0.0), max(logged, default=1.0))
    return [_card(group, example, scale, curve, curve_scale) for group, curve in zip(groups, curves, strict=True)]


def _card(
    group: Group, example: RunRecord, scale: tuple[float, float], curve: Band | None, curve_scale: tuple[float, float]
) -> Card:
    mean, interval = mean_with_interval(group, returned)
    means = returns_of(group)
    facts = {
        "expert": number_cell(means.get("expert")),
        "difference": difference_cell(group.runs),
        "random": number_cell(means["random"]),
        "success": rate_cell(mean_rate([run.results["success_rate"] for run in group.runs])),
        "crashes": rate_cell(mean_rate([run.results["crash_rate"] for run in group.runs])),
    }
    return Card(
        label=group.label,
        run=shown_run(group, example),
        n_runs=len(group.runs),
        test_return=number_cell(mean, interval),
        facts={name: cell for name, cell in facts.items() if cell.value is not None},
        track=Track.on_scale(*scale, interval, **means),
        curve="" if curve is None else Markup(sparkline(curve, *curve_scale)),
        curve_words="" if curve is None else _in_words(curve),
    )


def _curve(group: Group) -> Band | None:
    """Return a group's learning curve, or None if it has fewer than two points."""
    curve = band([run.curve.get(ROLLOUT, {}) for run in group.runs])
    return None if curve is None or len(curve.steps) < 2 else curve


def _in_words(curve: Band) -> str:
    first, last = curve.values[:, 0].mean(), curve.values[:, -1].mean()
    return f"{first:.1f} at step {curve.steps[0]}, {last:.1f} at step {curve.steps[-1]}"
