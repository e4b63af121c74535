"""Figures are files that show something."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ilt.analysis.figures import learning_curve, return_distribution

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


def draw_curve(path: Path, rows: list[dict[str, float]], *, expert_return: float = 250.0) -> np.ndarray:
    learning_curve(rows, path, expert_return=expert_return, title="a run")
    return pixels(path)


def test_the_learning_curve_shows_student_and_expert(tmp_path: Path) -> None:
    figure = draw_curve(tmp_path / "curve.png", ROWS)
    assert has_color(figure, "#1f77b4")
    assert has_color(figure, "#ff7f0e")
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
    assert has_color(draw_curve(tmp_path / "short.png", [row]), "#1f77b4")


@pytest.mark.parametrize("success_return", [200.0, None])
def test_the_distribution_shows_every_policy(success_return: float | None, tmp_path: Path) -> None:
    return_distribution(RETURNS, tmp_path / "returns.png", success_return=success_return, title="a run")
    figure = pixels(tmp_path / "returns.png")
    assert all(has_color(figure, color) for color in ("#1f77b4", "#ff7f0e", "#7f7f7f"))


@pytest.mark.parametrize("values", [[3.0], [3.0, 8.0], [3.0] * 5])
def test_few_and_equal_returns_can_be_drawn(tmp_path: Path, values: list[float]) -> None:
    returns = {name: np.array(values) for name in RETURNS}
    return_distribution(returns, tmp_path / "few.png", success_return=3.0, title="a run")
    assert has_color(pixels(tmp_path / "few.png"), "#1f77b4")
