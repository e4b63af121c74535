"""`ilt report`: which runs it includes, the files it writes, and how its page works in a browser."""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from playwright.sync_api import Page, sync_playwright

from ilt.cli.report import choose_example, find_runs, make_videos, read_runs
from ilt.envs.spec import EnvSpec
from ilt.schema import ConfigError
from ilt.tracking.records import group_runs
from tests.analysis.finished_runs import finish_run, roll_out_run
from tests.cli.commands import run_command
from tests.tracking.hostile_files import CSV, JSON, SECRET, YAML, read_only, replaced

CHROMIUM = os.environ.get("ILT_CHROMIUM") or shutil.which("chromium")


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("ilt.conf", version_base="1.3"):
        return compose("report", list(overrides))


def report_on(folder: Path, *overrides: str) -> str:
    """Write a report without videos; return its Markdown table."""
    run_command("report", f"runs={folder}", "videos=false", *overrides)
    return (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def reported(lander: EnvSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four runs, one of which can be rolled out again, and their report."""
    folder = tmp_path_factory.mktemp("runs")
    roll_out_run(folder / "acted", lander, n_episodes=3)
    for seed, (name, selection_return) in enumerate([("best", 110.0), ("middle", 7.0), ("worst", -300.0)], 1):
        finish_run(folder / name, seed=seed, selection_return=selection_return)
    assert run_command("report", f"runs={folder}", "example=acted") == 4
    return folder


def test_set_aside_and_unfinished_runs_are_excluded_with_a_reason(tmp_path: Path) -> None:
    done = finish_run(tmp_path / "0-done")
    shutil.copytree(done, tmp_path / "0-done.1")
    half = finish_run(tmp_path / "half", seed=1)
    (half / "results.json").unlink()
    named = finish_run(tmp_path / "lr0.1", seed=2)
    finished, left_out = find_runs(tmp_path)
    assert finished == [done, named]
    assert left_out == [(tmp_path / "0-done.1", "set aside when it was run again"), (half, "not finished")]


def test_runs_are_sorted_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    names = ["a/s1", "a/s2", "a/s10", "a2/s0", "a10/s0", "b"]
    for name in reversed(names):
        (tmp_path / name).mkdir(parents=True)
        for file in ("config.yaml", "results.json"):
            (tmp_path / name / file).touch()
    assert find_runs(tmp_path)[0] == [tmp_path / name for name in names]


def test_folders_inside_a_run_are_not_runs(tmp_path: Path) -> None:
    run = finish_run(tmp_path / "run")
    for inside in (".hydra", "wandb/offline-run-1/files"):
        (run / inside).mkdir(parents=True)
        (run / inside / "config.yaml").write_text("{}")
    assert find_runs(tmp_path) == find_runs(run) == ([run], [])


def test_duplicate_runs_count_once_and_damaged_runs_are_skipped(tmp_path: Path) -> None:
    finish_run(tmp_path / "multirun" / "a")
    finish_run(tmp_path / "runs" / "again")
    (finish_run(tmp_path / "runs" / "bad-0", seed=1) / "episodes.csv").write_text("?")
    (finish_run(tmp_path / "runs" / "bad-1", seed=2) / "config.yaml").write_text("a: [")
    runs, (again, *damaged) = read_runs(tmp_path)
    assert [run.name for run in runs] == ["multirun/a"]
    assert again == ("runs/again", "the same config and seed as multirun/a")
    assert [name for name, _ in damaged] == ["runs/bad-0", "runs/bad-1"]


FILES = {"results.json": JSON, "config.yaml": YAML, "curve.csv": CSV, "episodes.csv": CSV}


def test_damaged_runs_are_listed_and_excluded(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    finish_run(folder / "good")
    wrong = {(file, how) for file, table in FILES.items() for how in table}
    wrong -= {("curve.csv", "empty")}  # an empty curve is a run that was never validated
    for i, (file, how) in enumerate(sorted(wrong), 1):
        replaced(finish_run(folder / f"bad-{i:02}", seed=i) / file, how)
    changed = finish_run(folder / "changed", results={"files": {"config.yaml": "0" * 64}}, seed=99)
    assert changed.is_dir()
    assert run_command("report", f"runs={folder}", "videos=false") == 1
    page = (folder / "report.html").read_text()
    assert page.count("cannot be used: ") == len(wrong)
    assert "config.yaml is not the file that" in page
    assert str(tmp_path) not in page
    assert SECRET not in page


def test_links_in_a_run_are_not_followed_and_linked_reports_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    for name in ("probe.png", "probe.json", "page", "video.mp4"):
        (tmp_path / "private" / name).write_text('{"words": {"probe.png": "PRIVATE"}}')
    untouched = {path: path.read_text() for path in (tmp_path / "private").iterdir()}
    run = finish_run(tmp_path / "runs" / "run")
    for name in ("report.html", "report.md"):
        (tmp_path / "runs" / name).symlink_to(tmp_path / "private" / "page")
    secret = base64.b64encode((tmp_path / "private" / "probe.png").read_bytes()).decode()
    for link, target in {"probe": "private", "probe/probe.png": "private/probe.png"}.items():
        if link != "probe":
            (run / "probe").unlink()
            (run / "probe").mkdir()
            (run / "probe" / "probe.json").write_text('{"words": {"probe.png": "words"}}')
        (run / link).symlink_to(tmp_path / target)
        report_on(tmp_path / "runs")
        assert secret not in (tmp_path / "runs" / "report.html").read_text()
    assert not (tmp_path / "runs" / "report.md").is_symlink()
    assert {path: path.read_text() for path in (tmp_path / "private").iterdir()} == untouched


def test_names_are_escaped_in_markdown_and_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    finish_run(tmp_path / "<img src=x>|![i](http:) [red]\x1b[2J", seed=1)
    finish_run(tmp_path / "[")
    (finish_run(tmp_path / "\x1b[2J", seed=2) / "results.json").unlink()
    text = report_on(tmp_path)
    assert "left out: ?[2J: not finished" in caplog.text
    assert "&lt;img src=x&gt;\\|!\\[i](http:) \\[red]" in text
    assert "<" not in text
    shown = capsys.readouterr().out
    assert "[red]" in shown
    assert "\x1b" not in shown


def test_the_report_on_a_read_only_folder_is_written_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish_run(tmp_path / "runs" / "run")
    read_only(monkeypatch, tmp_path / "runs")
    run_command("report", f"runs={tmp_path / 'runs'}", "videos=false", f"outputs={tmp_path / 'outputs'}")
    assert "runs cannot be written to (Read-only file system); writing to" in caplog.text
    (place,) = (tmp_path / "outputs" / "reports").iterdir()
    assert sorted(path.name for path in place.iterdir()) == ["report.html", "report.md"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]


def test_a_report_is_a_table_and_a_page(reported: Path) -> None:
    assert len((reported / "report.md").read_text().splitlines()) == 2 + 4 + 1  # heading, runs, mean
    page = (reported / "report.html").read_text()
    assert page.count("<video ") == len(list((reported / "report_videos").glob("*.mp4"))) == 3
    assert page.count("<video loop") == 1  # the median, on the card
    assert "acted</strong>, which was chosen by name" in page


def test_seeds_of_one_config_are_averaged_unless_their_test_seeds_differ(tmp_path: Path) -> None:
    for seed in (0, 1):
        finish_run(tmp_path / str(seed), seed=seed)
    assert "| all 2 seeds | 30.0 |" in report_on(tmp_path)
    assert "switched off (videos=false)" in (tmp_path / "report.html").read_text()
    finish_run(tmp_path / "1", seed=1, returns={1: 1.0})
    assert "all" not in report_on(tmp_path)


def test_each_environment_has_its_own_means_in_the_table(tmp_path: Path) -> None:
    nothing = {"crash_rate": None, "policies": {"expert": {"crash_rate": None}}}
    for seed in (0, 1):
        finish_run(tmp_path / f"lander-{seed}", seed=seed)
        finish_run(tmp_path / f"pole-{seed}", seed=seed, changes={"env.id": "CartPole-v1"}, results=nothing)
    text = report_on(tmp_path)
    assert text.startswith("| run | env | student |")
    assert "| all 2 seeds | LunarLander-v3 | 30.0 |" in text
    assert "| all 2 seeds | CartPole-v1 | 30.0 |" in text
    assert text.splitlines()[-1].endswith("| – | – |")  # no crashes in this environment
    for folder in tmp_path.glob("lander-*"):
        shutil.rmtree(folder)
    text = report_on(tmp_path)
    assert "env" not in text
    assert "crashes" not in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "results.json does not list weights/last.safetensors"),
        ({"env.id": "os:LunarLander-v3"}, "names a module"),
        ({"model.n_layer": 0}, "model.n_layer must be an integer of at least 1"),
    ],
)
def test_a_run_that_cannot_be_rolled_out_has_no_videos(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    finish_run(tmp_path / "run", changes=change)
    (run,), _ = read_runs(tmp_path)
    videos_of_episodes, no_videos = make_videos(composed(f"runs={tmp_path}"), run, tmp_path / "videos", ["median"])
    assert videos_of_episodes == []
    assert reason in str(no_videos)


def test_the_example_is_the_median_run_of_the_best_config(tmp_path: Path) -> None:
    for seed, selection_return in enumerate([30.0, 10.0, 20.0]):
        finish_run(tmp_path / f"good-{seed}", seed=seed, selection_return=selection_return)
        finish_run(tmp_path / f"poor-{seed}", seed=seed, changes={"dataset.stride": 2})
    finish_run(tmp_path / "pole", changes={"env.id": "CartPole-v1"}, selection_return=500.0)
    runs, _ = read_runs(tmp_path)
    assert choose_example(group_runs(runs), None).name == "good-2"


def test_a_missing_example_or_missing_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runs must be a folder that contains finished runs"):
        report_on(tmp_path)
    finish_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="example must be the name of a finished run in runs, such as run, got other"):
        report_on(tmp_path, "example=other")


@pytest.fixture(scope="module")
def page(reported: Path) -> Iterator[Page]:
    """Open the page in headless Chromium, offline; console messages and failed requests are errors."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; the README says how to get one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url[:100]))
        page.goto((reported / "report.html").as_uri())
        page.wait_for_load_state("networkidle")
        yield page
        browser.close()
    assert complaints == []


def first_cells(page: Page) -> list[str]:
    return page.locator("#runs tbody tr").evaluate_all("rows => rows.map(row => row.cells[0].textContent)")


def test_clicking_a_heading_sorts_and_clicking_again_reverses(page: Page, reported: Path) -> None:
    assert page.title() == f"Report: {reported.parent.name}/{reported.name}"
    assert first_cells(page) == ["best", "middle", "acted", "worst"]
    heading = page.locator("#runs thead th", has=page.get_by_role("button", name="selection return"))
    heading.get_by_role("button").click()
    assert first_cells(page) == ["worst", "acted", "middle", "best"]  # as numbers: -300, 0, 7, 110
    assert heading.get_attribute("aria-sort") == "ascending"
    page.locator("#runs thead th").first.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert first_cells(page) == ["acted", "best", "middle", "worst"]
    assert heading.get_attribute("aria-sort") is None


def test_the_videos_play(page: Page) -> None:
    assert page.locator("video").count() == 3
    for i, video in enumerate(page.locator("video").all()):
        video.evaluate("video => video.play()")
        page.wait_for_function("i => document.querySelectorAll('video')[i].currentTime > 0.2", arg=i, timeout=10_000)
        assert video.evaluate("video => [video.videoWidth, video.videoHeight]") == [600, 400]


def test_videos_autoplay_only_without_reduced_motion(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.reload()
    video = page.locator("video[loop]")
    video.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert video.evaluate("video => video.paused")
    page.emulate_media(reduced_motion="no-preference")
    page.reload()
    video.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelector('video[loop]').currentTime > 0", timeout=10_000)


def test_the_keyboard_can_skip_to_the_results_and_scroll_tables(page: Page) -> None:
    page.reload()
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the results"
    assert page.locator(":focus").evaluate("link => link.getBoundingClientRect().x") >= 0
    page.set_viewport_size({"width": 390, "height": 800})
    page.locator("#runs .scroll").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('#runs .scroll').scrollLeft > 0", timeout=10_000)


def test_printing_uses_light_colors_and_expands_folded_sections(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.get_by_text("torch").is_visible()
    page.emulate_media(media="screen", color_scheme="light")
    assert not page.get_by_text("torch").is_visible()


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_only_tables_exceed_the_screen_width_and_their_first_column_is_sticky(width: int, page: Page) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    left = "document.querySelector('#runs tbody th').getBoundingClientRect().x"
    before = page.evaluate(left)
    page.locator("#runs .scroll").evaluate("box => box.scrollLeft = 200")
    assert page.evaluate(left) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme: Any, page: Page) -> None:
    page.emulate_media(color_scheme=scheme)
    style = "getComputedStyle(document.documentElement)"
    names = ["page", "ink", "muted", "link", "student", "expert", "random", *[f"series-{i}" for i in range(6)]]
    colors = {name: page.evaluate(f"{style}.getPropertyValue('--{name}').trim()") for name in names}
    for name in names[1:]:
        darker, lighter = sorted([luminance(colors[name]), luminance(colors["page"])])
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, name  # WCAG 2, level AA
    drawn = page.locator(".chart svg text").first.evaluate("text => getComputedStyle(text).fill")
    assert drawn == f"rgb({', '.join(str(value) for value in bytes.fromhex(colors['ink'][1:]))})"


def luminance(color: str) -> float:
    shares = [value / 255 for value in bytes.fromhex(color[1:])]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
