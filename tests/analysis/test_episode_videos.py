"""The episodes that are shown are those that were scored."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ilt.analysis import episode_videos
from ilt.analysis.episode_videos import choose_episodes, film_episodes
from ilt.envs.spec import EnvSpec
from ilt.tracking.records import RunRecord, read_run
from ilt.tracking.run_folder import read_config
from ilt.tracking.store import DamagedArtifactError
from tests.analysis.finished_runs import roll_out_run


@pytest.fixture(scope="module")
def filmed(lander: EnvSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    """A run of five test episodes, and the folder of its videos."""
    path = roll_out_run(tmp_path_factory.mktemp("runs") / "run", lander)
    run = read_run("run", path, read_config(path))
    film_episodes(run, lander, path.parent / "videos")
    return run, path.parent / "videos"


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


def test_each_episode_is_rolled_out_again_as_it_was_scored_and_filmed_once(
    filmed: tuple[RunRecord, Path], lander: EnvSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = filmed
    monkeypatch.setattr(episode_videos, "rollout", None)  # a video that is there is not made again
    shown = film_episodes(run, lander, folder)
    returns = sorted(run.episodes["student_return"])
    assert [episode.recorded_return for episode in shown] == [returns[-1], returns[2], returns[0]]
    assert all(episode.replayed_return == episode.recorded_return for episode in shown)
    assert {episode.video for episode in shown} == set(folder.iterdir())
    assert all(video.read_bytes()[4:8] == b"ftyp" for video in folder.iterdir())


def test_an_episode_that_goes_otherwise_is_not_passed_off_as_the_one_that_was_scored(
    filmed: tuple[RunRecord, Path], lander: EnvSpec, tmp_path: Path
) -> None:
    run, _ = filmed
    recorded = run.episodes["student_return"] + np.array([0.01, 0, 0, 0, 0])
    recorded[1:] = recorded[1]
    claimed = replace(run, episodes={**run.episodes, "student_return": recorded})
    for episode in film_episodes(claimed, lander, tmp_path):
        assert (episode.video is None) == (episode.replayed_return != episode.recorded_return)
    assert any(episode.video is None for episode in film_episodes(claimed, lander, tmp_path))


def test_weights_that_were_not_scored_are_not_shown(lander: EnvSpec, tmp_path: Path) -> None:
    path = roll_out_run(tmp_path / "run", lander, n_episodes=1)
    changed = read_run("run", path, read_config(path))
    (path / "weights" / "last.safetensors").write_bytes(b"other")
    with pytest.raises(DamagedArtifactError, match=r"last\.safetensors is not the file that its manifest describes"):
        film_episodes(changed, lander, tmp_path)
    results = json.loads((path / "results.json").read_text())
    (path / "results.json").write_text(json.dumps({**results, "files": {}}))
    with pytest.raises(ValueError, match=r"results.json does not list weights/last\.safetensors"):
        film_episodes(read_run("run", path, read_config(path)), lander, tmp_path)
