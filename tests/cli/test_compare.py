"""`ilt compare`: several policies on the same seeds."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from ilt.envs.spec import EnvSpec
from ilt.evaluation.policy_files import runs_of
from ilt.registry import load_option
from ilt.rollout.recorded import Context
from ilt.schema import ConfigError
from ilt.settings import parse_subset
from tests.analysis.finished_runs import finish_run, roll_out_run
from tests.cli.commands import run_command

PPO, A2C = "ppo-091d97b2b3", "a2c-ecdd424b2b"
POLICIES = [f"+policies.nominal={PPO}", f"+policies.other={A2C}"]
SHORT = "+env.kwargs.max_episode_steps=30"
ASKED = [*POLICIES, "+subsets.windy=wind_power:0.5:1", "video=[other,nominal]"]


def compared(outputs: Path, *overrides: str) -> float:
    """Compare on three test seeds in episodes of at most 30 steps; return the command's result."""
    fixed = ["name=name", "seeds=test:3", f"outputs={outputs}", "processes=1", "env=lunar_lander_hidden", SHORT]
    return run_command("compare", *fixed, *overrides)


def comparisons(outputs: Path) -> list[Path]:
    return [path.parent for path in outputs.glob("comparisons/*/manifest.json")]


def content_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "comparison.json").read_text())


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a comparison of two plain Lunar Lander experts under hidden physics, with a video."""
    outputs = tmp_path_factory.mktemp("outputs")
    compared(outputs, *ASKED)
    return comparisons(outputs)[0]


@pytest.fixture(scope="module")
def content(filmed: Path) -> dict[str, Any]:
    return content_of(filmed)


def test_a_comparison_has_every_policy_and_random_in_every_subset(content: dict[str, Any]) -> None:
    assert list(content["metrics"]) == ["all episodes", "windy"]
    assert [list(by_policy) for by_policy in content["metrics"].values()] == [["nominal", "other", "random"]] * 2
    assert content["reference"] == "nominal"
    assert content["seeds"] == {"block": "test", "offset": 0, "count": 3}
    assert content["metrics"]["all episodes"]["nominal"]["performance"] == 1.0


def test_repeated_and_related_comparisons_reuse_rollouts(
    filmed: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Context, "rollout", None)
    outputs = filmed.parents[1]
    assert compared(outputs, *ASKED) == content["metrics"]["all episodes"]["nominal"]["return_mean"]
    assert comparisons(outputs) == [filmed]
    compared(outputs, f"+policies.first={PPO}", "+policies.second=random", "reference=random")
    assert len(comparisons(outputs)) == 2


def test_the_video_shows_the_requested_policies_side_by_side(filmed: Path, content: dict[str, Any]) -> None:
    assert list(content["video"]["returns"]) == ["other", "nominal"]
    assert 30_000_000 <= content["video"]["seed"] < 30_000_003
    with Image.open(filmed / "episode.gif") as image:
        assert image.size == (800, 267)
        assert image.n_frames <= 120
    assert (filmed / "episode.gif").stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["reference=expert"], r"^reference must name one of policies = \['nominal', 'other', 'random'\], got expert"),
        (["video=[student]"], r"^video must name one of policies = .*, got student"),
        ([f"+policies.random={PPO}"], r"^policies\.random must be random"),
        (["+subsets.windy=wind:0.5:1"], r"^subsets\.windy must start with one of \['gravity', .*\], .*, got wind$"),
        (["+subsets.windy=wind"], r"^subsets\.windy must be PARAMETER:LOW:HIGH .*, got 'wind'$"),
        (["+policies.student=nowhere"], r"^policies\.student must be the folder of a finished run"),
        (
            ["env=gymnasium", "env.id=CartPole-v1"],
            r"^policies\.nominal was trained in LunarLander-v3 and",
        ),
        (["env=lunar_lander_blind"], r"^policies\.nominal was trained to see .*, but env shows it "),
        (["until=decided", "+subsets.windy=wind_power:0.5:1"], r"^subsets must be empty with until=decided"),
        (["seeds=test:0"], r"^seeds must stay in env\.seed_blocks\.test"),
    ],
)
def test_comparison_errors_are_found_before_any_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    monkeypatch.setattr("ilt.pipeline.prepare", None)
    with pytest.raises(ConfigError, match=message):
        compared(tmp_path, *POLICIES, *overrides)


def test_a_comparison_with_itself_needs_another_policy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^policies must have at least one policy besides the reference, student, "):
        compared(tmp_path, f"+policies.student={PPO}", "until=decided")
    with pytest.raises(ConfigError, match=r"^policies must have at least one .* reference, student, with margin, got "):
        compared(tmp_path, f"+policies.student={PPO}", "margin=5")


def test_with_a_margin_a_comparison_says_who_is_not_inferior(
    filmed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Context, "rollout", None)
    outputs = filmed.parents[1]
    before = comparisons(outputs)
    with caplog.at_level("INFO", logger="ilt"):
        compared(outputs, *POLICIES, "margin=5000")
    (folder,) = set(comparisons(outputs)) - set(before)
    assert content_of(folder)["margin"] == 5000
    said = "other is non-inferior to nominal by a margin of 5000: other - nominal is "
    assert any(message.startswith(said) for message in caplog.messages)
    assert said in (folder / "comparison.md").read_text()


def test_until_decided_uses_stored_episodes_and_says_what_is_undecided(
    filmed: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Context, "rollout", None)
    outputs = filmed.parents[1]
    before = comparisons(outputs)
    with caplog.at_level("INFO", logger="ilt"):
        compared(outputs, *POLICIES, "until=decided", "margin=5", "video=[other,nominal]")
    (folder,) = set(comparisons(outputs)) - set(before)
    found = content_of(folder)
    other = found["metrics"]["all episodes"]["other"]
    assert other["return_mean"] == content["metrics"]["all episodes"]["other"]["return_mean"]
    decision = found["until"]["decisions"]["other"]
    assert (decision["outcome"], decision["n_episodes"]) == ("undecided", 3)
    assert decision["sentence"].startswith("undecided after 3 episodes: other - nominal is ")
    assert decision["sentence"] in caplog.messages


def folder_of(outputs: Path, name: str, *, seed: int, **changes: int) -> str:
    """Write a finished run without weights, with `changes` to its config (`__` for dots), and return its folder."""
    by_key = {key.replace("__", "."): value for key, value in changes.items()}
    return str(finish_run(outputs / "runs" / name, seed=seed, changes=by_key))


def test_a_pattern_selects_all_runs_that_differ_only_in_their_seed(tmp_path: Path) -> None:
    runs = [folder_of(tmp_path, name, seed=seed, threads=seed + 1) for seed, name in enumerate(["a-s0-x", "a-s1-y"])]
    folder_of(tmp_path, "a-s0-x.1", seed=0)
    folder_of(tmp_path, "b-s0-z", seed=0)
    assert runs_of("policies.a", f"{tmp_path}/runs/a-*") == runs
    assert runs_of("policies.a", runs[0]) == runs[:1]
    folder_of(tmp_path, "a-s2", seed=2, dataset__batch_size=4)
    with pytest.raises(ConfigError, match=r"^policies\.a must match runs that differ only in .*-s1-y and .*-s2"):
        runs_of("policies.a", f"{tmp_path}/runs/a-*")
    with pytest.raises(ConfigError, match=r"^policies\.c must match .* at least one finished run, got .*/c-\*$"):
        runs_of("policies.c", f"{tmp_path}/runs/c-*")


def test_students_of_several_seeds_share_a_row_and_the_video_shows_the_median_run(tmp_path: Path) -> None:
    env = {**load_option("env", "lunar_lander_hidden"), "kwargs": {"max_episode_steps": 30}}
    spec, wrappers = EnvSpec.from_config(OmegaConf.create(env)), {"env.wrappers": env["wrappers"]}
    for seed in range(3):
        roll_out_run(tmp_path / "runs" / f"student-s{seed}", spec, 3, changes={**wrappers, "seed": seed})
    arguments = [f"+policies.student={tmp_path}/runs/student-*", f"+policies.expert={PPO}"]
    compared(tmp_path, *arguments, "reference=expert", "video=[student]")
    (folder,) = comparisons(tmp_path)
    content = content_of(folder)
    student = content["metrics"]["all episodes"]["student"]
    assert student["n_runs"] == len(student["by_run"]) == 3
    assert student["performance_lowest"] <= student["performance"]
    assert list(content["video"]["returns"]) == ["student"]
    with Image.open(folder / "comparison.png") as image:
        assert image.format == "PNG"


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.yaml", "a: ["), ("config.yaml", "env: 1"), ("results.json", "{"), ("results.json", "{}")],
)
def test_a_damaged_run_in_a_pattern_is_excluded_with_the_reason(
    file: str, content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [folder_of(tmp_path, f"a-s{seed}", seed=seed) for seed in range(3)]
    Path(runs[1], file).write_text(content)
    assert runs_of("policies.a", f"{tmp_path}/runs/a-*") == [runs[0], runs[2]]
    (message,) = caplog.messages
    assert message.startswith("left out: ")
    assert str(Path(runs[1], file)) in message


@pytest.mark.parametrize("text", ["wind", "wind:0.5", "wind:1:0.5", "wind:0:2", "wind:a:b", "wind:0:0.5:1"])
def test_a_subset_is_a_parameter_and_two_quantiles(text: str) -> None:
    assert parse_subset("subsets.windy", "wind_power:0.75:1") == ("wind_power", 0.75, 1.0)
    with pytest.raises(ConfigError, match=r"^subsets\.windy must be PARAMETER:LOW:HIGH"):
        parse_subset("subsets.windy", text)
