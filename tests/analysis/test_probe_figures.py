"""Figures of probes and attention show what they are about."""

from pathlib import Path

import numpy as np
import pytest

from ilt.analysis.probe_figures import attention_figure, probe_figure
from ilt.analysis.probes import OBSERVATION, Score
from tests.analysis.test_figures import has_color, pixels

RED = "#d62728"  # matplotlib's C3, the control


def scores(n_layer: int = 2, quantities: int = 3, *, r2: float = 0.5) -> list[Score]:
    return [
        Score(f"quantity {q}", source, step, r2, 0.05, 0.0, 100, 100)
        for step in (0, 8, 64)
        for source in [OBSERVATION, *(f"layer {i + 1}" for i in range(n_layer))]
        for q in range(quantities)
    ]


@pytest.mark.parametrize(("n_layer", "quantities"), [(0, 1), (1, 1), (2, 4), (6, 7)])
def test_any_number_of_layers_and_quantities_can_be_drawn(n_layer: int, quantities: int, tmp_path: Path) -> None:
    probe_figure(scores(n_layer, quantities), tmp_path / "probe.png", title="a run")
    figure = pixels(tmp_path / "probe.png")
    assert has_color(figure, RED)
    probe_figure(scores(n_layer, quantities), tmp_path / "both.png", title="a run", other=("other", scores(1, r2=0.9)))
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
