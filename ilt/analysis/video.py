"""Videos of episodes side by side, rendered by replaying their recorded actions."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ilt.demos import Episodes
from ilt.envs import EnvSpec


def replay_frames(spec: EnvSpec, episodes: Episodes, episode: int) -> tuple[list[np.ndarray], list[float]]:
    """Fly recorded actions again from the recorded seed: T + 1 frames (H, W, 3) uint8, and the return up to each."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # no display is needed
    env = spec.make(render_mode="rgb_array")
    env.reset(seed=int(episodes.seeds[episode]))
    start, length = int(episodes.step_offsets[episode]), int(episodes.lengths[episode])
    frames, returns = [env.render()], [0.0]
    for action in episodes.actions[start : start + length].tolist():
        _, reward, *_ = env.step(action)
        frames.append(env.render())
        returns.append(returns[-1] + float(reward))
    env.close()
    return frames, returns  # type: ignore[return-value]  # rgb_array renders arrays


def side_by_side(spec: EnvSpec, flights: Mapping[str, tuple[Episodes, int]]) -> list[np.ndarray]:
    """Frames of several episodes beside each other, each under its name and return; the shorter ones wait at the end.

    Args:
        flights: episodes, and which one of them, by the name that is written above it.
    """
    font = ImageFont.load_default(size=22)
    replays = {name: replay_frames(spec, episodes, episode) for name, (episodes, episode) in flights.items()}
    length = max(len(frames) for frames, _ in replays.values())
    video = []
    for t in range(length + 25):
        panels = []
        for name, (frames, returns) in replays.items():
            now = min(t, len(frames) - 1)
            panel = Image.fromarray(frames[now])
            text = f"{name}   step {now}   return {returns[now]:.0f}"
            ImageDraw.Draw(panel).text((12, 8), text, fill=(255, 255, 255), font=font)
            panels.append(np.asarray(panel))
        video.append(np.concatenate(panels, axis=1))
    return video


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
    palette = small[0].quantize(64)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in small]
    images[0].save(path, save_all=True, append_images=images[1:], duration=20 * every, loop=0, optimize=True)
