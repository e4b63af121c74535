"""The folder of a run: config, lock, timed stages, and results."""

import logging
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from ilt.schema import ConfigError, PlainError
from ilt.settings import check_config
from ilt.tracking.reading import check_resolved, read_json, read_yaml, reading
from ilt.tracking.store import check_files, read_with_digest, sha256, write_json, write_text, write_with_digest

log = logging.getLogger(__name__)

CONFIG, IDENTITY, TRAINING, RESULTS, ERROR = (
    "config.yaml", "identity.json", "training.json", "results.json", "error.txt"
)  # fmt: skip
COMMAND = ".hydra"
TABLES = ("curve.csv", "episodes.csv")
CARD = "card.md"


class RunFolder:
    """The folder of one training, as a context manager that holds its lock.

    Args:
        path: the folder.
        config: the resolved config as plain containers.
        identity: everything that determines the training.
        resume: whether to continue from the folder's content; otherwise, rename the folder to set it aside.
        wait: whether to wait for a process that is working in the folder, such as the same job of the same sweep.
        started: `time.monotonic()` when the job started.

    Attributes:
        seconds: how long each stage took in this process.

    Raises:
        ConfigError: on entry, if the folder contains a different training.
        PlainError: on entry, if another process is working in the folder and `wait` is false.
    """

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        identity: dict[str, Any],
        *,
        resume: bool,
        started: float,
        wait: bool = False,
    ) -> None:
        self.path, self.config, self.identity = path, config, identity
        self._resume, self._started, self._wait = resume, started, wait
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> "RunFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        while not self._lock.is_locked:
            try:
                self._lock.acquire(timeout=60 if self._wait else 0)
            except Timeout:
                if not self._wait:
                    raise PlainError(f"another process is working in {self.path}") from None
                log.info("waiting for the process that is working in %s", self.path)
        self.path.mkdir(exist_ok=True)  # the other process may have removed it
        self._log_file: logging.FileHandler | None = None
        self._new = not any(self.path.iterdir())
        if not self._resume and not self._new:
            self._set_aside()
        identity = self.path / IDENTITY
        if identity.exists() and (found := read_json(identity, finite=False)) != self.identity:
            self._lock.release()
            keys = sorted(k for k in {*found, *self.identity} if found.get(k) != self.identity.get(k))
            raise ConfigError(f"{self.path} contains a run with another config ({', '.join(keys)} differ)")
        if not identity.exists():
            write_json(identity, self.identity)
        if not self.finished:  # a finished run keeps the config that it was scored with
            write_text(self.path / CONFIG, yaml.safe_dump(self.config, sort_keys=False))
        self.seconds["startup"] = round(time.monotonic() - self._started, 2)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            write_error(self.path, error)
        elif error is not None:  # Ctrl-C, which Lightning turns into SystemExit
            how = "resumes from the last checkpoint" if self.last_checkpoint else "starts it over"
            log.info("stopped; the same command %s", how)
        if self._log_file is not None:
            logging.getLogger().removeHandler(self._log_file)
            self._log_file.close()
        if self._new and isinstance(error, ConfigError) and not self.seconds.keys() - {"startup", "imports"}:
            shutil.rmtree(self.path)  # a config that cannot run leaves nothing behind
            Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def begin(self, **command: Any) -> None:
        """Prepare the folder for work: save the command's configs, and start writing `train.log`.

        Args:
            command: configs that Hydra composed; each is saved to a file in `.hydra/`.
        """
        (self.path / ERROR).unlink(missing_ok=True)
        (self.path / COMMAND).mkdir(exist_ok=True)
        for name, config in command.items():
            OmegaConf.save(config, self.path / COMMAND / f"{name}.yaml")
        self._log_file = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        self._log_file.setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger().addHandler(self._log_file)

    @property
    def finished(self) -> bool:
        """Whether the run has figures, and results that were scored with the current config.

        Raise DamagedArtifactError if a file of a finished run is missing or was changed.
        """
        if not (self.path / RESULTS).exists():
            return False
        results = read_results(self.path)
        with reading(self.path / RESULTS):
            as_now = all(results.get(key) == value for key, value in scored_by(self.config).items())
            digest = results.get("files", {}).get(CONFIG)  # older runs lack it
            kept = (self.path / CONFIG).is_file() and digest in (None, sha256(self.path / CONFIG))
            if whole := as_now and kept and "figures" in results["seconds"]:
                check_run_files(self.path, results["files"])
            return whole

    @property
    def next_steps(self) -> str:
        """A description of the remaining work, for the log."""
        if self._resume and (self.path / TRAINING).exists():
            return "scores, figures (already trained)"
        if self._resume and self.last_checkpoint:
            return "training from its last checkpoint, scores, figures"
        return "expert, demonstrations, training, scores, figures"

    @property
    def checkpoints(self) -> Path:
        """The folder of `last.ckpt` and `best.ckpt`."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path | None:
        """The last checkpoint, or else the previous one; None if there is neither. It may be damaged."""
        last = self.checkpoints / "last.ckpt"
        return next((path for path in (last, one_before(last)) if path.exists()), None)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent in the context to `seconds[name]`."""
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 2)

    def finish(self, results: dict[str, Any]) -> None:
        """Write `results.json`, with digests of the config and tables, seconds by stage, and peak memory."""
        self.seconds.pop("total", None)  # so that the total comes last
        self.seconds["total"] = round(time.monotonic() - self._started, 2)
        measured = {"seconds": self.seconds, "peak_memory_mb": peak_memory_mb()}
        there = [self.path / name for name in (CONFIG, *TABLES) if (self.path / name).exists()]
        files = {**results.get("files", {}), **{path.name: sha256(path) for path in there}}
        write_with_digest(self.path / RESULTS, {**results, "files": files, **scored_by(self.config), **measured})

    def _set_aside(self) -> None:
        number = next(n for n in range(1, 10_000) if not self.path.with_name(f"{self.path.name}.{n}").exists())
        aside = self.path.with_name(f"{self.path.name}.{number}")
        self.path.rename(aside)  # in one step, so that a kill cannot leave half of it behind
        self.path.mkdir()
        log.info("moved %s to %s", self.path, aside)


