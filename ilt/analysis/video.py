"""Videos of episodes side by side, rendered by replaying their recorded actions."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ilt.data.episodes import Episodes
from ilt.envs.spec import EnvSpec
from ilt.envs.wrappers import facts, hidden_names, in_words, visible

WIND = "wind_force"
"""The hidden number that is drawn as an arrow."""

ARROW = 180
"""How long it is for the strongest wind, in pixels."""

WHITE, GRAY, BLUE = (255, 255, 255), (190, 190, 190), (110, 180, 255)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """An episode of T steps flown again, in T + 1 moments: before each action, and after the last one.

    Attributes:
        frames: (H, W, 3) uint8 each.
        returns: what was earned so far.
        winds: the wind that the next step meets, over the strongest there is, in [−1, 1] and positive to the right;
            empty where the environment hides no wind.
        facts: what the episode was drawn to be, such as its gravity, in words.
    """

    frames: list[np.ndarray]
    returns: list[float]
    winds: list[float]
    facts: list[str]


def replay(spec: EnvSpec, episodes: Episodes, episode: int) -> Replay:
    """Fly the recorded actions of one of `episodes` again from its recorded seed."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no display is needed
    env = spec.make(render_mode="rgb_array")
    seen, _ = env.reset(seed=int(episodes.seeds[episode]))
    start, length = int(episodes.step_offsets[episode]), int(episodes.lengths[episode])
    observations, frames, returns = [seen], [env.render()], [0.0]
    for action in episodes.actions[start : start + length].tolist():
        seen, reward, *_ = env.step(action)
        observations.append(seen)
        frames.append(env.render())
        returns.append(returns[-1] + float(reward))
    env.close()
    names = hidden_names(env)
    winds = [float(seen[visible(env) + names.index(WIND)]) for seen in observations] if WIND in names else []
    return Replay(frames=frames, returns=returns, winds=winds, facts=in_words(facts(env)))  # type: ignore[arg-type]


def side_by_side(spec: EnvSpec, flights: Mapping[str, tuple[Episodes, int]]) -> list[np.ndarray]:
    """Frames of several episodes beside each other, each under its name and return; the shorter ones wait at the end.

    Where the environment hides a wind from students, an arrow shows it. What an episode was drawn to be stands at its
    left, unless the episode beside it was drawn to be the same.

    Args:
        flights: episodes, and which one of them, by the name that is written above it.
    """
    replays = {name: replay(spec, episodes, episode) for name, (episodes, episode) in flights.items()}
    beside = [None, *replays.values()]
    notes = [
        flown.facts if left is None or flown.facts != left.facts else []
        for left, flown in zip(beside, replays.values(), strict=False)
    ]
    return [
        np.concatenate([_panel(*named, t, note) for named, note in zip(replays.items(), notes, strict=True)], axis=1)
        for t in range(max(len(flown.frames) for flown in replays.values()) + 25)
    ]


def _panel(name: str, flown: Replay, t: int, notes: list[str]) -> np.ndarray:
    """One moment of one episode, or its last one, with what is to be said about it."""
    now = min(t, len(flown.frames) - 1)
    image = Image.fromarray(flown.frames[now])
    draw = ImageDraw.Draw(image)
    draw.text((12, 8), f"{name}   step {now}   return {round(flown.returns[now])}", fill=WHITE, font=_font(22))
    draw.multiline_text((12, 40), "\n".join(notes), fill=GRAY, font=_font(18))
    if flown.winds:
        _draw_wind(draw, flown.winds[now], x=image.width - ARROW - 20, y=60)
    return np.asarray(image)


def _draw_wind(draw: ImageDraw.ImageDraw, force: float, *, x: int, y: int) -> None:
    """An arrow from (x, y), in pixels, as long as the wind in [−1, 1] is strong; a tick marks where it begins."""
    draw.line([(x, y - 11), (x, y + 11)], fill=GRAY, width=2)
    draw.text((x, y + 12), "wind", fill=GRAY, font=_font(18), anchor="ma")
    tip, head = x + round(ARROW * force), 18
    if abs(tip - x) < 2:
        return
    back = tip - min(head, abs(tip - x)) * (1 if force > 0 else -1)
    draw.line([(x, y), (back, y)], fill=BLUE, width=7)
    draw.polygon([(tip, y), (back, y - 11), (back, y + 11)], fill=BLUE)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def write_mp4(frames: list[np.ndarray], path: Path, *, fps: int = 50) -> None:
    """Write an H.264 video that browsers play."""
    writer: Any = imageio.get_writer(path, fps=fps, codec="libx264", pixelformat="yuv420p", macro_block_size=2)
    with writer:
        for frame in frames:
            writer.append_data(frame)


def write_animation(frames: list[np.ndarray], path: Path, *, every: int = 4, width: int = 600) -> None:
    """Write a small looping GIF of every n-th frame, for a README. Frames come at 50 per second of simulated time."""
    small = [
        Image.fromarray(frame).resize((width, round(frame.shape[0] * width / frame.shape[1])), Image.Resampling.LANCZOS)
        for frame in frames[::every]
    ]
    sample = np.concatenate([np.asarray(small[len(small) * third // 3]) for third in range(3)])
    palette = Image.fromarray(sample).quantize(64, method=Image.Quantize.MAXCOVERAGE)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in small]
    images[0].save(path, save_all=True, append_images=images[1:], duration=20 * every, loop=0, optimize=True)
