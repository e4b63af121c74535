"""Figures are files that show something."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ilt.analysis.comparison_figure import comparison_figure
from ilt.analysis.figures import learning_curve, return_distribution
from ilt.analysis.probe_figures import attention_figure, probe_figure
from ilt.analysis.probes import OBSERVATION, Score

BLUE, ORANGE, GRAY, RED = "#1f77b4", "#ff7f0e", "#7f7f7f", "#d62728"
ROWS = [
    {"step": 50, "train/loss": 1.2},
    {"step": 100, "train/loss": 0.8},
    {"step": 100, "val/loss": 0.9, "val/action_accuracy": 0.6, "rollout/return_mean": -50.0},
    {"step": 150, "train/loss": 0.5},
    {"step": 200, "train/loss": 0.4},
    {"step": 200, "val/loss": 0.45, "val/action_accuracy": 0.8, "rollout/return_mean": 210.0},
]

RETURNS = {
    "student": np.random.default_rng(0).normal(200.0, 60.0, 100),
    "expert": np.random.default_rng(1).normal(250.0, 20.0, 100),
    "random": np.random.default_rng(2).normal(-180.0, 90.0, 100),
}


def pixels(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 of a figure that is large enough to look at."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        array = np.asarray(image.convert("RGB"))
    assert array.shape[0] >= 300
    assert array.shape[1] >= 800
    return array


def has_color(figure: np.ndarray, color: str) -> bool:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(figure.astype(int) - wanted).max(axis=2) <= 2).sum() > 20)


def draw_curve(path: Path, rows: list[dict[str, float]]) -> np.ndarray:
    learning_curve(rows, path, expert_return=250.0, title="a run")
    return pixels(path)


def test_the_learning_curve_shows_student_and_expert(tmp_path: Path) -> None:
    figure = draw_curve(tmp_path / "curve.png", ROWS)
    assert has_color(figure, BLUE)
    assert has_color(figure, ORANGE)
    assert (figure == 255).all(axis=2).mean() > 0.5  # and is mostly background


@pytest.mark.parametrize(
    "row",
    [
        ROWS[2],  # one validation and no logged loss
        {**ROWS[2], "rollout/return_mean": 0.0},
        {"step": 100, "train/loss": -1.5, "val/loss": -2.0, "val/action_error": 0.2, "rollout/return_mean": 1.0},
    ],
)
def test_a_single_row_of_any_kind_can_be_drawn(row: dict[str, float], tmp_path: Path) -> None:
    assert has_color(draw_curve(tmp_path / "short.png", [row]), BLUE)


@pytest.mark.parametrize("success_return", [200.0, None])
def test_the_distribution_shows_every_policy(success_return: float | None, tmp_path: Path) -> None:
    return_distribution(RETURNS, tmp_path / "returns.png", success_return=success_return, title="a run")
    figure = pixels(tmp_path / "returns.png")
    assert all(has_color(figure, color) for color in (BLUE, ORANGE, GRAY))


@pytest.mark.parametrize("values", [[3.0], [3.0, 8.0], [3.0] * 5])
def test_few_and_equal_returns_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    return_distribution(
        dict.fromkeys(RETURNS, np.array(values)), tmp_path / "few.png", success_return=3.0, title="a run"
    )
    assert has_color(pixels(tmp_path / "few.png"), BLUE)


def numbers(mean: float, *runs: float) -> dict[str, Any]:
    by_run = {"by_run": [{"return_mean": run} for run in runs]} if runs else {}
    return {"return_mean": mean, "return_mean_interval": [mean - 4, mean + 4], **by_run}


def draw(path: Path, **by_policy: dict[str, Any]) -> np.ndarray:
    by_policy = {"expert": numbers(250.0), "random": numbers(-200.0), **by_policy}
    comparison_figure({"all": by_policy, "windy": by_policy}, path, reference="expert", random="random", title="it")
    return pixels(path)


def test_there_is_a_line_for_each_policy_but_the_random_one_and_a_stroke_for_each_run(tmp_path: Path) -> None:
    students = {f"student-{number}": numbers(200.0 + number) for number in range(6)}
    figure = draw(tmp_path / "it.png", **students)
    assert has_color(figure, ORANGE)
    assert has_color(figure, BLUE)
    assert len(draw(tmp_path / "fewer.png", **dict(list(students.items())[:5]))) < len(figure)
    several = draw(tmp_path / "several.png", **students | {"student-0": numbers(220.0, 190.0, 215.0, 240.0)})
    gray = [(np.abs(drawn.astype(int) - 0x4D).max(axis=2) <= 2).sum() for drawn in (figure, several)]
    assert gray[1] > gray[0]


def scores(n_layer: int = 2, quantities: int = 3, *, r2: float = 0.5) -> list[Score]:
    return [
        Score(f"quantity {q}", source, step, r2, 0.05, 0.0, 100, 100)
        for step in (0, 8, 64)
        for source in [OBSERVATION, *(f"layer {i + 1}" for i in range(n_layer))]
        for q in range(quantities)
    ]


@pytest.mark.parametrize(("n_layer", "quantities"), [(0, 1), (1, 1), (2, 4), (6, 7)])
def test_any_number_of_layers_and_quantities_can_be_drawn(n_layer: int, quantities: int, tmp_path: Path) -> None:
    drawn = scores(n_layer, quantities)
    probe_figure(drawn, tmp_path / "probe.png", title="a run")
    figure = pixels(tmp_path / "probe.png")
    assert has_color(figure, RED)  # the control
    probe_figure(drawn, tmp_path / "both.png", title="a run", other=("other", scores(1, r2=0.9)))
    assert not np.array_equal(figure, pixels(tmp_path / "both.png"))


def test_scores_far_below_nothing_are_drawn_at_the_edge(tmp_path: Path) -> None:
    for name, r2 in (("low", -0.5), ("lower", -50.0)):
        probe_figure(scores(r2=r2), tmp_path / f"{name}.png", title="a run")
    assert np.array_equal(pixels(tmp_path / "low.png"), pixels(tmp_path / "lower.png"))


@pytest.mark.parametrize(("shape", "tokens_per_step"), [((1, 1, 1), 1), ((2, 2, 15), 2), ((6, 8, 64), 1)])
def test_attention_of_any_model_can_be_drawn(shape: tuple[int, int, int], tokens_per_step: int, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(shape[2]), shape[:2])
    weights[0, 0, 0] = 0.0  # not looked at: gray
    maps = {"early (step 1)": weights[:, :, -3:], "late (step 99)": weights}
    attention_figure(maps, tmp_path / "attention.png", tokens_per_step=tokens_per_step, title="a run")
    assert has_color(pixels(tmp_path / "attention.png"), "#e6e6e6")
