"""Delete failed, unfinished and replaced runs and artifacts: `ilt clean`."""

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout
from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.cli.list import COLUMNS, FAILED, SET_ASIDE, UNFINISHED, Entry, find_entries, lock_of, row
from ilt.evaluation.tables import print_table
from ilt.machine import outputs_of
from ilt.settings import check_config

log = logging.getLogger(__name__)


def find_leftovers(outputs: Path, *, hours: float) -> Iterator[Entry]:
    """Find what may be deleted. Unfinished entries count only if nothing was written to them for `hours`."""
    for entry in find_entries(outputs):
        old = time.time() - entry.changed >= 3600 * hours
        if entry.state in (FAILED, SET_ASIDE) or (entry.state == UNFINISHED and old):
            yield entry


def delete(entry: Entry) -> bool:
    """Delete a folder and its lock, unless a process is working in it; return whether it was deleted."""
    lock = lock_of(entry.path)
    try:
        with lock.acquire(timeout=0):
            shutil.rmtree(entry.path)
            Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout:
        log.warning("not deleted, because a process is working in it: %s", entry.path)
        return False
    return True


def _confirmed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # stdin is closed
        return False


@app("clean")
def main(cfg: DictConfig) -> int:
    """List what would be deleted, delete it after confirmation, and return the number of deleted folders."""
    check_config(cfg, "clean")
    outputs = outputs_of(cfg)
    found = list(find_leftovers(outputs, hours=cfg.hours))
    if not found:
        log.info("there is nothing to delete below %s", outputs)
        return 0
    print_table(str(outputs), COLUMNS, [row(entry, outputs) for entry in found])
    if not cfg.yes and not _confirmed(f"Delete {len(found)} folders?"):
        log.info("nothing was deleted; yes=true deletes without asking")
        return 0
    deleted = sum(map(delete, found))
    log.info("deleted %d folders", deleted)
    return deleted
