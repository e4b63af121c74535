"""Charts can be embedded in a page: no URLs, no fixed colors, no clashing ids, and config values appear as text."""

import re

import numpy as np
import pytest

from ilt.analysis.charts import Band, band, cumulative_chart, curves_chart, histogram_chart, scatter_chart, sparkline

STEPS = np.array([100, 200, 300])
RETURNS = np.random.default_rng(0).normal(200, 30, size=50)


def curves() -> str:
    return curves_chart({"A": Band(STEPS, np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 5.0]])), "B": None}, ylabel="loss")


@pytest.fixture(scope="module")
def charts() -> dict[str, str]:
    """Return one chart of each kind."""
    policies = {"student": RETURNS, "expert": RETURNS + 1, "random": RETURNS - 300}
    return {
        "curves": curves(),
        "histogram": histogram_chart(policies, success_return=200.0),
        "cumulative": cumulative_chart({"A": RETURNS, "B": RETURNS - 9}, RETURNS + 1),
        "scatter": scatter_chart(RETURNS + 1, RETURNS),
    }


@pytest.mark.parametrize("name", ["curves", "histogram", "cumulative", "scatter"])
def test_a_chart_is_an_svg_that_takes_only_colors_from_the_page(name: str, charts: dict[str, str]) -> None:
    svg = charts[name]
    assert svg.startswith("<svg viewBox=")
    assert svg.rstrip().endswith("</svg>")
    assert "http" not in svg
    assert "var(--ink)" in svg
    assert "</text>" in svg  # text is not converted to paths
    assert not re.search("#01[0-9a-f]{4}", svg)
    assert set(re.findall(r"(?:fill|stroke): (#\w+)", svg)) <= {"#000000"}


def test_a_sparkline_uses_the_given_scale() -> None:
    svg = sparkline(Band(STEPS, np.array([[0.0, 4.0, 10.0], [2.0, 4.0, 10.0]])), -10.0, 10.0)
    assert 'polyline points="0.0,10.8 50.0,7.2 100.0,0.0"' in svg
    assert 'polygon points="0.0,12.0 50.0,7.2 100.0,0.0 100.0,0.0 50.0,7.2 0.0,9.6"' in svg
    assert "nan" not in sparkline(Band(STEPS, np.ones((1, 3))), 1.0, 1.0)


def test_ids_are_unique_across_charts_and_references_resolve(charts: dict[str, str]) -> None:
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in charts.values()]
    assert sum(map(len, ids)) == len(set.union(*ids))
    for svg, own in zip(charts.values(), ids, strict=True):
        assert set(re.findall(r'href="#([^"]*)"', svg)) | set(re.findall(r"url\(#([^)]*)\)", svg)) <= own


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", "a & b", "$\\frac$", "_x"])
def test_a_label_is_never_markup(label: str) -> None:
    svg = curves_chart({label: Band(STEPS, np.ones((1, 3))), "B": Band(STEPS, np.zeros((1, 3)))}, ylabel=label)
    assert "<script" not in svg
    assert "& b" not in svg


def test_charts_are_reproducible(charts: dict[str, str]) -> None:
    assert curves() == charts["curves"]


def test_a_band_covers_the_steps_common_to_all_curves() -> None:
    shared = band([{100: 1.0, 200: 2.0}, {200: 3.0, 300: 4.0}])
    assert shared is not None
    assert (shared.steps.tolist(), shared.values.tolist()) == ([200], [[2.0], [3.0]])
    assert band([{100: 1.0}, {}]) is None


def test_equal_returns_can_be_drawn() -> None:
    same = np.full(4, 5.0)
    histogram = histogram_chart({"student": same, "expert": same, "random": same}, success_return=None)
    assert "success" not in histogram
    assert "<svg" in scatter_chart(same, same)
    assert "<svg" in cumulative_chart({"A": same}, same)