def scored_by(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything in a run's config, besides the weights, that determines its results."""
    env = config.get("env", {})
    rules = {key: env.get(key) for key in ("success_return", "crash_reward")}
    rules["test_seeds"] = env.get("seed_blocks", {}).get("test")
    return {"evaluation": config.get("evaluation"), "rules": rules}


def shown(path: Path) -> str:
    """Return a path as people read and type it: relative to the current folder if it is inside."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def one_before(path: Path) -> Path:
    """Return where the previous version of the checkpoint at `path` is kept."""
    return path.with_name(f"{path.name}.before")


def discard_unused(path: Path) -> None:
    """Remove a run's folder if it is empty."""
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()


def write_error(path: Path, error: Exception) -> None:
    """Write an error to the run's folder: one line with its type and message, then the traceback."""
    path.mkdir(parents=True, exist_ok=True)
    first_line = " ".join(f"{type(error).__name__}: {error}".split())
    write_text(path / ERROR, f"{first_line}\n\n{''.join(traceback.format_exception(error))}")


def selection_return(run: RunFolder) -> float | None:
    """Return a finished run's mean return on selection seeds, from its reported checkpoint; None without an env."""
    mean = read_results(run.path)["selection_return_mean"]
    return None if mean is None else float(mean)


def read_results(folder: Path) -> dict[str, Any]:
    """Read a finished run's `results.json`. Raise UnreadableFileError if it is damaged."""
    return read_with_digest(folder / RESULTS)


def performance_reference(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the returns at which a student's performance is 0 and 1, and their `source`; None if there are none.

    The source is `expert` for a random policy and the expert on the same seeds, or `dataset` for the reference scores
    of recordings without an expert.
    """
    if "performance_reference" in results:
        return results["performance_reference"]
    random, expert = results["random_return_mean"], results["expert_return_mean"]
    return None if expert is None else {"source": "expert", "zero": random, "one": expert}


def read_config(folder: Path, *, key: str = "run") -> dict[str, Any]:
    """Read a run's resolved config as plain containers, without running code.

    Raises:
        ConfigError: there is no config; the message names `key`.
        UnreadableFileError: the config is damaged, or has an interpolation.
    """
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise ConfigError(f"{key} must be the folder of a run, with a config.yaml in it, got {folder}")
    config = read_yaml(path)
    with reading(path):
        check_resolved(config)
        return dict(config)


def read_finished(folder: Path, *, key: str = "run") -> tuple[DictConfig, dict[str, Any]]:
    """Read the config and results of a finished run, which may be untrusted.

    The config is validated. Files such as weights are checked against the digests in the results.

    Raises:
        ConfigError: there is no finished run, or its config is invalid; the message names `key`.
        UnreadableFileError: the config or the results are damaged.
        DamagedArtifactError: another file is missing or was changed.
    """
    config = read_config(folder, key=key)
    if not os.path.lexists(folder / RESULTS):
        raise ConfigError(f"{key} must be the folder of a finished run, with a {RESULTS} in it, got {folder}")
    trained = read_results(folder)
    with reading(folder / RESULTS):
        check_run_files(folder, {name: digest for name, digest in trained["files"].items() if name not in TABLES})
    run = OmegaConf.create(config)
    if missing := {"env", "expert", "dataset", "evaluation"} - config.keys():
        raise ConfigError(f"{key}: {folder / CONFIG} lacks {', '.join(sorted(missing))}")
    try:
        check_config(run, partial=True)
    except ConfigError as error:
        raise ConfigError(f"{key}: {folder / CONFIG}: {error}") from error
    return run, trained


def check_run_files(folder: Path, digests: Mapping[str, str]) -> None:
    """Check a run's files against their SHA-256 digests. Raise DamagedArtifactError, naming a file that differs."""
    check_files(folder, digests, advice="get another copy of the run, or run it again with resume=false")


def peak_memory_mb() -> int:
    """Return the peak memory of this process in megabytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, getrusage includes the peak inherited from the parent process
        kibibytes = int(status.read_text().split("VmHWM:")[1].split()[0])
    else:
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    return round(kibibytes * 1024 / 1e6)
