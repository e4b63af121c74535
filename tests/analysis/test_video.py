import subprocess
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from ilt.analysis.video import NoVideoError, Video, replay, side_by_side, write_animation, write_mp4
from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from tests.toys import BLOCKS, countdown

ACTIONS: dict[str, tuple[spaces.Space[Any], np.ndarray]] = {
    "a choice": (spaces.Discrete(4, start=1), np.array([1, 4, 2])),
    "several choices": (spaces.MultiDiscrete([3, 2]), np.array([[0, 1], [2, 0], [1, 1]])),
    "numbers": (spaces.Box(-2, 2, (1, 2)), np.array([[-2, 0.5], [1, 2], [0, 0]], dtype=np.float32)),
}


class Drawn(gym.Env[np.ndarray, Any]):
    """Renders white and turns one more column black at each step; the reward is the sum of the action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (as in Gymnasium)
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, size: Any = (45, 61), actions: str = "a choice", fails: Any = False, **_: Any) -> None:
        self.action_space, self._size, self._fails = ACTIONS[actions][0], tuple(size), fails

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._t = 0
        return np.zeros(1, dtype=np.float32), {"episode_params": {"wind_power": 3.14159, "seed": seed}}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        self._t += 1
        return np.zeros(1, dtype=np.float32), float(np.sum(action)), False, False, {}

    def render(self) -> Any:
        if self._fails:
            return 1 / 0 if self._fails == "with an error" else None
        frame = np.full((*self._size, 3), 255, dtype=np.uint8)
        frame[-5:, : self._t] = 0
        return frame


gym.register("ilt-tests/Drawn-v0", Drawn)


def drawn(**kwargs: Any) -> EnvSpec:
    return EnvSpec(id="ilt-tests/Drawn-v0", kwargs=kwargs, success_return=0.0, seed_blocks=BLOCKS)


def episode(actions: np.ndarray, seed: int = 7) -> Episodes:
    """Return one episode with these actions; its other arrays are placeholders."""
    return Episodes(
        observations=np.zeros((len(actions) + 1, 1), dtype=np.float32),
        actions=actions,
        rewards=np.zeros(len(actions)),
        lengths=np.array([len(actions)]),
        terminated=np.array([False]),
        truncated=np.array([True]),
        seeds=np.array([seed]),
    )


def moving_frames(n: int, fps: float, height: int = 64, width: int = 96) -> Video:
    """Return a white square that moves right by two pixels per frame."""
    frames = np.zeros((n, height, width, 3), dtype=np.uint8)
    for t in range(n):
        frames[t, 20:40, 2 * t : 2 * t + 20] = 255
    return Video(list(frames), fps)


@pytest.mark.parametrize("kind", ACTIONS)
def test_a_replay_takes_the_recorded_actions_as_the_environment_does(kind: str) -> None:
    actions = ACTIONS[kind][1]
    shown = replay(drawn(actions=kind), episode(actions), 0)
    assert shown.returns == [0.0, *np.cumsum(actions.reshape(3, -1).sum(axis=1)).tolist()]
    assert [int((frame[-1] == 0).all(axis=1).sum()) for frame in shown.frames] == [0, 1, 2, 3]
    assert shown.params == ["wind power 3.14", "seed 7"]
    assert shown.fps == 10


def test_the_lunar_lander_is_replayed_from_its_seed(lander: EnvSpec) -> None:
    frames = [replay(lander, episode(np.zeros(12, dtype=np.int64), seed), 0).frames for seed in (1, 2)]
    assert [len({frame.tobytes() for frame in each}) for each in frames] == [13, 13]
    assert {frame.shape for each in frames for frame in each} == {(400, 600, 3)}
    assert not np.array_equal(frames[0][0], frames[1][0])


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (countdown(), "does not render to rgb_array"),
        (drawn(fails="with an error"), "does not render a frame: ZeroDivisionError: division by zero"),
        (drawn(fails="without a frame"), "does not render a frame"),
    ],
)
def test_an_environment_that_cannot_render_is_one_clear_error(spec: EnvSpec, reason: str) -> None:
    with pytest.raises(NoVideoError, match=reason):
        side_by_side(spec, {"student": (episode(np.array([1])), 0)})


def test_side_by_side_lasts_as_long_as_the_longer_episode_plus_half_a_second() -> None:
    shown = {"student": (episode(np.array([1, 1])), 0), "expert": (episode(np.array([1] * 5)), 0)}
    video = side_by_side(drawn(), shown)
    assert video.fps == 10
    assert len(video.frames) == 6 + 5
    assert {frame.shape for frame in video.frames} == {(45 * 7, 2 * 61 * 7, 3)}  # enlarged to be readable
    student, expert = ([frame[:, side] for frame in video.frames] for side in (slice(0, 427), slice(427, None)))
    assert [len({panel.tobytes() for panel in panels[:6]}) for panels in (student, expert)] == [3, 6]
    assert len({panel.tobytes() for panel in student[2:]}) == len({panel.tobytes() for panel in expert[5:]}) == 1


@pytest.mark.parametrize("size", [(8, 8), (45, 61), (400, 600), (900, 1201), (40, 1000)])
def test_text_fits_frames_of_any_size(size: tuple[int, int]) -> None:
    (frame, *_), _ = side_by_side(drawn(size=size), {"a policy with a long name" * 3: (episode(np.array([1])), 0)})
    written = np.argwhere((frame != 255).any(axis=2))
    assert len(written) > 50
    assert (written.min(axis=0) > 0).all()
    assert (written.max(axis=0) < np.array(frame.shape[:2]) - 1).all()


@pytest.mark.parametrize(("seed_beside", "written"), [(7, [True, False]), (8, [True, True])])
def test_physics_are_written_once_for_episodes_with_the_same_seed(seed_beside: int, written: list[bool]) -> None:
    shown = {name: (episode(np.array([1]), seed), 0) for name, seed in (("one", 7), ("two", seed_beside))}
    frame = side_by_side(drawn(size=(400, 600)), shown).frames[0]
    assert [bool((frame[42:130, left : left + 300] != 255).any()) for left in (0, 600)] == written


@pytest.mark.parametrize(("height", "width"), [(64, 96), (63, 95)])
def test_an_mp4_decodes_to_the_written_frames(height: int, width: int, tmp_path: Path) -> None:
    video = moving_frames(30, 10, height, width)
    write_mp4(video, tmp_path / "video.mp4")
    command = f"{get_ffmpeg_exe()} -nostdin -i {tmp_path / 'video.mp4'} -f rawvideo -pix_fmt rgb24 -".split()
    finished = subprocess.run(command, capture_output=True, check=True)  # imageio's readers leave pipes open
    back = np.frombuffer(finished.stdout, dtype=np.uint8).reshape(30, 64, 96, 3)[:, :height, :width]
    assert np.abs(back.astype(int) - np.stack(video.frames)).mean() < 5  # compressed, but recognizably the same frames
    stream = next(line for line in finished.stderr.decode().splitlines() if "Video: h264" in line)
    assert "yuv420p" in stream  # the one format that every browser plays
    assert "10 fps" in stream


@pytest.mark.parametrize(("fps", "most", "n_frames", "ms"), [(50, None, 5, 80), (4, None, 20, 250), (50, 4, 4, 100)])
def test_an_animation_loops_in_real_time(fps: float, most: int | None, n_frames: int, ms: int, tmp_path: Path) -> None:
    write_animation(moving_frames(20, fps), tmp_path / "animation.gif", most=most, width=48)
    with Image.open(tmp_path / "animation.gif") as image:
        assert (image.format, image.size, image.n_frames) == ("GIF", (48, 32), n_frames)
        assert (image.info["loop"], image.info["duration"]) == (0, ms)  # 0 means forever
        first = np.asarray(image.convert("RGB"))
        image.seek(n_frames - 1)
        assert not np.array_equal(np.asarray(image.convert("RGB")), first)
