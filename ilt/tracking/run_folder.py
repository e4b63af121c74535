"""A run's folder: its resolved config, its lock, its stages, and whether it is finished."""

import logging
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

from ilt.schema import ConfigError
from ilt.settings import check_config
from ilt.tracking.store import check_files, read_json, write_json

log = logging.getLogger(__name__)

CONFIG, IDENTITY, TRAINING, RESULTS, ERROR = (
    "config.yaml", "identity.json", "training.json", "results.json", "error.txt"
)  # fmt: skip
COMMAND = ".hydra"


class RunFolder:
    """Everything that one training writes; whoever opens it has it alone.

    Args:
        path: the folder.
        config: the resolved config as plain containers.
        identity: all that decides the training. A folder that holds another training is refused.
        resume: go on from what is there; otherwise what is there is renamed, and kept.
        started: `time.monotonic()` when the job began.

    Attributes:
        seconds: how long each stage took in this process.
    """

    def __init__(
        self, path: Path, config: dict[str, Any], identity: dict[str, Any], *, resume: bool, started: float
    ) -> None:
        self.path, self.config, self.identity = path, config, identity
        self._resume, self._started = resume, started
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> "RunFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(f"another process is at work in {self.path}") from None
        self._log_file: logging.FileHandler | None = None
        if not self._resume and any(self.path.iterdir()):
            self._set_aside()
        if (self.path / IDENTITY).exists() and (found := read_json(self.path / IDENTITY)) != self.identity:
            self._lock.release()
            keys = sorted(k for k in {*found, *self.identity} if found.get(k) != self.identity.get(k))
            raise ValueError(f"{self.path} holds a run with another config ({', '.join(keys)} differ)")
        if not (self.path / IDENTITY).exists():
            write_json(self.path / IDENTITY, self.identity)
        if not (self.path / CONFIG).exists() or read_config(self.path) != self.config:
            temporary = self.path / ".config.new"
            temporary.write_text(yaml.safe_dump(self.config, sort_keys=False))
            os.replace(temporary, self.path / CONFIG)
        self.seconds["startup"] = round(time.monotonic() - self._started, 2)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            write_error(self.path, error)
        elif error is not None:  # Ctrl-C, which Lightning turns into an exit
            how = "goes on from the last checkpoint" if self.last_checkpoint else "begins it again"
            log.info("stopped; the same command %s", how)
        if self._log_file is not None:
            logging.getLogger().removeHandler(self._log_file)
            self._log_file.close()
        self._lock.release()

    def begin(self, **command: Any) -> None:
        """There is work to do: keep what was asked for, and what is logged from now on.

        Args:
            command: what Hydra made of the command line, as configs; each is a file in `.hydra/`.
        """
        (self.path / ERROR).unlink(missing_ok=True)
        (self.path / COMMAND).mkdir(exist_ok=True)
        for name, config in command.items():
            OmegaConf.save(config, self.path / COMMAND / f"{name}.yaml")
        self._log_file = logging.FileHandler(self.path / "train.log")
        self._log_file.setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger().addHandler(self._log_file)

    @property
    def finished(self) -> bool:
        """Whether its results are there, scored as the config says now, and its figures."""
        if not (self.path / RESULTS).exists():
            return False
        results = read_json(self.path / RESULTS)
        as_now = all(results.get(key) == value for key, value in self._scored_by.items())
        return as_now and "figures" in results["seconds"]

    @property
    def _scored_by(self) -> dict[str, Any]:
        """What decides the numbers in its results beside the weights."""
        env = self.config.get("env", {})
        rules = {key: env.get(key) for key in ("success_return", "crash_reward")}
        rules["test_seeds"] = env.get("seed_blocks", {}).get("test")
        return {"evaluation": self.config.get("evaluation"), "rules": rules}

    @property
    def next_steps(self) -> str:
        """What there is to do, for the log."""
        if (self.path / TRAINING).exists():
            return "is trained; scores and figures are made"
        if self.last_checkpoint:
            return "goes on from its last checkpoint"
        return "expert, demonstrations, training, scores"

    @property
    def checkpoints(self) -> Path:
        """Where `last.ckpt` and `best.ckpt` are kept."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path | None:
        """Where a killed training goes on, if it was killed."""
        path = self.checkpoints / "last.ckpt"
        return path if path.exists() else None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        started = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - started, 2)

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results, with the seconds by stage so far."""
        self.seconds["total"] = round(time.monotonic() - self._started, 2)
        measured = {"seconds": self.seconds, "peak_memory_mb": peak_memory_mb()}
        write_json(self.path / RESULTS, {**results, **self._scored_by, **measured})

    def _set_aside(self) -> None:
        number = next(n for n in range(1, 10_000) if not self.path.with_name(f"{self.path.name}.{n}").exists())
        aside = self.path.with_name(f"{self.path.name}.{number}")
        aside.mkdir()
        for path in self.path.iterdir():
            path.rename(aside / path.name)
        log.info("what was in %s is now in %s", self.path, aside)


def discard_unused(path: Path) -> None:
    """Remove a run's folder if it is empty."""
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()


def write_error(path: Path, error: Exception) -> None:
    """Keep an error in a run's folder: one line that says what it is, then the traceback."""
    path.mkdir(parents=True, exist_ok=True)
    first_line = f"{type(error).__name__}: {error}".splitlines()[0]
    (path / ERROR).write_text(f"{first_line}\n\n{''.join(traceback.format_exception(error))}")


def selection_return(run: RunFolder) -> float:
    """A finished run's mean return on selection seeds, by the weights of its reported checkpoint."""
    return float(read_json(run.path / RESULTS)["selection_return_mean"])


def read_config(folder: Path, *, key: str = "run") -> dict[str, Any]:
    """A run's resolved config, as plain containers; reading it runs no code. ValueError names the key."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{key} must be the folder of a run, with a config.yaml in it, got {folder}")
    return yaml.safe_load(path.read_text())


def read_finished(folder: Path, *, key: str = "run") -> tuple[DictConfig, dict[str, Any]]:
    """The config and the results of a finished run, which may be somebody else's.

    Its config is checked, and its weights are those that it was scored with. ConfigError names the key that it was
    asked for by, DamagedArtifactError a file that is another one.
    """
    run = OmegaConf.create(read_config(folder, key=key))
    try:
        check_config(run, partial=True)
    except ConfigError as error:
        raise ConfigError(f"{key}: {folder / CONFIG}: {error}") from error
    if not (folder / RESULTS).is_file():
        raise ConfigError(f"{key} must be the folder of a finished run, with a {RESULTS} in it, got {folder}")
    trained = read_json(folder / RESULTS)
    check_files(folder, trained["files"])
    return run, trained


def peak_memory_mb() -> int:
    """The most memory that this process has held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, what getrusage says begins with what the process held that started this one
        kibibytes = int(status.read_text().split("VmHWM:")[1].split()[0])
    else:
        kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
    return round(kibibytes * 1024 / 1e6)
