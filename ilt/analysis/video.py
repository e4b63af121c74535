"""Videos of episodes side by side, rendered by replaying their recorded actions."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec

WHITE, GRAY, BLACK = (255, 255, 255), (190, 190, 190), (0, 0, 0)
LEAST_WIDTH = 400  # pixels; smaller frames are enlarged, so that text is legible
GIF_RATE = 12.5  # images per second


class NoVideoError(RuntimeError):
    """The environment cannot be rendered."""


class Video(NamedTuple):
    """Frames (H, W, 3) uint8, all of the same size, and frames per second."""

    frames: list[np.ndarray]
    fps: float


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A replayed episode of T steps. `frames` and `returns` have T + 1 entries: before each action and after the last.

    Attributes:
        frames: (H, W, 3) uint8 each.
        returns: sum of the rewards so far.
        params: one line per randomized parameter of the episode, such as its gravity.
        fps: frames per second of simulated time.
    """

    frames: list[np.ndarray]
    returns: list[float]
    params: list[str]
    fps: float


def replay(spec: EnvSpec, episodes: Episodes, episode: int) -> Replay:
    """Replay the recorded actions of one of `episodes` from its recorded seed.

    Raises:
        NoVideoError: the environment has no `rgb_array` among its render modes, or fails to render.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # needs no display
    env = _make(spec)
    try:
        _, info = env.reset(seed=int(episodes.seeds[episode]))
        start, length = int(episodes.step_offsets[episode]), int(episodes.lengths[episode])
        frames, returns = [_render(env)], [0.0]
        for action in spec.action_space.for_simulator(episodes.actions[start : start + length]):
            _, reward, *_ = env.step(action)
            frames.append(_render(env))
            returns.append(returns[-1] + float(reward))
        drawn = info.get("episode_params", {})
        return Replay(
            frames=frames,
            returns=returns,
            params=[f"{name.replace('_', ' ')} {value:.3g}" for name, value in drawn.items()],
            fps=float(env.metadata.get("render_fps") or 30),
        )
    finally:
        env.close()


def _make(spec: EnvSpec) -> Any:
    plain = spec.make()
    modes = plain.metadata.get("render_modes") or []
    plain.close()
    if "rgb_array" not in modes:
        raise NoVideoError(f"{spec.id} does not render to rgb_array, only to {list(modes)}")
    try:
        return spec.make(render_mode="rgb_array")
    except Exception as error:
        raise NoVideoError(f"{spec.id} cannot be made with render_mode=rgb_array: {error}") from error


def _render(env: Any) -> np.ndarray:
    """Return the current frame as (H, W, 3) uint8. Raise NoVideoError for any error that the environment raises."""
    try:
        frame = np.asarray(env.render())
        return np.asarray(Image.fromarray(frame).convert("RGB"))
    except Exception as error:
        raise NoVideoError(f"{env} does not render a frame: {type(error).__name__}: {error}") from error


def side_by_side(spec: EnvSpec, shown: Mapping[str, tuple[Episodes, int]]) -> Video:
    """Render several episodes side by side, each with its name and return. Shorter ones hold their last frame.

    An episode's randomized parameters are written below its title, unless they equal those of the episode to its left.
    Small frames are enlarged.

    Args:
        shown: episodes and the index of one of them, by the name to show.

    Raises:
        NoVideoError: the environment cannot be rendered.
    """
    replays = {name: replay(spec, episodes, episode) for name, (episodes, episode) in shown.items()}
    sizes = [frame.shape[:2] for each in replays.values() for frame in each.frames]
    size = tuple(np.max(sizes, axis=0).tolist())
    beside = [None, *replays.values()]
    notes = [
        each.params if left is None or each.params != left.params else []
        for left, each in zip(beside, replays.values(), strict=False)
    ]
    fps = next(iter(replays.values())).fps
    frames = [
        np.concatenate(
            [_panel(*named, t, note, size) for named, note in zip(replays.items(), notes, strict=True)], axis=1
        )
        for t in range(max(len(each.frames) for each in replays.values()) + round(fps / 2))
    ]
    return Video(frames, fps)


def _panel(name: str, shown: Replay, t: int, notes: list[str], size: tuple[int, int]) -> np.ndarray:
    """Draw frame `t` of an episode, or its last frame, with title and notes. `size` is (height, width)."""
    now = min(t, len(shown.frames) - 1)
    frame = shown.frames[now]
    height, width = size
    padded = np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0)))
    scale = -(-LEAST_WIDTH // width) if width < LEAST_WIDTH else 1
    image = Image.fromarray(padded.repeat(scale, axis=0).repeat(scale, axis=1))
    draw = ImageDraw.Draw(image)
    x, top = image.width // 50, image.width // 75
    title = f"{name}   step {now}   return {round(shown.returns[now])}"
    longest = f"{name}   step {len(shown.frames)}   return {round(min(shown.returns))}0"  # keeps the font size constant
    size_of_title = _fitting([longest], image.width - 3 * x, image.height // 8, image.width * 22 // 600)
    _write(draw, (x, top), title, WHITE, size_of_title)
    if notes:
        below = top + round(1.5 * size_of_title)
        size_of_notes = _fitting(notes, image.width - 3 * x, image.height - below, size_of_title * 9 // 11)
        _write(draw, (x, below), "\n".join(notes), GRAY, size_of_notes)
    return np.asarray(image)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, fill: tuple[int, int, int], size: int) -> None:
    """Draw text with an outline, which makes it legible on any background."""
    draw.multiline_text(place, text, fill=fill, font=_font(size), stroke_width=max(1, size // 10), stroke_fill=BLACK)


def _fitting(lines: Sequence[str], width: int, height: int, largest: int) -> int:
    """Return the font size, at most `largest`, at which the lines fit into `width` × `height` pixels."""
    size = max(1, min(largest, int(height / len(lines) / 1.4)))
    while size > 1 and max(_font(size).getlength(line) for line in lines) > width:
        size -= 1
    return size


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def write_mp4(video: Video, path: Path) -> None:
    """Write an H.264 video that browsers can play. It needs even sides, so an odd one repeats its last pixels."""
    writer: Any = imageio.get_writer(path, fps=video.fps, codec="libx264", pixelformat="yuv420p", macro_block_size=2)
    with writer:
        for frame in video.frames:
            odd = (0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)
            writer.append_data(np.pad(frame, odd, mode="edge") if np.any(odd) else frame)


def write_poster(video: Video, path: Path, *, width: int = 480) -> None:
    """Write a frame from two thirds into the video as a small JPEG, `width` pixels wide."""
    frame = Image.fromarray(video.frames[2 * len(video.frames) // 3])
    small = frame.resize((width, round(frame.height * width / frame.width)), Image.Resampling.LANCZOS)
    small.save(path, format="JPEG", quality=75)


def write_animation(video: Video, path: Path, *, width: int = 600, most: int | None = None) -> None:
    """Write a small looping GIF that plays in real time, for example for a README.

    Args:
        width: in pixels.
        most: maximum number of images, or None; a longer video gets a lower frame rate.
    """
    n_frames = len(video.frames)
    every = max(1, round(video.fps / GIF_RATE), -(-n_frames // (most or n_frames)))
    small = [
        Image.fromarray(frame).resize((width, round(frame.shape[0] * width / frame.shape[1])), Image.Resampling.LANCZOS)
        for frame in video.frames[::every]
    ]
    sample = np.concatenate([np.asarray(small[len(small) * third // 3]) for third in range(3)])
    palette = Image.fromarray(sample).quantize(64, method=Image.Quantize.MAXCOVERAGE)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in small]
    duration = round(1000 * every / video.fps)  # milliseconds
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=True)
