"""The page is whole in one file, and says what there is and no more."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from ilt.analysis.page import Report, write_page
from ilt.tracking.records import RunRecord, group_runs, read_run
from ilt.tracking.run_folder import read_config
from tests.analysis.finished_runs import default_config, finish_run

EVIL = '<img src="https://example.com/x.png" onerror="document.title=1">'


def read(path: Path) -> RunRecord:
    return read_run(path.name, path, read_config(path))


def report_on(runs: list[RunRecord], **other: Any) -> Report:
    given: dict[str, Any] = {
        "title": "outputs/runs",
        "groups": group_runs(runs),
        "example": runs[0],
        "chosen": False,
        "videos_of_episodes": [],
        "no_videos": "none were made.",
        "left_out": [],
        "defaults": default_config(),
        "made": {"git_commit": "abc", "made_at": "2026-01-01T00:00:00Z"},
    }
    return Report(**{**given, **other})


def text_of(report: Report, folder: Path) -> str:
    write_page(report, folder / "report.html")
    return (folder / "report.html").read_text()


def body(html: str, section: str) -> str:
    """What a section says, without markup."""
    found = re.search(rf'<section id="{section}">(.*?)</section>', html, flags=re.DOTALL)
    assert found is not None
    return " ".join(re.sub("<[^>]*>", " ", found[1]).split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    """Two seeds of the default config, and one run of a larger model with a higher return on selection seeds."""
    tmp_path = tmp_path_factory.mktemp("runs")
    return [
        read(finish_run(tmp_path / "small-0", seed=0, selection_return=50.0)),
        read(finish_run(tmp_path / "small-1", seed=1, selection_return=70.0)),
        read(finish_run(tmp_path / "large", changes={"model.d_model": 64, "dataset.stride": 2}, selection_return=80.0)),
    ]


@pytest.fixture(scope="module")
def html(runs: list[RunRecord], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page about these runs."""
    return text_of(report_on(runs), tmp_path_factory.mktemp("page"))


