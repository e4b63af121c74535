"""Videos show the episode that was recorded."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from ilt.analysis.video import ARROW, BLUE, Replay, replay, side_by_side, write_animation, write_mp4
from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.rollout.policies import RandomPolicy
from ilt.rollout.run import rollout


@pytest.fixture(scope="module")
def flown(lander: EnvSpec) -> Episodes:
    """Three short episodes of the Lunar Lander: the first steps of random play."""
    short = EnvSpec(
        id=lander.id,
        kwargs={"max_episode_steps": 12},
        success_return=lander.success_return,
        seed_blocks=lander.seed_blocks,
    )
    return rollout(short, RandomPolicy(4), lander.seeds("validation", 3))


@pytest.fixture(scope="module")
def replayed(lander: EnvSpec, flown: Episodes) -> Replay:
    return replay(lander, flown, 1)


@pytest.fixture(scope="module")
def windy(lander: EnvSpec) -> EnvSpec:
    """A Lunar Lander in a strong wind that a student is not shown."""
    physics = {"gravity": [-9.0, -5.0], "wind_power": [15.0, 20.0]}
    return replace(lander, kwargs={"max_episode_steps": 12}, wrappers={"hidden_physics": physics})


@pytest.fixture(scope="module")
def blown(windy: EnvSpec) -> Episodes:
    return rollout(windy, RandomPolicy(4), windy.seeds("validation", 5))


def moving_frames(n: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    """A white square that moves to the right by two pixels a frame."""
    frames = np.zeros((n, height, width, 3), dtype=np.uint8)
    for t in range(n):
        frames[t, 20:40, 2 * t : 2 * t + 20] = 255
    return list(frames)


def test_an_episode_of_t_steps_has_one_frame_more(replayed: Replay) -> None:
    frames, returns = replayed.frames, replayed.returns
    assert len(frames) == len(returns) == 13
    assert all(frame.shape == (400, 600, 3) and frame.dtype == np.uint8 for frame in frames)


def test_the_replay_earns_what_was_recorded(flown: Episodes, replayed: Replay) -> None:
    recorded = flown.rewards[12:24]
    assert replayed.returns == [0.0, *np.cumsum(recorded).tolist()]


def test_the_frames_are_a_moving_picture(replayed: Replay) -> None:
    frames = replayed.frames
    assert len({frame.tobytes() for frame in frames}) == 13
    assert all(len(np.unique(frame)) > 2 for frame in frames)


def test_a_whole_episode_replays_to_its_return(lander: EnvSpec) -> None:
    episodes = rollout(lander, RandomPolicy(4), lander.seeds("validation", 1))
    whole = replay(lander, episodes, 0)
    assert len(whole.frames) == episodes.lengths[0] + 1
    assert whole.returns[-1] == pytest.approx(episodes.returns[0])


def test_another_episode_is_another_picture(lander: EnvSpec, flown: Episodes, replayed: Replay) -> None:
    other = replay(lander, flown, 2)
    assert not np.array_equal(other.frames[0], replayed.frames[0])


def test_side_by_side_waits_for_the_longer_one_and_a_moment_at_the_end(lander: EnvSpec, flown: Episodes) -> None:
    shorter = Episodes(
        observations=flown.observations[:6],
        actions=flown.actions[:5],
        rewards=flown.rewards[:5],
        lengths=np.array([5]),
        terminated=np.array([False]),
        truncated=np.array([True]),
        seeds=flown.seeds[:1],
    )
    video = side_by_side(lander, {"student": (shorter, 0), "expert": (flown, 1)})
    assert len(video) == 13 + 25
    assert {frame.shape for frame in video} == {(400, 1200, 3)}
    student, expert = zip(*((frame[:, :600], frame[:, 600:]) for frame in video), strict=True)
    assert len({panel.tobytes() for panel in student[:6]}) == 6
    assert len({panel.tobytes() for panel in student[5:]}) == 1  # the shorter one waits
    assert len({panel.tobytes() for panel in expert[:13]}) == 13
    assert len({panel.tobytes() for panel in expert[12:]}) == 1


def test_the_name_is_written_above_the_picture(lander: EnvSpec, flown: Episodes) -> None:
    named, other = (side_by_side(lander, {name: (flown, 0)})[0] for name in ("student", "expert"))
    assert not np.array_equal(named[:40], other[:40])
    assert np.array_equal(named[40:], other[40:])


def test_a_replay_knows_the_hidden_wind_of_each_moment_and_what_was_drawn(windy: EnvSpec, blown: Episodes) -> None:
    flown = replay(windy, blown, 2)
    start, length = blown.step_offsets[2], blown.lengths[2]
    recorded = blown.extras["step/privileged"][start : start + length, windy.hidden_names().index("wind_force")]
    assert flown.winds[:-1] == recorded.tolist()
    assert len(flown.winds) == length + 1
    assert flown.returns[-1] == pytest.approx(blown.returns[2])
    assert flown.facts[0] == f"gravity {blown.extras['episode/gravity'][2]:.1f}"
    assert flown.facts[3] == "main engine 100%"


def test_where_nothing_is_hidden_there_is_no_arrow_and_nothing_to_tell(replayed: Replay) -> None:
    assert replayed.winds == replayed.facts == []


def test_an_arrow_points_where_the_wind_blows_and_is_as_long_as_it_is_strong(windy: EnvSpec, blown: Episodes) -> None:
    forces, tips = [], []
    tail = 600 - ARROW - 20
    for episode in range(5):
        frame = side_by_side(windy, {"any": (blown, episode)})[-1]
        blue = np.flatnonzero((frame == BLUE).all(axis=2).any(axis=0))
        tips.append(blue.max() if blue.mean() > tail else blue.min())
        forces.append(replay(windy, blown, episode).winds[-1])
    assert min(forces) < -0.2
    assert max(forces) > 0.2
    np.testing.assert_allclose(tips, tail + ARROW * np.array(forces), atol=1.5)


def test_what_was_drawn_is_told_once_for_flights_of_the_same_seed(windy: EnvSpec, blown: Episodes) -> None:
    def left(frame: np.ndarray, panel: int) -> np.ndarray:
        return frame[40:140, 600 * panel : 600 * panel + 200]

    same = side_by_side(windy, {"one": (blown, 0), "two": (blown, 0)})[0]
    other = side_by_side(windy, {"one": (blown, 0), "two": (blown, 1)})[0]
    assert left(same, 0).any()
    assert not left(same, 1).any()
    assert left(other, 1).any()


def decode(path: Path) -> tuple[bytes, str]:
    """The raw RGB of a video and what FFmpeg says of it. (Readers of imageio leave pipes open, which is a warning.)"""
    command = [get_ffmpeg_exe(), "-nostdin", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    finished = subprocess.run(command, capture_output=True, check=True)
    return finished.stdout, finished.stderr.decode()


def test_an_mp4_comes_back_as_it_was_written(tmp_path: Path) -> None:
    frames = moving_frames(30)
    write_mp4(frames, tmp_path / "video.mp4", fps=10)
    raw, description = decode(tmp_path / "video.mp4")
    back = np.frombuffer(raw, dtype=np.uint8).reshape(30, 64, 96, 3)
    assert np.abs(back.astype(int) - np.stack(frames)).mean() < 5  # compressed, but the same pictures
    stream = next(line for line in description.splitlines() if "Video: h264" in line)
    assert "yuv420p" in stream  # the one format that every browser plays
    assert "10 fps" in stream


def test_a_flight_can_be_written_as_it_is(tmp_path: Path, replayed: Replay) -> None:
    frames = replayed.frames
    write_mp4(frames, tmp_path / "flight.mp4")
    raw, description = decode(tmp_path / "flight.mp4")
    assert len(raw) == len(frames) * 400 * 600 * 3
    assert "50 fps" in description


def test_an_animation_is_small_and_loops(tmp_path: Path) -> None:
    write_animation(moving_frames(20), tmp_path / "animation.gif", every=4, width=48)
    with Image.open(tmp_path / "animation.gif") as image:
        assert image.format == "GIF"
        assert image.size == (48, 32)
        assert image.n_frames == 5
        assert image.info["loop"] == 0  # for ever
        assert image.info["duration"] == 80  # milliseconds: every fourth frame of fifty a second
        first = np.asarray(image.convert("RGB"))
        image.seek(4)
        assert not np.array_equal(np.asarray(image.convert("RGB")), first)


def test_an_animation_of_a_flight_is_small_enough_for_a_page(tmp_path: Path, replayed: Replay) -> None:
    frames = replayed.frames
    write_animation(frames, tmp_path / "flight.gif")
    assert (tmp_path / "flight.gif").stat().st_size < 20_000 * len(frames)
    with Image.open(tmp_path / "flight.gif") as image:
        assert image.size == (600, 400)
