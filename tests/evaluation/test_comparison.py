"""Comparison of policies, computed by hand on a few returns."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.evaluation.comparison import (
    ALL,
    compare_policies,
    comparison_table,
    median_run,
    sentences,
    subset_masks,
    typical_episode,
    write_comparison,
)
from ilt.evaluation.statistics import (
    difference_interval,
    mean_interval_of_runs_and_episodes,
    probability_of_improvement,
)
from tests.evaluation.test_statistics import single_steps
from tests.toys import countdown

WIND = np.array([3.0, 0.0, 1.0, 2.0])
TOY = countdown()
SUBSETS = {"windy": ("wind", 0.6, 1.0)}


def episodes(*returns: float, wind: np.ndarray = WIND) -> Episodes:
    """Return one-step episodes, each with its own wind."""
    return replace(single_steps(*returns), extras={"episode/wind": wind})


RANDOM = episodes(0, 0, 0, 0)
EPISODES = {"expert": episodes(8.0, 10.0, 10.0, 12.0), "student": episodes(2.0, 10.0, 9.0, 11.0), "random": RANDOM}


def compared(spec: EnvSpec = TOY, **changes: list[Episodes]) -> dict[str, dict[str, Any]]:
    """Return the metrics by subset and policy; each policy has one run except in `changes`."""
    runs = {**{name: [each] for name, each in EPISODES.items()}, **changes}
    return compare_policies(runs.items(), SUBSETS, spec, reference="expert", random="random")[0]


def comparison(spec: EnvSpec = TOY) -> dict[str, Any]:
    seeds = {"block": "test", "offset": 0, "count": 4}
    return {"name": "toy", "reference": "expert", "subsets": SUBSETS, "seeds": seeds, "metrics": compared(spec)}


def test_a_subset_contains_the_episodes_between_two_quantiles_of_a_parameter() -> None:
    masks = subset_masks({**SUBSETS, "calm": ("wind", 0.0, 0.4)}, episodes(1, 1, 1, 1))
    assert masks[ALL].tolist() == [True] * 4
    assert masks["windy"].tolist() == [True, False, False, True]
    assert masks["calm"].tolist() == [False, True, True, False]
    with pytest.raises(ValueError, match=r"subsets\.odd asks for quantiles of rain, which env does not randomize"):
        subset_masks({"odd": ("rain", 0.0, 0.5)}, episodes(1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"subsets\.windy asks for quantiles of wind, but it is 7 in every episode"):
        subset_masks(SUBSETS, episodes(1, 1, wind=np.full(2, 7.0)))


@pytest.mark.parametrize(
    ("subset", "returns", "performances"),
    [(ALL, [10.0, 8.0, 0.0], [1.0, 0.8, 0.0]), ("windy", [10.0, 6.5, 0.0], [1.0, 0.65, 0.0])],
)
def test_policies_are_measured_in_each_subset(subset: str, returns: list[float], performances: list[float]) -> None:
    assert list(compared()) == [ALL, "windy"]
    metrics = compared()[subset]
    assert list(metrics) == ["expert", "student", "random"]
    assert [each["return_mean"] for each in metrics.values()] == returns
    assert [each["performance"] for each in metrics.values()] == performances
    assert metrics["student"]["return_median"] == (9.5 if subset == ALL else 6.5)
    assert metrics["student"]["n_episodes"] == (4 if subset == ALL else 2)


def test_differences_to_the_reference_are_paired_by_seed() -> None:
    steady = {"expert": [episodes(0.0, 50.0, 100.0, 150.0)], "student": [episodes(-1.0, 49.0, 99.0, 149.0)]}
    student = compared(**steady)[ALL]["student"]
    assert student["difference"] == {"mean": -1.0, "interval": [-1.0, -1.0]}
    low, high = student["return_mean_interval"]
    assert high - low > 50


def test_policies_on_other_seeds_are_not_compared() -> None:
    others = replace(EPISODES["student"], seeds=np.arange(1, 5))
    with pytest.raises(ValueError, match="student was not rolled out on the same seeds as expert"):
        compared(student=[EPISODES["student"], others])


def test_a_policy_with_several_runs_has_their_means_and_an_interval_over_runs() -> None:
    runs = [EPISODES["student"], episodes(10.0, 10.0, 10.0, 10.0), episodes(6.0, 6.0, 6.0, 6.0)]
    student = compared(student=runs)[ALL]["student"]
    assert [run["return_mean"] for run in student["by_run"]] == [8.0, 10.0, 6.0]
    assert (student["n_runs"], student["n_episodes"]) == (3, 4)
    assert student["return_mean"] == pytest.approx(8.0)
    returns = np.stack([run.returns for run in runs])
    assert student["return_mean_interval"] == mean_interval_of_runs_and_episodes(returns)
    expert = EPISODES["expert"].returns[None]
    assert student["difference"]["interval"] == difference_interval(returns, expert)
    assert student["difference"]["mean"] == pytest.approx(-2.0)
    assert (
        student["probability_of_improvement"]
        == probability_of_improvement(returns, expert)[0]
        == pytest.approx(2.5 / 12)
    )
    assert (student["performance"], student["performance_lowest"]) == pytest.approx((0.8, 0.6))


def test_differences_to_a_reference_with_several_runs_use_its_mean() -> None:
    experts = [episodes(10.0, 12.0, 10.0, 12.0), episodes(8.0, 10.0, 8.0, 10.0)]
    metrics = compared(expert=experts, student=[episodes(8.0, 11.0, 8.0, 11.0)])[ALL]
    assert (metrics["expert"]["performance"], metrics["expert"]["performance_lowest"]) == pytest.approx((1.0, 0.9))
    assert metrics["student"]["difference"]["mean"] == pytest.approx(-0.5)


def test_a_policy_with_fewer_episodes_is_compared_on_those() -> None:
    metrics = compared(student=[EPISODES["student"].first(3)])[ALL]
    student = metrics["student"]
    assert [metrics[name]["n_episodes"] for name in EPISODES] == [4, 3, 4]
    assert student["difference"]["mean"] == pytest.approx(-7 / 3)  # of −6, 0 and −1
    assert student["performance"] == pytest.approx(21 / 28)  # the expert returns 8, 10 and 10
    columns, rows = comparison_table(metrics, "expert")
    assert [row[columns.index("episodes")] for row in rows] == ["4", "3", "4"]
    assert "episodes" not in comparison_table(compared()[ALL], "expert")[0]


def test_the_median_run_has_the_middle_mean_return() -> None:
    assert median_run(np.array([[9.0, 9.0], [1.0, 2.0], [4.0, 6.0]])) == 2
    assert median_run(np.array([[9.0, 9.0], [1.0, 2.0]])) == 1


def test_a_typical_episode_is_near_the_median_of_every_policy() -> None:
    returns = {"one": np.array([1.0, 2.0, 3.0, 4.0, 5.0]), "two": np.array([9.0, 300.0, 8.0, 7.0, 301.0])}
    assert typical_episode({"any": np.array([5.0, 1.0, 9.0, 5.0])}) == 0  # the first of equals
    assert typical_episode({"one": returns["one"]}) == 2
    assert typical_episode({"two": returns["two"]}) == 0
    assert (
        typical_episode(returns) == 1
    )  # one rank from both medians; episode 0 is the median for two but the worst for one


def test_table_rows_show_performance_and_the_difference_to_the_reference() -> None:
    _, (expert, student, _) = comparison_table(compared()["windy"], "expert")
    assert student[:3] == ["student", "1", "6.5"]
    assert student[8:11] == ["0.650", "0.650", "-3.5"]
    assert student[12] == "0.00"
    assert expert[8:] == ["1.000", "1.000", "–", "–", "–"]


def test_all_files_contain_the_same_numbers(tmp_path: Path) -> None:
    write_comparison(tmp_path, comparison())
    with (tmp_path / "comparison.csv").open() as file:
        lines = {(line["subset"], line["policy"]): line for line in csv.DictReader(file)}
    written = json.loads((tmp_path / "comparison.json").read_text())["metrics"]
    assert set(lines) == {(subset, name) for subset in (ALL, "windy") for name in EPISODES}
    for (subset, name), line in lines.items():
        numbers = written[subset][name]
        expected = [numbers["return_mean"], *numbers["return_mean_interval"], numbers["difference"]["mean"]]
        columns = ("return_mean", "return_low", "return_high", "difference_mean")
        assert [float(line[column]) for column in columns] == expected
    markdown = (tmp_path / "comparison.md").read_text()
    assert markdown.startswith("toy, 4 test episodes\n\n| policy | runs | return |")
    assert "\n\ntoy, 2 test episodes (windy: wind between its quantiles 0.6 and 1)" in markdown
    assert "| student | 1 | 6.5 |" in markdown


def test_undefined_rates_have_no_column(tmp_path: Path) -> None:
    spec = replace(TOY, success_return=None)
    several = {name: [each, each] for name, each in EPISODES.items()}
    assert "success" not in comparison_table(compared(spec, **several)[ALL], "expert")[0]
    write_comparison(tmp_path, comparison(spec))
    assert "success" not in (tmp_path / "comparison.md").read_text() + (tmp_path / "comparison.csv").read_text()
    assert "crashes" in (tmp_path / "comparison.md").read_text()


def test_a_margin_says_which_policies_are_non_inferior(tmp_path: Path) -> None:
    steady = {"expert": [episodes(0.0, 50.0, 100.0, 150.0)], "student": [episodes(-1.0, 49.0, 99.0, 149.0)]}
    content = {**comparison(), "metrics": compared(**steady)}
    assert sentences(content) == []
    found = "to expert by a margin of {}: student - expert is -1.0 (95 % interval -1.0 to -1.0)"
    assert sentences({**content, "margin": 2.0}) == [f"student is non-inferior {found.format(2)}"]
    assert sentences({**content, "margin": 1.0}) == [f"student is not shown to be non-inferior {found.format(1)}"]
    twice = {"expert": steady["expert"], "student": [*steady["student"], episodes(-4.0, 46.0, 96.0, 146.0)]}
    (said,) = sentences({**content, "metrics": compared(**twice), "margin": 2.0})
    assert said.endswith(
        "; each by itself, 1 of 2 runs are, so at least 3 % of all training seeds are (exact 95 % bound)"
    )
    write_comparison(tmp_path, {**content, "margin": 2.0})
    assert "\n- student is non-inferior to expert by a margin of 2: " in (tmp_path / "comparison.md").read_text()
