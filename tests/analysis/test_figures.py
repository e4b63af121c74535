"""Figures are written to files and show what they should."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ilt.analysis.comparison_figure import comparison_figure
from ilt.analysis.figures import figures_of_run, learning_curve, return_distribution
from ilt.analysis.probe_figures import attention_figure, probe_figure
from ilt.analysis.probes import OBSERVATION, Score
from ilt.evaluation.figure_style import COLORS, FORMATS, ONE_COLUMN, TWO_COLUMNS, Draw, new_figure, write, write_all
from tests.analysis.finished_runs import finished

BLUE, ORANGE, GRAY, PINK = (COLORS[name] for name in ("student", "expert", "random", "control"))
WIDTHS = (ONE_COLUMN, TWO_COLUMNS)
CURVE = {
    "train/loss": {50: 1.2, 100: 0.8, 150: 0.5, 200: 0.1},
    "val/loss": {100: 0.9, 200: 0.45},
    "val/action_accuracy": {100: 0.981, 200: 0.983},
    "rollout/return_mean": {100: -50.0, 200: 210.0},
    "rollout/return_std": {100: 40.0, 200: 20.0},
}
REFERENCES = {"expert": 250.0, "random": -180.0}
RETURNS = {
    "student": np.random.default_rng(0).normal(200.0, 60.0, 100),
    "expert": np.random.default_rng(1).normal(250.0, 20.0, 100),
    "random": np.random.default_rng(2).normal(-180.0, 90.0, 100),
}


def pixels(path: Path) -> np.ndarray:
    """Return the (H, W, 3) uint8 pixels of a figure; check that it is large enough to print."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        array = np.asarray(image.convert("RGB"))
    assert array.shape[0] >= 300
    assert array.shape[1] >= 300 * ONE_COLUMN
    return array


def has_color(figure: np.ndarray, color: str) -> bool:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(figure.astype(int) - wanted).max(axis=2) <= 2).sum() > 20)


def drawn(draw: Draw, path: Path) -> np.ndarray:
    write(draw, path)
    return pixels(path)


def curve_figure(curve: Any, width: float = TWO_COLUMNS) -> Figure:
    return learning_curve(curve, width, references=REFERENCES, n_episodes=50)


def returns_figure(width: float, returns: Any = RETURNS, success_return: float | None = 200.0) -> Figure:
    intervals = dict.fromkeys(returns, (1.0, 2.0))
    return return_distribution(returns, width, intervals=intervals, success_return=success_return)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]


def legend(axes: Any) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_the_learning_curve_shows_student_expert_and_random_policy(tmp_path: Path) -> None:
    figure = drawn(partial(curve_figure, CURVE), tmp_path / "curve.png")
    assert all(has_color(figure, color) for color in (BLUE, ORANGE, GRAY))
    assert (figure == 255).all(axis=2).mean() > 0.5  # mostly background


def test_titles_and_legends_are_words_and_define_the_interval() -> None:
    figure = curve_figure(CURVE)
    assert titles(figure) == ["Return over training", "Loss", "Action accuracy"]
    assert legend(figure.axes[0]) == [
        "student (50 selection seeds)",
        "95 % interval (± 1.96 s.e.)",
        "expert (test seeds)",
        "random policy (test seeds)",
    ]


def test_axes_do_not_magnify_noise() -> None:
    returns, loss, accuracy = curve_figure({**CURVE, "train/loss": {50: 0.9, 100: 0.91}}).axes
    assert returns.get_ylim()[0] <= REFERENCES["random"]
    assert loss.get_ylim() == (0.0, 1.05 * 0.91)
    assert accuracy.get_ylim()[0] <= 0.8


def test_a_metric_that_does_not_vary_has_no_panel() -> None:
    constant = {**CURVE, "val/action_accuracy": {100: 0.5, 200: 0.5}}
    assert titles(curve_figure(constant)) == ["Return over training", "Loss"]
    assert titles(curve_figure({"rollout/return_mean": {100: 0.0}})) == ["Return over training"]
    with pytest.raises(ValueError, match="no returns, and no other metric that varies"):
        curve_figure({"val/loss": {100: 1.0}})


def test_losses_of_either_sign_and_action_errors_can_be_drawn() -> None:
    curve = {"val/loss": {1: -2.0, 2: 3.0}, "val/action_error": {1: 0.2, 2: 0.1}}
    assert titles(curve_figure(curve, ONE_COLUMN)) == ["Loss", "Action error"]


def test_the_distribution_shows_every_policy_and_its_mean(tmp_path: Path) -> None:
    figure = drawn(returns_figure, tmp_path / "returns.png")
    assert all(has_color(figure, color) for color in (BLUE, ORANGE, GRAY))
    (labels,) = returns_figure(TWO_COLUMNS).legends
    assert labels.get_title().get_text() == "mean return (95 % bootstrap interval)"
    said = [text.get_text() for text in labels.get_texts()]
    assert said[2:] == [f"random policy: −{-RETURNS['random'].mean():.1f} (1.0 … 2.0)", "success threshold"]
    assert len(returns_figure(ONE_COLUMN, success_return=None).legends[0].get_texts()) == 3


@pytest.mark.parametrize("values", [[3.0], [3.0, 8.0], [3.0] * 5])
def test_few_and_equal_returns_can_be_drawn(values: list[float]) -> None:
    returns_figure(ONE_COLUMN, dict.fromkeys(RETURNS, np.array(values)), 3.0).draw_without_rendering()


