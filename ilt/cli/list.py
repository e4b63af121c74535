"""List runs and artifacts below `outputs`: `ilt list`, `ilt list kind=experts`."""

import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.cli.report import set_aside
from ilt.evaluation.tables import print_table
from ilt.machine import outputs_of
from ilt.schema import ConfigError
from ilt.settings import check_config
from ilt.tracking.reading import UnreadableFileError, is_regular, read_text, reading
from ilt.tracking.run_folder import COMMAND, CONFIG, ERROR, RESULTS, read_config, read_results
from ilt.tracking.store import MANIFEST, SHIPPED, paths_below, read_manifest

log = logging.getLogger(__name__)

COLUMNS = ("kind", "name", "env", "expert", "model", "return", "date", "seconds", "state")

FINISHED, FAILED, SET_ASIDE, RUNNING, UNFINISHED = "finished", "failed", "set aside", "running", "not finished"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run or an artifact on disk.

    Attributes:
        kind: `runs`, or the artifact's folder, such as `experts`.
        path: its folder.
        state: `finished`, `failed`, `set aside` (by a run with `resume=false`), `running`, `not finished`, `trial` (of
            a search), `shipped` (with the package) or `damaged`.
        changed: time of creation or of the last write, in seconds since the epoch.
        env, expert, model: names; empty if unknown.
        return_mean: mean return of the student, expert or demonstrations.
        seconds: how long it took to make.
        damage: the reason, if it is damaged.
    """

    kind: str
    path: Path
    state: str
    changed: float
    env: str = ""
    expert: str = ""
    model: str = ""
    return_mean: float | None = None
    seconds: float | None = None
    damage: str = ""

    def __post_init__(self) -> None:
        for name in ("env", "expert", "model"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be text")
        for name in ("return_mean", "seconds"):
            if (value := getattr(self, name)) is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}")


def lock_of(path: Path) -> FileLock:
    """Return the lock that a process holds while it works in the folder of a run or a partial artifact."""
    return FileLock(path.with_name(f".{path.name.removeprefix('.').removesuffix('.partial')}.lock"))


def is_locked(path: Path) -> bool:
    """Return whether a process is working in a folder."""
    lock = lock_of(path)
    if not Path(lock.lock_file).exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def find_entries(outputs: Path) -> Iterator[Entry]:
    """Find all entries below `outputs`, even damaged ones: runs (not in `outputs/reference`), then artifacts."""
    marks = [path for name in (CONFIG, ERROR) for path in paths_below(outputs, name) if path.parent.name != COMMAND]
    found: set[Path] = set()
    for path in sorted({mark.parent for mark in marks if mark.relative_to(outputs).parts[0] != "reference"}):
        if not found & set(path.parents):  # skip the files of W&B inside a run
            found.add(path)
            yield _read(_run, "runs", path)
    for path in sorted(outputs.glob(f"*/*/{MANIFEST}")):
        if not path.parent.name.startswith("."):
            yield _read(_artifact, path.parents[1].name, path.parent)
    for path in sorted(outputs.glob("*/.*.partial")):
        changed = max(file.stat().st_mtime for file in [path, *paths_below(path, "*")])
        state = RUNNING if is_locked(path) else UNFINISHED
        yield Entry(kind=path.parent.name, path=path, state=state, changed=changed)


def find_shipped() -> Iterator[Entry]:
    """Find the artifacts that come with the package."""
    for kind, folder in SHIPPED.items():
        for path in sorted(folder.glob(f"*/{MANIFEST}")):
            yield dataclasses.replace(_artifact(kind, path.parent), state="shipped")


def _read(read: Callable[[str, Path], Entry], kind: str, path: Path) -> Entry:
    try:
        with reading(path):
            return read(kind, path)
    except UnreadableFileError as error:
        return Entry(kind=kind, path=path, state="damaged", changed=path.stat().st_mtime, damage=str(error))


def _run(kind: str, path: Path) -> Entry:
    files = [
        file for file in (path / RESULTS, path / ERROR, path / "train.log", path / CONFIG) if os.path.lexists(file)
    ]
    about: dict[str, Any] = {"path": path, "kind": kind, "changed": max(file.lstat().st_mtime for file in files)}
    if os.path.lexists(path / CONFIG):
        config = read_config(path)
        about |= {"env": _env(config), "expert": config.get("expert", {}).get("name", ""), "model": _model(path)}
    if os.path.lexists(path / RESULTS):
        results = read_results(path)
        about |= {"return_mean": results["return_mean"], "seconds": results["seconds"]["total"]}
        return Entry(**about, state=FINISHED)
    if is_locked(path):
        return Entry(**about, state=RUNNING)
    if (path / CONFIG).exists() and set_aside(path):
        return Entry(**about, state=SET_ASIDE)
    if any((folder / "study.db").exists() for folder in list(path.parents)[:2]):
        return Entry(**about, state="trial")  # of a search; trials are not scored on test seeds
    return Entry(**about, state=FAILED if (path / ERROR).exists() else UNFINISHED)


def _artifact(kind: str, path: Path) -> Entry:
    manifest = read_manifest(path)
    config, metrics = manifest["config"], manifest["metrics"]
    expert = path.name.rpartition("-")[0] if kind == "experts" else config.get("expert")
    measured = metrics.get("selection", {}).get("deterministic") or metrics.get("demonstrations") or metrics
    return_mean = measured.get("kept_return_mean", measured.get("return_mean"))
    return Entry(
        kind=kind,
        path=path,
        state=FINISHED,
        changed=datetime.fromisoformat(manifest["made_at"]).timestamp(),
        env=_env(config),
        expert=expert if isinstance(expert, str) else "",
        return_mean=return_mean if isinstance(return_mean, int | float) else None,
        seconds=manifest["seconds"],
    )


def _env(config: Mapping[str, Any]) -> str:
    env = config.get("env") or {}
    wrappers = env.get("wrappers") or {}
    if not isinstance(wrappers, Mapping):  # a canonical config has a list of wrappers
        wrappers = [str(wrapper.get("component", "wrapper")).rpartition(".")[2] for wrapper in wrappers]
    return " + ".join([env.get("id", ""), *wrappers])


def _model(path: Path) -> str:
    """Read the option of the group `model` from Hydra's config. Search the text, because parsing it is slow."""
    hydra_config = path / COMMAND / "hydra.yaml"
    text = read_text(hydra_config) if is_regular(hydra_config, within=path) else ""
    choices = text.partition("\n    choices:\n")[2]
    return next((line.split(": ")[1] for line in choices.splitlines() if line.startswith("      model: ")), "")


