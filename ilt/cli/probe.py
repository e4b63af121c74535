"""Probe a trained student for quantities that its environment hides: `ilt probe run=outputs/runs/NAME`."""

import csv
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.envs.spec import EnvSpec
from ilt.rollout.workers import start_early
from ilt.schema import ConfigError, config_hash
from ilt.settings import check_config, parse_seeds

if TYPE_CHECKING:
    import numpy as np

    from ilt.analysis.probes import Score
    from ilt.data.episodes import Episodes
    from ilt.models.base import SequenceModel
    from ilt.models.heads import ActionHead
    from ilt.rollout.recorded import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Student:
    """A trained student and the config of its run."""

    name: str
    run: DictConfig
    model: "SequenceModel"
    head: "ActionHead"

    @property
    def context_length(self) -> int:
        """The context length, in steps, that the run was scored with."""
        return int(self.run.evaluation.context_length or self.model.context_length)


def find_student(cfg: DictConfig, key: str) -> tuple["Context", Student]:
    """Load the student of the run that `cfg[key]` names, and a context with its environment.

    Raise ConfigError if there is no such run, or if it lacks the weights.
    """
    from ilt.tracking.run_folder import read_finished

    folder = Path(cfg[key])
    run, trained = read_finished(folder, key=key)
    if not EnvSpec.from_config(run.env, trust=cfg.trust).observations.privileged_names:
        raise ConfigError(
            f"{key} must be a run whose env hides something from the student, such as env=lunar_lander_hidden, "
            f"got {cfg[key]}"
        )
    from ilt.models.spec import ModelSpec
    from ilt.pipeline import prepare

    checkpoint = cfg.checkpoint or run.evaluation.reported_checkpoint
    weights = f"weights/{checkpoint}.safetensors"
    if weights not in trained["files"]:
        raise ConfigError(f"{key} must be a run whose results.json lists {weights}, got {folder}")
    _, model, head = ModelSpec.load(folder / weights, trust=cfg.trust)
    return prepare(cfg, run.env, trust=cfg.trust), Student(folder.name, run, model, head)


def choose_seeds(cfg: DictConfig, spec: EnvSpec) -> dict[str, "np.ndarray"]:
    """Return the seeds (E,) of the config keys `fit_seeds` and `seeds`.

    Raise ConfigError if they overlap, or if there are fewer than `LEAST_EPISODES`.
    """
    import numpy as np

    from ilt.analysis.probes import LEAST_EPISODES

    chosen = {}
    for key in ("fit_seeds", "seeds"):
        block, offset, count = parse_seeds(cfg[key], spec.seed_blocks, key)
        if count < LEAST_EPISODES:
            raise ConfigError(f"{key} must be at least {LEAST_EPISODES} episodes, got {cfg[key]!r}")
        chosen[key] = spec.seeds(block, count, offset)
    if np.intersect1d(chosen["fit_seeds"], chosen["seeds"]).size:
        raise ConfigError(f"fit_seeds must not overlap seeds={cfg.seeds}, got {cfg.fit_seeds}")
    return chosen


def probe_student(
    cfg: DictConfig, ctx: "Context", student: Student, seeds: dict[str, "np.ndarray"]
) -> tuple[list["Score"], "Episodes"]:
    """Roll out a student and probe it. Return the scores, and the episodes that they were computed on.

    Raise ConfigError if too few episodes reach any of `cfg.steps`.
    """
    from ilt.analysis.probes import LEAST_EPISODES, hidden_columns, score_probes
    from ilt.rollout.policies import SequencePolicy

    episodes = {}
    for key, chosen in seeds.items():
        policy = SequencePolicy(
            student.model,
            student.head,
            context_length=student.context_length,
            deterministic=student.run.evaluation.deterministic,
        )
        title = f"{student.name} on {ctx.env.block_of(chosen)} seeds"
        episodes[key], _ = ctx.rollout(policy, chosen, title=title)
    names = ctx.env.observations.privileged_names
    columns = hidden_columns(names, episodes["fit_seeds"])
    if constant := [name for name in names if name not in columns]:
        log.info("left out, because it is constant: %s", ", ".join(constant))
    scores = score_probes(
        student.model,
        episodes["fit_seeds"],
        episodes["seeds"],
        columns,
        sorted(set(cfg.steps)),
        context_length=student.context_length,
    )
    if not scores:
        raise ConfigError(
            f"steps must include one that {LEAST_EPISODES} episodes of both fit_seeds and seeds reach, got {cfg.steps}"
        )
    return scores, episodes["seeds"]


