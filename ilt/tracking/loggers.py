"""Log the runs of jobs: to W&B, TensorBoard, MLflow, CSV files, or any other Lightning logger."""

import csv
import inspect
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from omegaconf import OmegaConf

from ilt.schema import ConfigError, accepted, check, locate, schema_of
from ilt.settings import is_of_the_run
from ilt.tracking.run_folder import CARD
from ilt.tracking.store import Artifact, provenance, write_text

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

WANDB = "wandb.init"
"""The `_target_` that selects W&B; any other is a Lightning logger."""

LONGEST_TAG = 64
"""Maximum number of characters that W&B allows in a tag."""

Table = Sequence[Mapping[str, Any]]
"""Rows, each a mapping from column to value, all with the same columns."""


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    """What a logger records about a job.

    Attributes:
        name: name of the run.
        job_type: the command.
        folder: the run's folder for `train`, otherwise the folder of all artifacts.
        outputs: the folder that all jobs write below.
        config: the hyperparameters, resolved, as plain containers.
        group: the sweep that the job is part of.
        tags: for example, the overrides of a sweep; see `tags_of`.
    """

    name: str
    job_type: str
    folder: Path
    outputs: Path
    config: Mapping[str, Any]
    group: str | None = None
    tags: Sequence[str] = ()

    @property
    def log_folder(self) -> Path:
        """The folder for the job's logs, which no other job uses."""
        return self.folder if self.job_type == "train" else self.folder / "logs" / f"{self.job_type}-{self.name}"


