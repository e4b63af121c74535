"""The report page is one self-contained file and shows only what exists."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from ilt.analysis.episode_videos import EpisodeVideo
from ilt.analysis.page import Report, write_page
from ilt.analysis.page_cards import shown_groups
from ilt.tracking.records import RunRecord, group_runs
from tests.analysis.finished_runs import default_config, finished, without_env

EVIL = '<img src="https://example.com/x.png" onerror="document.title=1">'


def page_on(folder: Path, runs: list[RunRecord], **other: Any) -> str:
    given: dict[str, Any] = {
        "title": "outputs/runs",
        "groups": group_runs(runs),
        "example": runs[0],
        "chosen": False,
        "videos": {},
        "no_videos": ["None were made."],
        "left_out": [],
        "defaults": default_config(),
        "made": {"git_commit": "abc", "made_at": "2026-01-01T00:00:00Z"},
    }
    write_page(Report(**{**given, **other}), folder / "report.html")
    return (folder / "report.html").read_text()


def markup(html: str, section: str) -> str:
    found = re.search(rf'<section id="{section}"[^>]*>(.*?)</section>', html, flags=re.DOTALL)
    assert found is not None
    return found[1]


def body(html: str, section: str) -> str:
    """Return the text of a section without markup."""
    return " ".join(re.sub("<[^>]*>", " ", markup(html, section)).split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    """Return two seeds of the default config, and one run of a larger model with a higher return on selection seeds."""
    folder, larger = tmp_path_factory.mktemp("runs"), {"model.d_model": 64, "dataset.stride": 2}
    return [
        finished(folder / "small-0", seed=0, selection_return=50.0),
        finished(folder / "small-1", seed=1, selection_return=70.0),
        finished(folder / "large", changes=larger, selection_return=80.0),
    ]


@pytest.fixture(scope="module")
def html(runs: list[RunRecord], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page about these runs."""
    return page_on(tmp_path_factory.mktemp("page"), runs)