def find_entry(path: Path) -> Entry:
    """Return the run or artifact in a folder, even a damaged one. Raise ConfigError if there is none."""
    if os.path.lexists(path / MANIFEST):
        return _read(_artifact, path.absolute().parent.name, path)
    if not any(os.path.lexists(path / name) for name in (CONFIG, ERROR)):
        raise ConfigError(f"run must be the folder of a run or of an artifact, got {path}")
    return _read(_run, "runs", path)


def row(entry: Entry, outputs: Path) -> list[str]:
    """Return an entry's cells, one per column in `COLUMNS`."""
    below = outputs / entry.kind if outputs / entry.kind in entry.path.parents else outputs
    return [
        entry.kind,
        entry.path.name if entry.state == "shipped" else entry.path.relative_to(below).as_posix(),
        *(cell or "–" for cell in (entry.env, entry.expert, entry.model)),
        "–" if entry.return_mean is None else f"{entry.return_mean:.1f}",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.changed)),
        "–" if entry.seconds is None else f"{entry.seconds:.0f}",
        entry.state,
    ]


@app("list")
def main(cfg: DictConfig) -> int:
    """Print a table of runs and artifacts, and return its number of rows."""
    check_config(cfg, "list")
    outputs = outputs_of(cfg)
    entries = [*find_shipped(), *find_entries(outputs)]
    entries = [entry for entry in entries if cfg.kind in (None, entry.kind)]
    print_table(cfg.outputs, COLUMNS, [row(entry, outputs) for entry in entries])
    for entry in entries:
        if entry.damage:
            log.warning("damaged: %s", entry.damage)
    return len(entries)
