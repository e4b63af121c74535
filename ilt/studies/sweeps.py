"""The summary of a sweep: its jobs, tables and figure. Heavy modules are imported only when needed."""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock

from ilt.envs.naming import env_names
from ilt.settings import is_of_the_run
from ilt.studies.sweep_tables import Job, job_rows, numbers_of, sweep_csv, sweep_markdown, swept_keys, table
from ilt.tracking.reading import UnreadableFileError, read_text, read_yaml, reading
from ilt.tracking.run_folder import COMMAND, CONFIG, ERROR, RESULTS, read_config, read_results
from ilt.tracking.store import write_text

log = logging.getLogger(__name__)


def summarize(sweep: Path) -> None:
    """Print a sweep's table, update its files, and draw `sweep.png` if any job is finished."""
    from ilt.evaluation.tables import print_table

    if not (jobs := find_jobs(sweep)):
        return
    title = f"{sweep.name}: {sum(job.results is not None for job in jobs)} of {len(jobs)} jobs finished"
    if not _up_to_date(sweep):
        write_tables(sweep)
        if any(job.results for job in jobs):
            from ilt.evaluation.figure_style import write
            from ilt.studies.sweep_figure import sweep_figure

            write(partial(sweep_figure, jobs), sweep / "sweep.png")
    print_table(title, *table(job_rows(jobs), swept_keys(jobs)))
    log.info("%s", sweep / "sweep.md")


def find_jobs(sweep: Path) -> list[Job]:
    """Return the jobs that have a folder in the sweep's folder, sorted by name, without runs that were set aside."""
    jobs, envs = [], {}
    for folder in sorted(path.parent for path in sweep.glob(f"*/{COMMAND}")):
        if not os.path.lexists(folder / COMMAND / "overrides.yaml"):
            continue
        original, _, number = folder.name.rpartition(".")
        if number.isdecimal() and (sweep / original).is_dir():
            continue
        try:
            job, env = _read_job(folder)
        except UnreadableFileError as error:
            job, env = Job(folder.name, {}, f"damaged: {error}".replace(f"{folder}/", ""), None), None
        jobs.append(job)
        if env is not None:
            envs[folder.name] = env
    names = dict(zip(envs, env_names(list(envs.values())), strict=True))
    return [replace(job, env=names.get(job.name, "")) for job in jobs]


def _read_job(folder: Path) -> tuple[Job, Mapping[str, Any] | None]:
    """Return a job, and its environment's config if it is finished."""
    finished, failed = (os.path.lexists(folder / name) for name in (RESULTS, ERROR))
    with reading(folder / COMMAND / "overrides.yaml"):
        lines = [str(line).partition("=") for line in read_yaml(folder / COMMAND / "overrides.yaml", within=folder)]
    overrides = {key.lstrip("+"): value for key, _, value in lines if is_of_the_run(key)}
    if not finished:
        first = next(iter(read_text(folder / ERROR).splitlines()), "") if failed else ""
        return Job(folder.name, overrides, f"failed: {first}" if failed else "not finished", None), None
    results, env = read_results(folder), None
    with reading(folder / RESULTS):
        numbers_of(results)
    if os.path.lexists(folder / CONFIG):
        with reading(folder / CONFIG):
            env = dict(read_config(folder)["env"])
            env_names([env])
    return Job(folder.name, overrides, "finished", results), env


def write_tables(sweep: Path) -> None:
    """Rewrite `sweep.csv` and `sweep.md` from the jobs in the sweep's folder."""
    with FileLock(sweep / ".summary.lock"):
        if not (jobs := find_jobs(sweep)):  # a search, which has its own report
            return
        for name, text in (("sweep.csv", sweep_csv(jobs)), ("sweep.md", sweep_markdown(sweep.name, jobs))):
            write_text(sweep / name, text)


def _up_to_date(sweep: Path) -> bool:
    """Return whether the summary is newer than the files that it summarizes."""
    written = [sweep / f"sweep.{suffix}" for suffix in ("csv", "md", "png")]
    about = [path for name in (RESULTS, ERROR, f"{COMMAND}/overrides.yaml") for path in sweep.glob(f"*/{name}")]
    return all(path.exists() for path in written) and max(map(_changed, about)) <= min(map(_changed, written))


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns
