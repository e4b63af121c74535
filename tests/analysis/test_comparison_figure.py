"""The figure of a comparison shows the reference, the others, and single runs."""

from pathlib import Path
from typing import Any

import numpy as np

from ilt.analysis.comparison_figure import comparison_figure
from tests.analysis.test_figures import has_color, pixels

ORANGE, BLUE = "#ff7f0e", "#1f77b4"


def numbers(mean: float, *runs: float) -> dict[str, Any]:
    by_run = {"by_run": [{"return_mean": run} for run in runs]} if runs else {}
    return {"return_mean": mean, "return_mean_interval": [mean - 4, mean + 4], **by_run}


def draw(path: Path, **by_policy: dict[str, Any]) -> np.ndarray:
    by_policy = {"expert": numbers(250.0), "random": numbers(-200.0), **by_policy}
    comparison_figure({"all": by_policy, "windy": by_policy}, path, reference="expert", random="random", title="it")
    return pixels(path)


def test_there_is_a_line_for_each_policy_but_the_random_one_and_a_stroke_for_each_of_several_runs(
    tmp_path: Path,
) -> None:
    students = {f"student-{number}": numbers(200.0 + number) for number in range(6)}
    figure = draw(tmp_path / "it.png", **students)
    assert has_color(figure, ORANGE)
    assert has_color(figure, BLUE)
    assert len(draw(tmp_path / "fewer.png", **dict(list(students.items())[:5]))) < len(figure)
    several = draw(tmp_path / "several.png", **students | {"student-0": numbers(220.0, 190.0, 215.0, 240.0)})
    gray = [(np.abs(drawn.astype(int) - 0x4D).max(axis=2) <= 2).sum() for drawn in (figure, several)]
    assert gray[1] > gray[0]