def test_nothing_is_fetched(html: str) -> None:
    assert not re.findall(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", html, flags=re.IGNORECASE)
    assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", html, flags=re.IGNORECASE)
    assert "http" not in html.replace("http-equiv", "")
    assert "default-src 'none'" in html  # nor could it be


def test_what_runs_say_is_text(runs: list[RunRecord], tmp_path: Path) -> None:
    results = {**runs[0].results, "machine": EVIL, "git_commit": EVIL, "packages": {EVIL: EVIL}, "expert": EVIL}
    results["seconds"] = {EVIL: 1.0, "total": 2.0}
    config = {**runs[0].config, "dataset": {**runs[0].config["dataset"], EVIL: EVIL}}
    evil = replace(runs[0], name=EVIL, results=results, config=config)
    html = text_of(report_on([evil, *runs[1:]], title=EVIL, left_out=[(EVIL, EVIL)], no_videos=EVIL), tmp_path)
    assert "<img" not in html
    assert html.count("&lt;img") > 10


def test_runs_are_sorted_by_selection_return_and_means_are_over_seeds_of_one_config(
    html: str, runs: list[RunRecord], tmp_path: Path
) -> None:
    best_on_test = replace(runs[0], results={**runs[0].results, "return_mean": 300.0})
    sorted_html = text_of(report_on([best_on_test, *runs[1:]]), tmp_path)
    places = [sorted_html.index(f'data-value="{name}"') for name in ("large", "small-1", "small-0")]
    assert places == sorted(places)
    assert html.count(' aria-sort="descending"><button') == 3  # one per table
    configs = body(html, "ran").replace("↕", "")
    assert "B 1 32 2 60.0 30.0" in configs  # stride, d_model, two seeds, means
    assert "A 2 64 1 80.0 30.0 28.0 … 32.0" in configs


def test_only_what_differs_is_listed(runs: list[RunRecord], tmp_path: Path) -> None:
    stride = {**runs[0].config["dataset"], "stride": 2}
    both = [replace(run, config={**run.config, "dataset": stride}) for run in runs[:2]]
    configs = body(text_of(report_on(both), tmp_path), "ran")
    assert "dataset.stride=2 (default 1)" in configs
    assert "d_model" not in configs
    assert "weight_decay" not in configs
    assert "The default config, with nothing changed but seed" in body(text_of(report_on(runs[:2]), tmp_path), "ran")


def test_other_test_seeds_and_runs_that_are_left_out_are_pointed_out(
    html: str, runs: list[RunRecord], tmp_path: Path
) -> None:
    assert "several sets of test seeds" not in html
    other = read(finish_run(tmp_path / "other", seed=2, returns={30_000_000: 5.0, 30_000_001: 6.0}))
    assert 'id="left-out"' not in html
    html = text_of(report_on([*runs, other], left_out=[("half", "not finished")]), tmp_path)
    assert "half : not finished" in body(html, "left-out")
    assert "several sets of test seeds" in body(html, "ran")
    assert "30000000 to 30000001 (2 episodes)" in body(html, "runs")
    assert "Configs that were scored on other test seeds are not drawn" in body(html, "returns")


def test_many_configs_are_all_in_the_table_and_the_best_in_the_charts(tmp_path: Path) -> None:
    strides = {
        n: finish_run(tmp_path / str(n), changes={"dataset.stride": n}, selection_return=n) for n in range(1, 10)
    }
    html = text_of(report_on([read(path) for path in strides.values()]), tmp_path)
    assert "The 6 of 9 configs with the highest selection-seed return" in body(html, "learning")
    assert all(f'data-value="{n}"' in html for n in range(1, 10))


def test_every_figure_is_told_in_words(html: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", html, flags=re.DOTALL)
    assert len(figures) == 6
    for figure in figures:
        label = re.search(r'role="img" aria-label="([^"]+)"', figure)
        assert label is not None
        assert len(label[1]) > 60
    assert "Config B: 10 at step 100, 60 at step 200 (from 50 to 70 over 2 training seeds)" in html


def test_what_a_probe_of_the_example_left_is_shown_and_told_in_words(
    html: str, runs: list[RunRecord], tmp_path: Path
) -> None:
    assert 'id="probe"' not in html
    folder = tmp_path / "run" / "probe"
    folder.mkdir(parents=True)
    for name in ("probe.png", "attention.png"):
        (folder / name).write_bytes(b"a figure")
    probed_words = {"words": {"probe.png": f"gravity: 0.50 {EVIL}", "attention.png": "layer 1 looks back"}}
    (folder / "probe.json").write_text(json.dumps(probed_words))
    probed = replace(runs[0], path=tmp_path / "run")
    html = text_of(report_on([probed, *runs[1:]]), tmp_path)
    assert re.findall(r'<img src="data:image/png;base64,YSBmaWd1cmU=" alt="([^"]*)">', html) == [
        "gravity: 0.50 " + str(escape(EVIL)),
        "layer 1 looks back",
    ]
    (folder / "attention.png").unlink()  # half a probe is none
    assert 'id="probe"' not in text_of(report_on([probed, *runs[1:]]), tmp_path)
    (folder / "probe.json").write_text(json.dumps({"words": {"probe.png": "gravity"}}))  # of a model without attention
    assert text_of(report_on([probed, *runs[1:]]), tmp_path).count("<img") == 1


def test_a_null_that_differs_is_shown_and_stands_last(tmp_path: Path) -> None:
    runs = [
        read(finish_run(tmp_path / str(least), changes={"demos.filters.min_return": least}, selection_return=value))
        for least, value in ((None, 2.0), (200, 1.0))
    ]
    html = text_of(report_on(runs), tmp_path)
    assert '<th scope="col" class="number"><button type="button">demos.<wbr>filters.<wbr>min_return' in html
    assert 'data-value="">null</td>' in html  # which the page's script sorts last
    assert 'data-value="200.0">200</td>' in html


def test_a_rate_that_means_nothing_is_not_there(tmp_path: Path) -> None:
    rates = {"success_rate": None, "crash_rate": None, "policies": {"expert": {"crash_rate": None}}}
    run = read(finish_run(tmp_path / "run", changes={"env.success_return": None}, results=rates))
    html = text_of(report_on([run]), tmp_path)
    assert "crashes" not in html
    assert "success" not in html.replace("env.success_return", "")


def test_environments_have_tables_and_charts_of_their_own(runs: list[RunRecord], tmp_path: Path) -> None:
    of_pole: dict[str, Any] = {
        "changes": {"env.id": "CartPole-v1"},
        "measure": "val/action_error",
        "returns": {7: 1.0, 8: 2.0},
    }
    poles = [read(finish_run(tmp_path / f"pole-{n}", seed=n, selection_return=400.0, **of_pole)) for n in range(2)]
    html = text_of(report_on([*runs, *poles]), tmp_path)
    for section, n_tables, n_charts in (("ran", 2, 0), ("runs", 2, 0), ("learning", 0, 6), ("returns", 0, 6)):
        part = re.search(rf'<section id="{section}">(.*?)</section>', html, flags=re.DOTALL)
        assert part is not None
        assert part[1].count("<table") == n_tables
        assert part[1].count("<figure>") == n_charts
        of_lander, _, of_pole_part = part[1].rpartition("CartPole-v1")
        assert of_pole_part.count("<figure>") == n_charts / 2
        assert "LunarLander-v3" in of_lander
        assert "Config C" not in of_lander
    assert "Action error on validation demonstrations over training" in html
    assert "The example in CartPole-v1 is <strong>pole-0</strong>, the run with the median" in html
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(set(ids)) == len(ids)
