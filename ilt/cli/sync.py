"""Upload offline W&B runs: `ilt sync`, or `make sync`."""

import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.machine import outputs_of
from ilt.settings import check_config
from ilt.tracking.reading import UnreadableFileError, open_regular, reading
from ilt.tracking.store import SHIPPED, paths_below

log = logging.getLogger(__name__)

AT_WORK = 300.0
"""Seconds without a new record after which an unfinished run counts as killed."""


@dataclass(frozen=True)
class OfflineRun:
    """An offline W&B run.

    Attributes:
        path: the `.wandb` file, the only one in its folder.
        name, job_type, project: as logged. `project` has the prefix `ENTITY/` if an entity was given.
        ended: whether the job ended without being killed.
        artifacts: size of each artifact in bytes, by digest; W&B uploads a digest only once.
        missing: artifact files that no longer exist.
    """

    path: Path
    name: str
    job_type: str
    project: str
    ended: bool
    artifacts: Mapping[str, int]
    missing: tuple[str, ...]

    @property
    def at_work(self) -> bool:
        """Whether the job still seems to be running."""
        return not self.ended and time.time() - self.path.stat().st_mtime < AT_WORK

    @property
    def size(self) -> int:
        """Size of the run's folder in bytes."""
        return sum(path.stat().st_size for path in paths_below(self.path.parent, "*") if path.is_file())


def find_offline(folder: Path) -> list[OfflineRun]:
    """Find the offline runs below a folder that are not marked as uploaded, oldest first. Warn of damaged ones."""
    found = (path for path in paths_below(folder, "run-*.wandb") if path.parent.name.startswith("offline-run-"))
    runs = []
    for path in sorted((path for path in found if not uploaded(path)), key=lambda path: path.parent.name):
        try:
            open_regular(path).close()
            with reading(path):
                runs.append(read_offline(path, within=(folder.resolve(), SHIPPED["experts"].resolve())))
        except UnreadableFileError as error:
            log.warning("left out: %s", error)
    return runs


def uploaded(path: Path) -> bool:
    """Return whether W&B has marked a `.wandb` file as completely uploaded."""
    return path.with_suffix(".wandb.synced").exists()


def read_offline(path: Path, *, within: Sequence[Path]) -> OfflineRun:
    """Read a run from its `.wandb` file. Raise ValueError if an artifact file lies outside the folders `within`."""
    run: dict[str, Any] = {}
    artifacts, missing, ended = {}, [], False
    for record in records(path):
        if record["type"] == "run":
            run = record["run"]
        elif record["type"] == "exit":
            ended = True
        elif record["type"] == "artifact":
            files = record["artifact"]["manifest"].get("contents", [])
            artifacts[record["artifact"]["digest"]] = sum(int(file.get("size", 0)) for file in files)
            named = [Path(file["local_path"]) for file in files if "local_path" in file]
            missing += [str(file) for file in named if not file.exists()]
            for file in named:
                if not any(file.resolve().is_relative_to(each) for each in within):
                    raise ValueError(f"it would upload {file}, which is outside outputs")
    return OfflineRun(
        path=path,
        name=run.get("display_name", path.parent.name),
        job_type=run.get("job_type", ""),
        project="/".join(filter(None, [run.get("entity"), run.get("project")])),
        ended=ended,
        artifacts=artifacts,
        missing=tuple(missing),
    )


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Read the records of a `.wandb` file with `wandb leet inspect --json`, which starts no second Python.

    Raise ValueError if W&B cannot read the file.
    """
    from wandb.util import get_core_path

    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", str(path)]
    shown = subprocess.run([*command, str(path.parent.parent)], capture_output=True, text=True)
    if shown.returncode:
        raise ValueError(f"W&B cannot read it: {shown.stderr}")
    return map(json.loads, shown.stdout.splitlines())


@app("sync")
def main(cfg: DictConfig) -> int:
    """List the offline runs, upload those that are not running, and return how many were uploaded."""
    check_config(cfg, "sync")
    outputs = outputs_of(cfg)
    from ilt.tracking.wandb import base_url, has_key

    found = find_offline(outputs)
    runs = [run for run in found if not run.at_work]
    for run in found:
        state = "" if run.ended else ", still running: skipped" if run.at_work else ", was killed"
        log.info("%s (%s to %s%s)", run.path.parent, run.job_type or "run", run.project, state)
        for path in run.missing:
            log.warning("  %s is missing; its artifact cannot be uploaded", path)
    if not runs:
        log.info("there is nothing to upload below %s", cfg.outputs)
        return 0
    artifacts = {digest: size for run in runs for digest, size in run.artifacts.items()}
    jobs = ", ".join(f"{count} {job_type}" for job_type, count in sorted(Counter(run.job_type for run in runs).items()))
    log.info(
        "%d runs (%s), %.1f MB, and %d artifacts, %.1f MB, to %s",
        *(len(runs), jobs, sum(run.size for run in runs) / 1e6),
        *(len(artifacts), sum(artifacts.values()) / 1e6, base_url()),
    )
    if cfg.dry_run:
        return 0
    if not has_key():
        log.error("nothing was uploaded, because there is no API key: set WANDB_API_KEY, or run .venv/bin/wandb login")
        sys.exit(1)
    environment = {**os.environ, "WANDB_MODE": "online", "WANDB_DIR": str(cfg.outputs)}  # for its log
    command = [sys.executable, "-m", "wandb", "sync", *(str(run.path.parent) for run in runs)]
    subprocess.run(command, env=environment, check=False)
    left = [run for run in runs if not uploaded(run.path)]
    for run in left:
        log.error("not uploaded: %s", run.path.parent)
    if left:
        sys.exit(1)
    return len(runs)