def test_nothing_is_fetched(html: str) -> None:
    assert not re.findall(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", html, flags=re.IGNORECASE)
    assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", html, flags=re.IGNORECASE)
    assert "http" not in html.replace("http-equiv", "")
    assert "default-src 'none'" in html  # the content security policy forbids it too


def test_values_from_runs_are_escaped(runs: list[RunRecord], tmp_path: Path) -> None:
    results = {**runs[0].results, "machine": EVIL, "git_commit": EVIL, "packages": {EVIL: EVIL}, "expert": EVIL}
    results["seconds"] = {EVIL: 1.0, "total": 2.0}
    config = {**runs[0].config, "dataset": {**runs[0].config["dataset"], EVIL: EVIL}}
    evil = replace(runs[0], name=EVIL, results=results, config=config)
    html = page_on(tmp_path, [evil, *runs[1:]], title=EVIL, left_out=[(EVIL, EVIL)], no_videos=[EVIL])
    assert "<img" not in html
    assert html.count("&lt;img") > 10


def test_runs_are_sorted_by_selection_return_and_averaged(html: str, runs: list[RunRecord], tmp_path: Path) -> None:
    best_on_test = replace(runs[0], results={**runs[0].results, "return_mean": 300.0})
    sorted_html = page_on(tmp_path, [best_on_test, *runs[1:]])
    places = [sorted_html.index(f'data-value="{name}"') for name in ("large", "small-1", "small-0")]
    assert places == sorted(places)
    assert html.count(' aria-sort="descending"><button') == 3  # one per table
    configs = body(html, "configs")
    # means and intervals, rates, number of seeds, stride, d_model
    assert "stride=1 60.0 30.0 30.0 … 30.0 31.0 −1.0 −1.0 … −1.0 25.0 % 50.0 % 2 1 32" in configs
    assert "stride=2 80.0 30.0 28.0 … 32.0 31.0 −1.0 −1.5 … −0.5 25.0 % 50.0 % 1 2 64" in configs


def test_only_differing_keys_are_listed(runs: list[RunRecord], tmp_path: Path) -> None:
    stride = {**runs[0].config["dataset"], "stride": 2}
    both = [replace(run, config={**run.config, "dataset": stride}) for run in runs[:2]]
    configs = body(page_on(tmp_path, both), "configs")
    assert "dataset.stride=2 (default 1)" in configs
    assert "d_model" not in configs
    assert "weight_decay" not in configs
    assert "The default config; only seed was changed" in body(page_on(tmp_path, runs[:2]), "configs")


def test_differing_test_seeds_and_excluded_runs_are_pointed_out(
    html: str, runs: list[RunRecord], tmp_path: Path
) -> None:
    assert "several sets of test seeds" not in html
    assert 'id="left-out"' not in html
    other = finished(tmp_path / "other", seed=2, returns={30_000_000: 5.0, 30_000_001: 6.0})
    html = page_on(tmp_path, [*runs, other], left_out=[("half", "not finished")])
    assert "half : not finished" in body(html, "left-out")
    assert "several sets of test seeds" in body(html, "answer")
    assert "30000000 to 30000001 (2 episodes)" in body(html, "runs")
    assert "Configs that were scored on other test seeds are not drawn" in body(html, "returns")


def test_a_card_compares_a_config_with_expert_and_random(html: str, runs: list[RunRecord], tmp_path: Path) -> None:
    first, second = re.findall(r"<article.*?</article>", html, flags=re.DOTALL)
    said = " ".join(re.sub("<[^>]*>", " ", first).split())
    assert said.startswith("stride=2 1 training seed Return, 95 % interval 30.0 28.0 … 32.0 Expert 31.0")
    assert "Difference −1.0 −1.5 … −0.5 Random −70.0 Success 25.0 % Crashes 50.0 %" in said
    assert "30.0 at step 100, 80.0 at step 200" in said
    assert "2 training seeds" in second
    once = replace(runs[0], curve={"rollout/return_mean": {100: 5.0}})
    assert 'class="spark"' not in page_on(tmp_path, [once])  # one point is not a curve
    scale = {name: float(left) for name, left in re.findall(r'<i class="(\w+)" style="left:([\d.]+)%', first)}
    assert scale == {"random": 0.0, "student": 98.04, "expert": 99.02, "interval": 96.08}  # from -70 to 32


@pytest.mark.parametrize(("n_envs", "n_cards"), [(1, 6), (2, 3), (7, 1)])
def test_environments_share_the_first_screen_and_the_example_is_shown(
    n_envs: int, n_cards: int, runs: list[RunRecord]
) -> None:
    def run(env: int, stride: int) -> RunRecord:
        config = {"env": {**runs[0].config["env"], "id": f"Env-v{env}"}, "dataset": {"stride": stride}}
        results = {**runs[0].results, "selection_return_mean": -stride}
        return replace(runs[0], path=Path(f"{env}-{stride}"), config=config, results=results)

    groups = group_runs([run(env, stride) for env in range(n_envs) for stride in range(1, 9)])
    best = [f"{env}-{stride}" for env in range(n_envs) for stride in range(1, n_cards + 1)]
    assert [str(group.runs[0].path) for group in shown_groups(groups, groups[0].runs[0])] == best
    assert [str(group.runs[0].path) for group in shown_groups(groups, groups[-1].runs[0])] == [*best, f"{n_envs - 1}-8"]


def test_each_video_is_shown_once_and_loops_on_the_cards(runs: list[RunRecord], tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    video = tmp_path / "clip.mp4"
    clip: dict[str, Any] = {"seed": 7, "recorded_return": 20.0, "steps": 70, "replayed_return": 20.0, "video": video}
    of_example = [EpisodeVideo(kind=kind, **clip) for kind in ("best", "median")]
    of_example.append(EpisodeVideo(kind="worst", **{**clip, "replayed_return": 21.0, "video": None}))
    html = page_on(tmp_path, runs, example=runs[2], videos={"large": of_example, "small-0": of_example[1:2]})
    videos = re.findall(r"<video([^>]*)>", html)
    assert [" loop" in each for each in videos] == [True, True, False]
    assert all("controls muted" in each and 'poster="data:image/jpeg' in each for each in videos)
    assert "autoplay" not in html  # the script starts them where motion is welcome
    assert "The median test episode of large: seed 7, return 20.0, 70 steps" in videos[0]
    assert "It is not the same episode, so there is no video" in body(html, "episodes")


def test_the_table_has_every_config_and_the_charts_only_the_best(tmp_path: Path) -> None:
    html = page_on(tmp_path, [finished(tmp_path / str(n), changes={"dataset.stride": n}) for n in range(1, 10)])
    assert "The 6 of 9 configs with the highest selection-seed return" in body(html, "learning")
    assert all(f'data-value="{n}"' in html for n in range(1, 10))
    shown, folded = markup(html, "answer").split("<details")
    assert (shown.count("<article"), folded.count("<article")) == (6, 3)
    assert "3 more configs</summary>" in folded


def test_every_figure_has_a_text_description(html: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", html, flags=re.DOTALL)
    labels = [re.findall(r'role="img" aria-label="([^"]+)"', figure) for figure in figures]
    assert len(figures) == 2 + 6  # learning curves of two configs, and six charts
    assert all(label and len(label[0]) > 60 for label in labels)
    assert "stride=1: 10 at step 100, 60 at step 200 (from 50 to 70 over 2 training seeds)" in html


def test_the_probe_figures_of_the_example_are_shown_with_descriptions(runs: list[RunRecord], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "probe"
    folder.mkdir(parents=True)
    words = {"probe.png": f"gravity: 0.50 {EVIL}", "attention.png": "layer 1 looks back"}
    for name in words:
        (folder / name).write_bytes(b"a figure")
    (folder / "probe.json").write_text(json.dumps({"words": words}))
    probed = [replace(runs[0], path=tmp_path / "run"), *runs[1:]]
    shown = re.findall(r'<img src="data:image/png;base64,YSBmaWd1cmU=" alt="([^"]*)">', page_on(tmp_path, probed))
    assert shown == ["gravity: 0.50 " + str(escape(EVIL)), "layer 1 looks back"]
    (folder / "attention.png").unlink()  # an incomplete probe is not shown
    assert 'id="probe"' not in page_on(tmp_path, probed)
    (folder / "probe.json").write_text(json.dumps({"words": {"probe.png": "gravity"}}))  # for a model without attention
    assert page_on(tmp_path, probed).count("<img") == 1


def test_a_null_that_differs_is_shown_and_sorted_last(tmp_path: Path) -> None:
    key = "demos.filters.min_return"
    html = page_on(tmp_path, [finished(tmp_path / str(least), changes={key: least}) for least in (None, 200)])
    assert '<th scope="col" class="number"><button type="button">demos.<wbr>filters.<wbr>min_return' in html
    assert 'data-value="">null</td>' in html  # the page's script sorts it last
    assert 'data-value="200.0">200</td>' in html


def test_undefined_rates_are_not_shown(tmp_path: Path) -> None:
    rates = {"success_rate": None, "crash_rate": None, "policies": {"expert": {"crash_rate": None}}}
    html = page_on(tmp_path, [finished(tmp_path / "run", changes={"env.success_return": None}, results=rates)])
    assert "crashes" not in html
    assert "success" not in html.replace("env.success_return", "")


def test_each_environment_has_its_own_tables_and_charts(runs: list[RunRecord], tmp_path: Path) -> None:
    pole: dict[str, Any] = {"changes": {"env.id": "CartPole-v1"}, "measure": "val/action_error", "returns": {7: 1.0}}
    html = page_on(tmp_path, [*runs, *(finished(tmp_path / f"pole-{n}", seed=n, **pole) for n in range(2))])
    sections = {"answer": (0, 0), "configs": (2, 0), "runs": (2, 0), "learning": (0, 6), "returns": (0, 6)}
    for section, (n_tables, n_charts) in sections.items():
        part = markup(html, section)
        assert (part.count("<table"), part.count("<figure>")) == (n_tables, n_charts)
        of_lander, _, of_pole = part.rpartition("CartPole-v1")
        assert of_pole.count("<figure>") == n_charts / 2
        assert "LunarLander-v3" in of_lander
    assert "Action error on validation demonstrations over training" in html
    assert "The example in CartPole-v1 is <strong>pole-0</strong>, the run with the median" in html
    headings = re.findall(r"<article.*?<h3>(.*?)</h3>", html, flags=re.DOTALL)
    assert headings == ["LunarLander-v3: stride=2", "LunarLander-v3: stride=1", "CartPole-v1"]
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(set(ids)) == len(ids)


def test_runs_without_an_environment_are_ranked_by_validation_loss(runs: list[RunRecord], tmp_path: Path) -> None:
    larger = {"model.d_model": 64}
    alone = [
        without_env(tmp_path / "a0", loss=0.5),
        without_env(tmp_path / "a1", loss=0.25, seed=1),
        without_env(tmp_path / "b", loss=0.125, changes=larger),
    ]
    html = page_on(tmp_path, alone)
    assert "without an environment" in html
    assert 'id="returns"' not in html
    assert "not scored" in body(html, "answer")
    configs = body(html, "configs")
    assert configs.index("d_model=64 0.125") < configs.index("d_model=32 0.375")
    assert 'aria-sort="ascending"' in markup(html, "configs")
    assert body(html, "runs").index(" b d_model=64") < body(html, "runs").index(" a1 d_model=32")
    both = page_on(tmp_path, [*runs, *alone])
    assert "small-0" in body(both, "returns")
    assert "0.125" in body(both, "configs")
