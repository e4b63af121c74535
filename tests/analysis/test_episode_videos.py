"""Videos show the episodes that were scored."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ilt.analysis import episode_videos
from ilt.analysis.episode_videos import choose_episodes, film_episodes
from ilt.envs.spec import EnvSpec
from ilt.tracking.records import RunRecord
from ilt.tracking.store import DamagedArtifactError
from tests.analysis.finished_runs import read, roll_out_run

Filmed = tuple[RunRecord, Path]


@pytest.fixture(scope="module")
def filmed(lander: EnvSpec, tmp_path_factory: pytest.TempPathFactory) -> Filmed:
    """Return a run of five test episodes, and the folder with its videos."""
    run = read(roll_out_run(tmp_path_factory.mktemp("runs") / "run", lander))
    film_episodes(run, lander, run.path.parent / "videos")
    return run, run.path.parent / "videos"


@pytest.mark.parametrize(
    ("returns", "chosen"),
    [
        ([5.0, 1.0, 3.0], {"best": 0, "median": 2, "worst": 1}),
        ([4.0, 1.0, 2.0, 3.0], {"best": 0, "median": 3, "worst": 1}),
        ([7.0], {"best": 0, "median": 0, "worst": 0}),
    ],
)
def test_best_median_and_worst_are_by_return(returns: list[float], chosen: dict[str, int]) -> None:
    assert choose_episodes(np.array(returns)) == chosen


def test_each_episode_is_replayed_as_scored_and_filmed_once(
    filmed: Filmed, lander: EnvSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = filmed
    monkeypatch.setattr(episode_videos, "rollout", None)  # an existing video is not made again
    shown = film_episodes(run, lander, folder)
    returns = sorted(run.episodes["student_return"])
    assert [episode.recorded_return for episode in shown] == [returns[-1], returns[2], returns[0]]
    assert all(episode.replayed_return == episode.recorded_return for episode in shown)
    assert {file for episode in shown for file in (episode.video, episode.poster)} == set(folder.iterdir())
    assert all(video.read_bytes()[4:8] == b"ftyp" for video in folder.glob("*.mp4"))
    assert all(poster.read_bytes()[:2] == b"\xff\xd8" for poster in folder.glob("*.jpg"))
    assert film_episodes(run, lander, folder, ["median"]) == [shown[1]]


def test_an_episode_whose_replay_differs_is_not_shown(filmed: Filmed, lander: EnvSpec, tmp_path: Path) -> None:
    run, _ = filmed
    recorded = run.episodes["student_return"] + np.array([0.01, 0, 0, 0, 0])
    recorded[1:] = recorded[1]
    claimed = replace(run, episodes={**run.episodes, "student_return": recorded})
    shown = film_episodes(claimed, lander, tmp_path)
    assert [e.video is None for e in shown] == [e.replayed_return != e.recorded_return for e in shown]
    assert any(episode.video is None for episode in shown)


def test_weights_other_than_the_scored_ones_are_not_shown(lander: EnvSpec, tmp_path: Path) -> None:
    run = read(roll_out_run(tmp_path / "run", lander, n_episodes=1))
    unlisted = replace(run, results={**run.results, "files": {}})
    with pytest.raises(ValueError, match=r"results.json does not list weights/last\.safetensors"):
        film_episodes(unlisted, lander, tmp_path)
    (run.path / "weights" / "last.safetensors").write_bytes(b"other")
    with pytest.raises(DamagedArtifactError, match=r"last\.safetensors is not the file that its manifest describes"):
        film_episodes(run, lander, tmp_path)