def test_every_format_and_width_is_written_reproducibly(tmp_path: Path) -> None:
    def draw(width: float) -> Figure:
        figure = new_figure(width, 1.0)
        figure.add_subplot().plot([1, 2], label="random policy")
        figure.legend()
        return figure

    files = {}
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        written = list(write_all({"line": draw}, folder, WIDTHS))
        files[folder.name] = {path.name: path.read_bytes() for path in written}
    assert files["one"] == files["two"]
    assert set(files["one"]) == {f"line-{width}in.{suffix}" for width in WIDTHS for suffix in FORMATS}
    assert b"random policy" in files["one"]["line-3.3in.svg"]  # text is not converted to paths
    assert b"/FontFile2" in files["one"]["line-3.3in.pdf"]  # an embedded TrueType font
    assert b"/CreationDate" not in files["one"]["line-3.3in.pdf"]
    assert pixels(tmp_path / "one" / "line-6.8in.png").shape == (300, 300 * TWO_COLUMNS, 3)


def test_figures_of_a_run_are_made_from_its_files(tmp_path: Path) -> None:
    draws = figures_of_run(finished(tmp_path / "run"))
    assert list(draws) == ["learning_curve", "return_distribution"]
    assert titles(draws["return_distribution"](TWO_COLUMNS))[0] == "Returns of 3 test episodes"
    curve = draws["learning_curve"](TWO_COLUMNS)
    assert legend(curve.axes[0])[0] == "student (50 selection seeds)"


def numbers(mean: float, *runs: float) -> dict[str, Any]:
    by_run = {"by_run": [{"return_mean": run} for run in runs]} if runs else {}
    return {"return_mean": mean, "return_mean_interval": [mean - 4, mean + 4], "n_episodes": 1000, **by_run}


def comparison(**by_policy: dict[str, Any]) -> Draw:
    by_policy = {"expert": numbers(250.0), "random": numbers(-200.0), **by_policy}
    content = {"metrics": {"all episodes": by_policy, "windy": by_policy}, "reference": "expert"}
    return partial(comparison_figure, content)


def test_each_policy_except_random_has_a_line_and_each_run_a_stroke(tmp_path: Path) -> None:
    students = {f"student-{number}": numbers(200.0 + number) for number in range(6)}
    figure = drawn(comparison(**students), tmp_path / "it.png")
    assert has_color(figure, ORANGE)
    assert has_color(figure, BLUE)
    assert len(drawn(comparison(**dict(list(students.items())[:5])), tmp_path / "fewer.png")) < len(figure)
    several = comparison(**students | {"student-0": numbers(220.0, 190.0, 215.0, 240.0)})
    said = [text.get_text() for text in several(TWO_COLUMNS).legends[0].get_texts()]
    assert said == [
        "mean", "95 % interval (bootstrap over episodes or over runs and episodes)", "single runs", "expert"
    ]  # fmt: skip


def test_nearly_equal_returns_look_nearly_equal() -> None:
    axes = comparison(student=numbers(249.9))(ONE_COLUMN).axes[0]
    low, high = axes.get_xlim()
    assert high - low >= 250 / 10


def scores(n_layer: int = 2, quantities: int = 3, *, r2: float = 0.5) -> list[Score]:
    return [
        Score(f"quantity_{q}", source, step, r2, 0.05, 0.0, 100, 100)
        for step in (0, 8, 64)
        for source in [OBSERVATION, *(f"layer {i + 1}" for i in range(n_layer))]
        for q in range(quantities)
    ]


@pytest.mark.parametrize(("n_layer", "quantities"), [(0, 1), (1, 1), (6, 7)])
def test_any_number_of_layers_and_quantities_can_be_drawn(n_layer: int, quantities: int, tmp_path: Path) -> None:
    draw = partial(probe_figure, scores(n_layer, quantities))
    assert has_color(drawn(draw, tmp_path / "probe.png"), PINK)  # the control
    figure = draw(ONE_COLUMN, other=scores(1, r2=0.9))
    assert titles(figure)[0] == "quantity 0"
    assert "the other student, layer 1" in legend(figure.axes[0])


def test_scores_far_below_zero_are_drawn_at_the_edge(tmp_path: Path) -> None:
    low, lower = (drawn(partial(probe_figure, scores(r2=r2)), tmp_path / f"{-r2}.png") for r2 in (-0.5, -50.0))
    assert np.array_equal(low, lower)


SHAPES = [((1, 1, 1), 1), ((2, 2, 15), 2), ((2, 2, 14), 2), ((2, 2, 14), 3), ((6, 8, 64), 1)]


@pytest.mark.parametrize(("shape", "tokens_per_step"), SHAPES)
def test_attention_of_any_model_can_be_drawn(shape: tuple[int, int, int], tokens_per_step: int, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).dirichlet(np.ones(shape[2]), shape[:2])
    weights[0, 0, 0] = 0.0  # no attention: gray
    maps = {"early (step 1)": weights[:, :, -3:], "late (step 99)": weights}
    draw = partial(attention_figure, maps, tokens_per_step=tokens_per_step)
    assert has_color(drawn(draw, tmp_path / "attention.png"), "#e6e6e6")