def draw(
    cfg: DictConfig,
    folder: Path,
    student: Student,
    episodes: "Episodes",
    scores: list["Score"],
    other: tuple[str, list["Score"]] | None,
) -> dict[str, str]:
    """Draw the figures into a folder, attention only for a `Decoder`. Return their descriptions by file name."""
    from ilt.analysis.attention_maps import attention_maps, attention_rows, maps_in_words, middle_episode
    from ilt.analysis.probe_figures import attention_figure, probe_figure
    from ilt.analysis.probes import in_words
    from ilt.evaluation.figure_style import write as write_figure
    from ilt.models.decoder import Decoder
    from ilt.training.fit import write_csv

    write_figure(partial(probe_figure, scores, other=other and other[1]), folder / "probe.png")
    words = {"probe.png": in_words(scores)}
    if other is not None:
        words["probe.png"] += f" For comparison, {other[0]}: {in_words(other[1])}"
    for name in ("attention.png", "attention.csv"):
        (folder / name).unlink(missing_ok=True)
    if isinstance(student.model, Decoder):
        episode, tokens_per_step = middle_episode(episodes), student.model.tokens_per_step
        maps = attention_maps(student.model, episodes, episode, context_length=student.context_length)
        shown = f"seed {episodes.seeds[episode]}, return {episodes.returns[episode]:.1f}"
        write_figure(partial(attention_figure, maps, tokens_per_step=tokens_per_step), folder / "attention.png")
        write_csv(folder / "attention.csv", attention_rows(maps, tokens_per_step=tokens_per_step))
        words["attention.png"] = f"One episode, {shown}. {maps_in_words(maps, tokens_per_step=tokens_per_step)}"
    return words


def write(cfg: DictConfig, folder: Path, scores: dict[str, list["Score"]], words: dict[str, str]) -> None:
    """Write `probe.csv`, `probe.md`, and `probe.json` with the descriptions of the figures."""
    from ilt.analysis.probes import Score, score_rows
    from ilt.evaluation.tables import markdown_table
    from ilt.tracking.store import provenance, replacing, write_json, write_text

    with replacing(folder / "probe.csv") as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["run", *Score._fields])
        writer.writerows([name, *score] for name, each in scores.items() for score in each)
    text = (
        f"R² of ridge regressions on the student's activations at the current step, fitted on {cfg.fit_seeds}, "
        f"scored on {cfg.seeds}, by steps since the start of the episode. The student itself acts in these episodes. "
        "Shuffled: fitted to the values of other episodes.\n"
    )
    for name, each in scores.items():
        text += f"\n## {name}\n\n{markdown_table(*score_rows(each))}"
    for file_name, description in words.items():
        text += f"\n![{description}]({file_name})\n"
    write_text(folder / "probe.md", text)
    asked = {"runs": list(scores), **{key: cfg[key] for key in ("fit_seeds", "seeds", "checkpoint")}}
    write_json(folder / "probe.json", {**asked, "steps": list(cfg.steps), "words": words, **provenance()})


@app("probe")
def main(cfg: DictConfig) -> None:
    """Roll out a run's student, probe it, print the scores, and write tables and figures to the run's folder."""
    check_config(cfg, "probe")
    start_early(cfg)
    ctx, student = find_student(cfg, "run")
    from ilt.analysis.probes import score_rows
    from ilt.cli.job import job_info
    from ilt.evaluation.tables import print_table
    from ilt.tracking.loggers import open_run
    from ilt.tracking.store import place_for

    seeds = choose_seeds(cfg, ctx.env)
    instead = Path(cfg.outputs, "probes", f"{student.name}-{config_hash(str(Path(cfg.run).resolve()))}")
    folder = place_for(Path(cfg.run) / "probe", instead)
    if cfg.other is not None:
        other_ctx, other_student = find_student(cfg, "other")
        if other_ctx.env.identity() != ctx.env.identity() or other_student.name == student.name:
            raise ConfigError(f"other must be another run in the environment of {cfg.run}, got {cfg.other}")
    found, episodes = probe_student(cfg, ctx, student, seeds)
    scores, other = {student.name: found}, None
    if cfg.other is not None:
        other = other_student.name, probe_student(cfg, other_ctx, other_student, seeds)[0]
        scores[other_student.name] = other[1]

    words = draw(cfg, folder, student, episodes, found, other)
    write(cfg, folder, scores, words)
    with open_run(cfg.logger, job_info(cfg, "probe", name=student.name, folder=ctx.store.root)) as logger:
        logger.summarize({f"{s.quantity}/{s.source}/step {s.step}": s.r2 for s in found})
        logger.log_tables({"probe": [{"run": name, **s._asdict()} for name, each in scores.items() for s in each]})
        logger.log_figures({Path(name).stem: folder / name for name in words})
    for name, each in scores.items():
        print_table(f"R² of quantities hidden from {name}, by steps since the start", *score_rows(each))
    log.info("everything is in %s", folder)
