"""Write a table and an HTML page about several runs: `ilt report runs=outputs/multirun/NAME`."""

import logging
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig, OmegaConf

from ilt.cli.app import app
from ilt.schema import ConfigError, config_hash, printable
from ilt.settings import check_config, run_config
from ilt.tracking.reading import is_regular, read_bytes
from ilt.tracking.store import paths_below

if TYPE_CHECKING:
    from ilt.analysis.episode_videos import EpisodeVideo
    from ilt.tracking.records import Group, RunRecord

log = logging.getLogger(__name__)


def find_runs(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Return the finished runs in and below a folder, and the other runs with reasons, each sorted by path.

    Numbers in names are sorted by value: `s2` comes before `s10`.
    """
    finished: list[Path] = []
    left_out: list[tuple[Path, str]] = []
    found: set[Path] = set()
    below = (path.parent for path in paths_below(folder, "config.yaml") if path.parent.name != ".hydra")
    for path in sorted(below, key=_in_order):
        if found & set(path.parents):
            continue  # inside a run, such as W&B's files
        found.add(path)
        if set_aside(path):
            left_out.append((path, "set aside when it was run again"))
        elif not os.path.lexists(path / "results.json"):
            left_out.append((path, "not finished"))
        else:
            finished.append(path)
    return finished, left_out


def _in_order(path: Path) -> list[list[str | int]]:
    return [
        [int(piece) if number % 2 else piece for number, piece in enumerate(re.split(r"(\d+)", part))]
        for part in path.parts
    ]


def set_aside(path: Path) -> bool:
    """Return whether a run with `resume=false` has set this folder aside."""
    name = re.fullmatch(r"(.+)\.\d+", path.name)
    if name is None:
        return False
    new, own = path.with_name(name[1]) / "config.yaml", path / "config.yaml"
    same = is_regular(new) and is_regular(own) and read_bytes(new) == read_bytes(own)
    return same or (is_regular(new) and not (path / "train.log").exists())


def read_runs(folder: Path) -> tuple[list["RunRecord"], list[tuple[str, str]]]:
    """Return the finished runs below a folder, one per config and seed, and those left out with reasons."""
    from ilt.tracking.records import read_run, setting
    from ilt.tracking.run_folder import read_config

    finished, others = find_runs(folder)
    runs: dict[str, RunRecord] = {}
    left_out = [(_name_in(folder, path), reason) for path, reason in others]
    for path in finished:
        name = _name_in(folder, path)
        try:
            run = read_run(name, path, read_config(path))
        except ValueError as error:
            left_out.append((name, str(error).replace(f"{path}/", "")))  # no absolute path, because pages are shared
            continue
        same = runs.setdefault(config_hash([setting(run.config), run.results["seed"], run.test]), run)
        if same is not run:
            left_out.append((name, f"the same config and seed as {same.name}"))
    return list(runs.values()), left_out


def _name_in(folder: Path, path: Path) -> str:
    return path.name if path == folder else path.relative_to(folder).as_posix()


def make_videos(
    cfg: DictConfig, run: "RunRecord", folder: Path, kinds: Collection[str]
) -> tuple[list["EpisodeVideo"], str | None]:
    """Make videos of a run's `best`, `median` or `worst` episode; return them, and the error if there are none.

    The run may be untrusted: only code of `ilt` and of packages in `cfg.trust` is run.
    """
    from ilt.analysis.episode_videos import film_episodes
    from ilt.pipeline import prepare

    try:
        config = OmegaConf.create(dict(run.config))
        check_config(config, partial=True)
        return film_episodes(run, prepare(cfg, config.env, trust=cfg.trust).env, folder, kinds), None
    except Exception as error:  # an error in one run must not prevent the page
        log.warning("no videos of %s: %s", printable(run.name), printable(str(error)))
        return [], f"{type(error).__name__}: {error}"


def choose_example(groups: Sequence["Group"], name: str | None) -> "RunRecord":
    """Return the run with this name; for None, the median run of the best config in the environment with most runs.

    Both are ranked by selection return. Raise ConfigError if no run has this name.
    """
    from ilt.tracking.records import by_environment, middle_run

    runs = [run for group in groups for run in group.runs]
    if name is None:
        best = max(by_environment(runs).values(), key=len)[0]
        return next(middle_run(group.runs) for group in groups if group.runs[0] is best)
    for run in runs:
        if run.name == name:
            return run
    raise ConfigError(f"example must be the name of a finished run in runs, such as {runs[0].name}, got {name}")


@app("report")
def main(cfg: DictConfig) -> int:
    """Print a table of runs, write it and a page to their folder, and return the number of runs."""
    check_config(cfg, "report")
    folder = Path(cfg.runs)
    runs, left_out = read_runs(folder)
    for name, reason in left_out:
        log.warning("left out: %s: %s", printable(name), printable(reason))
    if not runs:
        raise ConfigError(f"runs must be a folder that contains finished runs, got {folder}")

    from ilt.analysis.page import Report, write_page
    from ilt.analysis.page_cards import shown_groups, shown_run
    from ilt.evaluation.run_table import run_table
    from ilt.evaluation.tables import markdown_table, print_table
    from ilt.tracking.records import group_runs
    from ilt.tracking.store import place_for, provenance, write_text

    groups = group_runs(runs)
    example = choose_example(groups, cfg.example)
    title = "/".join(folder.resolve().parts[-2:])  # no absolute path, because pages are shared
    place = place_for(folder, Path(cfg.outputs, "reports", f"{folder.name}-{config_hash(str(folder.resolve()))}"))
    table = run_table(runs)
    print_table(str(folder), *table)
    write_text(place / "report.md", markdown_table(*table))
    videos: dict[str, list[EpisodeVideo]] = {}
    no_videos = [] if cfg.videos else ["They were switched off (videos=false)."]
    shown = [shown_run(group, example) for group in shown_groups(groups, example)]
    if cfg.videos and not all(run.is_scored for run in runs):
        no_videos.append("Runs with env=none have no environment to act in.")
    for run in (each for each in shown if cfg.videos and each.is_scored):
        kinds = ("best", "median", "worst") if run is example else ("median",)
        videos[run.name], problem = make_videos(cfg, run, place / "report_videos", kinds)
        if problem:
            no_videos.append(f"{run.name}: {problem}")
    report = Report(
        title=title,
        groups=groups,
        example=example,
        chosen=cfg.example is not None,
        videos=videos,
        no_videos=no_videos,
        left_out=left_out,
        defaults=run_config(hydra.compose("train", ["run_name=any"])),
        made=provenance(),
    )
    write_page(report, place / "report.html")
    for name in ("report.md", "report.html"):
        log.info("%s", place / name)
    return len(runs)
