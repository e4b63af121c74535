"""A job's run in W&B, offline where there is no API key, with artifacts that show what was made from what."""

import logging
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from ilt.schema import config_hash
from ilt.tracking.loggers import JobInfo, Run, Table
from ilt.tracking.store import MANIFEST, Artifact, provenance

if TYPE_CHECKING:
    import wandb
    from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
"""The x-axis of a training."""

BEST = {
    "rollout/return_mean": "max",
    "rollout/success_rate": "max",
    "rollout/crash_rate": "min",
    "val/action_accuracy": "max",
    "val/loss": "min",
    "expert/return_mean": "max",
}
"""Metrics whose best value the summary holds beside the last one, and which value is the best."""

CLOUD = {"api.wandb.ai", "api.forge.coreweave.com"}
"""Two names of the same public server; a key that was kept for one is good for the other."""

MODEL_METRICS = (
    "return_mean",
    "selection_return_mean",
    "performance",
    "action_accuracy",
    "n_parameters",
    "reported_checkpoint",
)
"""The results that are shown beside a model."""


class WandbRun(Run):
    """A run in W&B.

    Args:
        run: started.
    """

    def __init__(self, run: "wandb.Run") -> None:
        super().__init__()
        self._run = run

    @property
    def id(self) -> str:
        """What W&B knows the run by."""
        return self._run.id

    @property
    def lightning(self) -> "Logger":
        """The logger for a Lightning `Trainer`, with a summary that also holds the best values."""
        from pytorch_lightning.loggers import WandbLogger

        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP, step_sync=True)
        for metric, best in BEST.items():
            self._run.define_metric(metric, step_metric=STEP, step_sync=True, summary=f"{best},last")
        return WandbLogger(experiment=self._run)

    def log(self, metrics: Mapping[str, float], *, step: int, x: str) -> None:
        self._run.define_metric(x)
        for metric in metrics:
            self._run.define_metric(metric, step_metric=x, summary=f"{BEST[metric]},last" if metric in BEST else None)
        self._run.log({x: step, **metrics})

    def summarize(self, numbers: Mapping[str, Any]) -> None:
        self._run.summary.update({name: value for name, value in numbers.items() if isinstance(value, int | float)})

    def log_tables(self, tables: Mapping[str, Table]) -> None:
        import wandb

        self._run.log(
            {
                name: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
                for name, rows in tables.items()
            }
        )

    def log_figures(self, figures: Mapping[str, Path]) -> None:
        import wandb

        self._run.log({name: wandb.Image(str(path)) for name, path in figures.items()})

    def log_videos(self, videos: Mapping[str, Path]) -> None:
        import wandb

        self._run.log({name: wandb.Video(str(path), format="mp4") for name, path in videos.items()})

    def use_artifacts(self, **artifacts: Artifact) -> None:
        """Record what the job works from, and upload what W&B does not have of it yet."""
        for kind, artifact in artifacts.items():
            used = _as_wandb(kind, artifact)
            if self._run.offline:
                # private: `use_artifact` refuses to work offline, and no public call keeps what it would send
                self._run._log_artifact(used, is_user_created=True, use_after_commit=True)
            else:
                self._run.use_artifact(used)

    def log_artifacts(self, **artifacts: Artifact) -> None:
        """Record what the job makes, and upload it. W&B keeps equal content once, however often it is logged."""
        for kind, artifact in artifacts.items():
            self._run.log_artifact(_as_wandb(kind, artifact))

    def finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


def start(options: Mapping[str, Any], job: JobInfo) -> Run:
    """The W&B run of a job, or a run without a logger where `WANDB_MODE` is `disabled`.

    It is offline where there is no API key or no connection. The same job, in the same folder and with the same
    config, continues the same run.

    Args:
        options: keyword arguments of `wandb.init`; its `name`, `group` and `tags` go before and beside the job's.
        job: what is known of the job.
    """
    mode: Any = os.environ.get("WANDB_MODE")
    if mode == "disabled":
        return Run()
    import wandb

    job.folder.mkdir(parents=True, exist_ok=True)
    # files to be uploaded later must be where all jobs and `sync` find them, not in this machine's home folder
    os.environ.setdefault("WANDB_DATA_DIR", str(Path(job.outputs, "wandb").resolve()))
    arguments: dict[str, Any] = {
        **options,
        "dir": str(job.folder),
        "name": options.get("name") or job.name,
        "job_type": job.job_type,
        "group": options.get("group") or job.group,
        "tags": list(dict.fromkeys([*options.get("tags", []), *job.tags])),
        "id": config_hash([job.job_type, str(job.folder.resolve()), dict(job.config)]),
        "resume": "allow",
        "config": {**job.config, "made_by": provenance()},
        # neither code nor a list of installed packages: the commit and the versions that count are in the config
        "settings": wandb.Settings(silent=True, save_code=False, disable_git=True, x_save_requirements=False),
    }
    try:
        run = wandb.init(**arguments, mode=mode or ("online" if has_key() else "offline"))
    except wandb.errors.CommError as error:  # such as on a node of a cluster without a network
        log.warning("W&B cannot be reached (%s)", str(error).splitlines()[0])
        wandb.teardown()  # which still holds the run that could not be started
        run = wandb.init(**arguments, mode="offline")
    if run.offline:
        log.info("W&B is offline%s; upload later with: make sync", "" if has_key() else " (no API key)")
    else:
        log.info("W&B: %s", run.url)
    return WandbRun(run)


def base_url() -> str:
    """The W&B server, as `WANDB_BASE_URL` or `wandb login` says."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)


def has_key() -> bool:
    """Whether there is an API key for the W&B server, in `WANDB_API_KEY` or where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(base_url()).hostname
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return not hosts.keys().isdisjoint(CLOUD if host in CLOUD else {host})


def model_of(run_folder: Path, results: Mapping[str, Any]) -> Artifact:
    """A run's weights, as an artifact like those of the store."""
    measured = {name: results[name] for name in MODEL_METRICS if results.get(name) is not None}
    imitation = results.get("imitation", {"by_round": []})  # which older runs do not name
    rounds = [each["artifact"] for each in imitation["by_round"][1:]]
    parents = [results["expert"], results["demonstrations"], *rounds]
    return Artifact(run_folder, {"metrics": measured, "parents": parents, "files": results["files"]})


def _as_wandb(kind: str, artifact: Artifact) -> "wandb.Artifact":
    """All files of an artifact, so that a download is the same artifact; its manifest is the metadata."""
    import wandb

    metadata = {name: value for name, value in artifact.manifest.items() if name != "files"}
    copy = wandb.Artifact(artifact.name, type=kind, metadata=metadata)
    beside = [name for name in (MANIFEST, "config.yaml") if artifact.file(name).exists()]
    for name in [*artifact.manifest["files"], *beside]:
        # read in place when it is uploaded: the files of an artifact do not change, and copies would fill the disk
        copy.add_file(str(artifact.file(name).resolve()), name=name, policy="immutable", skip_cache=True)
    return copy