class Run:
    """A job's run in a Lightning logger. Without a logger, every method does nothing.

    Every logger gets metrics and hyperparameters. Tables, figures and videos are written to its local folder
    (`log_dir`), if it has one. Subclasses send them to their backends instead.

    Args:
        logger: the logger of the job and of its `Trainer`.
    """

    def __init__(self, logger: "Logger | None" = None) -> None:
        self._logger = logger

    @property
    def lightning(self) -> "Logger | None":
        """The logger for a Lightning `Trainer`."""
        return self._logger

    def log(self, metrics: Mapping[str, float], *, step: int, x: str) -> None:
        """Log metrics at one step.

        Args:
            metrics: values by name.
            step: position on the x-axis.
            x: name of the x-axis, for backends that have several.
        """
        if self._logger is not None:
            self._logger.log_metrics(dict(metrics), step)

    def summarize(self, numbers: Mapping[str, Any]) -> None:
        """Log final metrics. Values that are not numbers are left out."""
        if self._logger is not None:
            self._logger.log_metrics({name: float(value) for name, value in _numbers(numbers).items()}, 0)

    def log_tables(self, tables: Mapping[str, Table]) -> None:
        """Log tables, by name."""
        if (folder := self._folder()) is not None:
            for name, rows in tables.items():
                write_text(folder / f"{name}.csv", _csv(rows))

    def log_figures(self, figures: Mapping[str, Path]) -> None:
        """Log PNG files, by name."""
        self._copy(figures)

    def log_videos(self, videos: Mapping[str, Path]) -> None:
        """Log MP4 files, by name."""
        self._copy(videos)

    def describe(self, card: str) -> None:
        """Log a description of the finished run, in Markdown."""
        if (folder := self._folder()) is not None:
            write_text(folder / CARD, card)

    def use_artifacts(self, **artifacts: Artifact) -> None:
        """Record the job's input artifacts, by type: `expert`, `demonstrations`, `model`. W&B only."""

    def log_artifacts(self, **artifacts: Artifact) -> None:
        """Record the job's output artifacts, by type: `expert`, `demonstrations`, `rounds`, `model`. W&B only."""

    def finish(self, *, failed: bool) -> None:
        """End the run."""
        if self._logger is not None:
            self._logger.finalize("failed" if failed else "success")

    def _folder(self) -> Path | None:
        if self._logger is None or self._logger.log_dir is None:
            return None
        folder = Path(self._logger.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _copy(self, files: Mapping[str, Path]) -> None:
        if (folder := self._folder()) is not None:
            for name, path in files.items():
                shutil.copy(path, folder / f"{name}{path.suffix}")


class TensorBoardRun(Run):
    """A run in TensorBoard, with hyperparameters and final metrics. Videos are not logged."""

    def __init__(self, logger: "TensorBoardLogger") -> None:
        super().__init__(logger)
        self._tensorboard, self._summary = logger, dict[str, float]()

    def summarize(self, numbers: Mapping[str, Any]) -> None:
        self._summary |= _numbers(numbers)

    def log_tables(self, tables: Mapping[str, Table]) -> None:
        for name, rows in tables.items():
            lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
            text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
            self._tensorboard.experiment.add_text(name, text)

    def log_figures(self, figures: Mapping[str, Path]) -> None:
        from matplotlib.image import imread

        for name, path in figures.items():
            self._tensorboard.experiment.add_image(name, imread(path), dataformats="HWC")

    def log_videos(self, videos: Mapping[str, Path]) -> None:
        pass

    def describe(self, card: str) -> None:
        self._tensorboard.experiment.add_text("card", card)

    def finish(self, *, failed: bool) -> None:
        if self._summary:
            self._tensorboard.log_hyperparams(dict(self._tensorboard.hparams), self._summary)
        self._tensorboard.save()
        super().finish(failed=failed)


class MLflowRun(Run):
    """A run in MLflow. Tables (CSV), figures and videos are logged as artifacts."""

    def __init__(self, logger: "MLFlowLogger") -> None:
        super().__init__(logger)
        self._client, self._id = logger.experiment, str(logger.run_id)

    def log_tables(self, tables: Mapping[str, Table]) -> None:
        for name, rows in tables.items():
            self._client.log_text(self._id, _csv(rows), f"{name}.csv")

    def describe(self, card: str) -> None:
        self._client.set_tag(self._id, "mlflow.note.content", card)

    def _copy(self, files: Mapping[str, Path]) -> None:
        for path in files.values():
            self._client.log_artifact(self._id, str(path))


@contextmanager
def open_run(logger: Mapping[str, Any] | None, job: JobInfo) -> Iterator[Run]:
    """Open a job's run for the duration of the context. An exception marks the run as failed.

    Raise ConfigError if the logger cannot be made.

    Args:
        logger: the `logger` group of a config, with `_target_` and keyword arguments; empty for no logger.
        job: the job.
    """
    run = _start(logger, job)
    try:
        yield run
    except BaseException:
        run.finish(failed=True)
        raise
    run.finish(failed=False)


def _start(logger: Mapping[str, Any] | None, job: JobInfo) -> Run:
    if not logger:
        return Run()
    values: Any = OmegaConf.to_container(logger, resolve=True) if OmegaConf.is_config(logger) else dict(logger)
    check(schema_of("logger", values), values, prefix="logger")
    options = {name: value for name, value in values.items() if name != "_target_"}
    if values["_target_"] == WANDB:
        from ilt.tracking import wandb

        return wandb.start(options, job)
    from pytorch_lightning.loggers import Logger as PossibleLogger
    from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger

    job.outputs.mkdir(parents=True, exist_ok=True)
    kind = locate(values["_target_"], key="logger._target_")
    known = {"save_dir": str(job.log_folder), "name": job.name, "run_name": job.name}
    taken = {key: value for key, value in known.items() if key in inspect.signature(kind).parameters}
    arguments = accepted(kind, options, taken, prefix="logger")
    with FileLock(job.outputs / ".logger.lock"):  # two jobs must not create the same store or experiment
        try:
            made: Logger = kind(**arguments)
        except Exception as error:
            extras = " (TensorBoard and MLflow are extras: pip install 'ilt[tensorboard]' or 'ilt[mlflow]')"
            hint = extras if isinstance(error, ModuleNotFoundError) else ""
            raise ConfigError(f"logger._target_={values['_target_']} cannot be made: {error}{hint}") from error
        if not isinstance(made, PossibleLogger):
            raise ConfigError(f"logger._target_ must be a Lightning logger, got {values['_target_']}")
        about = {"name": job.name, "type": job.job_type, "group": job.group, "tags": list(job.tags)}
        made.log_hyperparams({**job.config, "job": about, "made_by": provenance()})
    if isinstance(made, TensorBoardLogger):
        return TensorBoardRun(made)
    return MLflowRun(made) if isinstance(made, MLFlowLogger) else Run(made)


class ExpertCurve:
    """The learning curve of an expert: return over environment steps.

    Args:
        run: the run that logs the curve.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._live = run, False

    def add(self, steps: int, return_mean: float) -> None:
        """Log an expert's mean return after `steps` environment steps of its training."""
        self._live = True
        self._run.log({"expert/return_mean": return_mean}, step=steps, x="expert/steps")

    def fill(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Log the curve of an expert that was trained earlier, unless `add` has logged it during training."""
        if not self._live:
            for entry in history:
                self.add(entry["steps"], entry["return_mean"])


def tags_of(overrides: Sequence[str]) -> list[str]:
    """Return overrides such as `model=small` as tags, without keys that do not affect results, such as `outputs`."""
    kept = [override.lstrip("+~") for override in overrides if is_of_the_run(override)]
    return [tag if len(tag) <= LONGEST_TAG else f"{tag[: LONGEST_TAG - 1]}…" for tag in kept]


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _csv(rows: Table) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
