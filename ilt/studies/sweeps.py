"""The summary of a sweep: its jobs, tables and figure. Heavy modules are imported when they are needed."""

import logging
from dataclasses import replace
from pathlib import Path

import yaml
from filelock import FileLock

from ilt.envs.naming import env_names
from ilt.settings import is_of_the_run
from ilt.studies.sweep_tables import Job, job_rows, sweep_csv, sweep_markdown, swept_keys, table
from ilt.tracking.run_folder import COMMAND, CONFIG, ERROR, RESULTS, read_config
from ilt.tracking.store import read_json, replacing, write_text

log = logging.getLogger(__name__)


def summarize(sweep: Path) -> None:
    """Print a sweep's table, update its files, and draw `sweep.png` if a job is finished."""
    from ilt.evaluation.tables import print_table

    if not (jobs := find_jobs(sweep)):
        return
    title = f"{sweep.name}: {sum(job.results is not None for job in jobs)} of {len(jobs)} jobs finished"
    if not _up_to_date(sweep):
        write_tables(sweep)
        if any(job.results for job in jobs):
            from ilt.studies.sweep_figure import sweep_figure

            with replacing(sweep / "sweep.png") as new:
                sweep_figure(jobs, new, title=title)
    print_table(title, *table(job_rows(jobs), swept_keys(jobs)))
    log.info("%s", sweep / "sweep.md")


def find_jobs(sweep: Path) -> list[Job]:
    """Return the jobs with a folder in the sweep's folder, sorted by name, without runs that were set aside."""
    jobs, envs = [], {}
    for folder in sorted(path.parent.parent for path in sweep.glob(f"*/{COMMAND}/overrides.yaml")):
        original, _, number = folder.name.rpartition(".")
        if number.isdecimal() and (sweep / original).is_dir():
            continue
        finished, failed = (folder / RESULTS).exists(), (folder / ERROR).exists()
        status = "finished" if finished else "not finished"
        if failed and not finished:
            status = f"failed: {(folder / ERROR).read_text(encoding='utf-8').splitlines()[0]}"
        given = (
            line.partition("=")
            for line in yaml.safe_load((folder / COMMAND / "overrides.yaml").read_text(encoding="utf-8"))
        )
        overrides = {key.lstrip("+"): value for key, _, value in given if is_of_the_run(key)}
        jobs.append(Job(folder.name, overrides, status, read_json(folder / RESULTS) if finished else None))
        if finished and (folder / CONFIG).exists():
            envs[folder.name] = read_config(folder)["env"]
    names = dict(zip(envs, env_names(list(envs.values())), strict=True))
    return [replace(job, env=names.get(job.name, "")) for job in jobs]


def write_tables(sweep: Path) -> None:
    """Rewrite `sweep.csv` and `sweep.md` from the jobs in the sweep's folder."""
    with FileLock(sweep / ".summary.lock"):
        if not (jobs := find_jobs(sweep)):  # as in a search, which has its own report
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
