"""Videos of a run's best, median and worst test episodes, which are rolled out again and checked for equal returns."""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ilt.analysis.video import side_by_side, write_mp4, write_poster
from ilt.envs.spec import EnvSpec
from ilt.models.spec import ModelSpec
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.run import rollout
from ilt.schema import config_hash, printable
from ilt.tracking.reading import is_regular
from ilt.tracking.records import RunRecord
from ilt.tracking.run_folder import check_run_files

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EpisodeVideo:
    """One test episode of a student, and its video.

    Attributes:
        kind: `best`, `median` or `worst` by return, among the run's test episodes.
        seed: the episode's seed.
        recorded_return: its return in `episodes.csv`.
        steps: its length in `episodes.csv`.
        replayed_return: its return when it was rolled out again.
        video: the file; None if the two returns differ, because the rollout is then a different episode.
        poster: a JPEG of one of the video's frames, in the same folder.
    """

    kind: str
    seed: int
    recorded_return: float
    steps: int
    replayed_return: float
    video: Path | None

    @property
    def poster(self) -> Path | None:
        """The file of the poster, if there is a video."""
        return self.video and _poster(self.video)


def choose_episodes(returns: np.ndarray) -> dict[str, int]:
    """Return the indices of the best, median (or upper median) and worst of (E,) returns."""
    order = np.argsort(returns, kind="stable")
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}


def film_episodes(
    run: RunRecord, spec: EnvSpec, folder: Path, kinds: Collection[str] = ("best", "median", "worst")
) -> list[EpisodeVideo]:
    """Roll out a run's best, median and worst test episodes again, and write a video of each to `folder`.

    Existing videos are reused. The run's config must have been checked.

    Raises:
        ValueError: the run's weights are missing, or differ from those that it was scored with; or `folder` is a link.
        NoVideoError: the environment cannot be rendered.
    """
    weights = f"weights/{run.config['evaluation']['reported_checkpoint']}.safetensors"
    if weights not in run.results["files"]:
        raise ValueError(f"results.json does not list {weights}")
    check_run_files(run.path, {weights: run.results["files"][weights]})
    recorded = run.episodes["student_return"]
    chosen = {kind: episode for kind, episode in choose_episodes(recorded).items() if kind in kinds}
    videos = {episode: folder / _name(run, spec, weights, episode) for episode in chosen.values()}
    missing = {episode: video for episode, video in videos.items() if not _is_whole(video)}
    replayed = {episode: float(recorded[episode]) for episode in videos}
    if missing:
        if folder.is_symlink():
            raise ValueError(f"{folder.name} is a link")
        folder.mkdir(parents=True, exist_ok=True)
        replayed |= _film(run, spec, weights, missing)
    return [
        EpisodeVideo(
            kind=kind,
            seed=int(run.episodes["seed"][episode]),
            recorded_return=float(recorded[episode]),
            steps=int(run.episodes["student_steps"][episode]),
            replayed_return=replayed[episode],
            video=videos[episode] if _is_whole(videos[episode]) else None,
        )
        for kind, episode in chosen.items()
    ]


def _film(run: RunRecord, spec: EnvSpec, weights: str, videos: Mapping[int, Path]) -> dict[int, float]:
    """Roll out these episodes again and return their returns. Make videos of those that match `episodes.csv`."""
    _, model, head = ModelSpec.load(run.path / weights, trust=spec.trust)
    evaluation = run.config["evaluation"]
    policy = SequencePolicy(
        model, head, context_length=evaluation["context_length"], deterministic=evaluation["deterministic"]
    )
    episodes = rollout(spec, policy, run.episodes["seed"][list(videos)].astype(np.int64))
    for i, (episode, video) in enumerate(videos.items()):
        if np.isclose(episodes.returns[i], run.episodes["student_return"][episode], rtol=0, atol=1e-6):
            log.info("recording a video of seed %d of %s", episodes.seeds[i], printable(run.name))
            shown = side_by_side(spec, {"student": (episodes, i)})
            for path, write in ((_poster(video), write_poster), (video, write_mp4)):
                partial = path.with_name(f".{path.name}")
                partial.unlink(missing_ok=True)  # it may be a link
                write(shown, partial)
                os.replace(partial, path)
    return {episode: float(value) for episode, value in zip(videos, episodes.returns, strict=True)}


def _poster(video: Path) -> Path:
    return video.with_suffix(".jpg")


def _is_whole(video: Path) -> bool:
    return is_regular(video) and is_regular(_poster(video))


def _name(run: RunRecord, spec: EnvSpec, weights: str, episode: int) -> str:
    """Return the file name of an episode's video, with a hash of everything that the episode depends on."""
    seed = int(run.episodes["seed"][episode])
    made_of = [
        run.results["files"][weights],
        spec.identity(),
        run.config["evaluation"],
        seed,
        float(run.episodes["student_return"][episode]),
    ]
    return f"{seed}-{config_hash(made_of)}.mp4"
