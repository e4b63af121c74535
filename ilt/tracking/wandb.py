"""Log the runs of jobs to W&B, with artifacts for the lineage of models. Without an API key, runs are offline."""

import logging
import netrc
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from ilt.schema import config_hash
from ilt.tracking.loggers import JobInfo, Run, Table
from ilt.tracking.reading import open_regular
from ilt.tracking.run_folder import TABLES
from ilt.tracking.store import MANIFEST, Artifact, provenance

if TYPE_CHECKING:
    import wandb
    from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)

STEP = "trainer/global_step"
"""The x-axis of training metrics."""

BEST = {
    "rollout/return_mean": "max",
    "rollout/success_rate": "max",
    "rollout/crash_rate": "min",
    "val/action_accuracy": "max",
    "val/loss": "min",
    "expert/return_mean": "max",
}
"""Metrics whose minimum or maximum is in the summary, next to the last value."""

LONGEST_NAME = 128
"""Maximum number of characters that W&B allows in a name."""

CLOUD = {"api.wandb.ai", "api.forge.coreweave.com"}
"""Two hosts of the same public server; an API key for one works for the other."""

MODEL_METRICS = (
    "return_mean",
    "selection_return_mean",
    "performance",
    "action_accuracy",
    "n_parameters",
    "reported_checkpoint",
)
"""The results that a model artifact has in its metadata."""


class WandbRun(Run):
    """A run in W&B.

    Args:
        run: a W&B run that has been started.
        notes: the user's description of the run.
    """

    def __init__(self, run: "wandb.Run", *, notes: str | None = None) -> None:
        super().__init__()
        self._run, self._notes = run, notes

    @property
    def id(self) -> str:
        """The run's id in W&B."""
        return self._run.id

    @property
    def lightning(self) -> "Logger":
        """The logger for a Lightning `Trainer`. Its summary also has the best values."""
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

    def describe(self, card: str) -> None:
        """Show the description of a finished run in the overview, after the user's own notes."""
        self._run.notes = card if self._notes is None else f"{self._notes}\n\n{card}"

    def use_artifacts(self, **artifacts: Artifact) -> None:
        """Record the job's input artifacts, and upload the files that W&B does not have yet."""
        for kind, artifact in artifacts.items():
            used = _as_wandb(kind, artifact)
            if self._run.offline:
                # a private method, because `use_artifact` raises an error offline and has no public alternative
                self._run._log_artifact(used, is_user_created=True, use_after_commit=True)
            else:
                self._run.use_artifact(used)

    def log_artifacts(self, **artifacts: Artifact) -> None:
        """Record the job's output artifacts, and upload them. W&B stores equal content only once."""
        for kind, artifact in artifacts.items():
            self._run.log_artifact(_as_wandb(kind, artifact))

    def finish(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


def start(options: Mapping[str, Any], job: JobInfo) -> Run:
    """Start the W&B run of a job, or a run without a logger if `WANDB_MODE` is `disabled`.

    The run is offline if there is no API key or no connection. The same job with the same folder and config continues
    the same run.

    Args:
        options: keyword arguments of `wandb.init`. `name` and `group` replace the job's; `tags` are added to the job's.
        job: the job.
    """
    mode: Any = os.environ.get("WANDB_MODE")
    if mode == "disabled":
        return Run()
    import wandb

    job.folder.mkdir(parents=True, exist_ok=True)
    # keep files to upload in `outputs`, where all jobs and `sync` find them, not in the home folder
    os.environ.setdefault("WANDB_DATA_DIR", str(Path(job.outputs, "wandb").resolve()))
    arguments: dict[str, Any] = {
        **options,
        "dir": str(job.folder),
        "name": str(options.get("name") or job.name)[:LONGEST_NAME],
        "job_type": job.job_type,
        "group": (group := options.get("group") or job.group) and str(group)[:LONGEST_NAME],
        "tags": list(dict.fromkeys([*options.get("tags", []), *job.tags])),
        "id": config_hash([job.job_type, str(job.folder.resolve()), dict(job.config)]),
        "resume": "allow",
        "config": {**job.config, "made_by": provenance()},
        # no code and no list of packages: `made_by` has the commit and the relevant versions
        "settings": wandb.Settings(silent=True, save_code=False, disable_git=True, x_save_requirements=False),
    }
    try:
        run = wandb.init(**arguments, mode=mode or ("online" if has_key() else "offline"))
    except wandb.errors.CommError as error:  # for example, on a cluster node without network access
        log.warning("W&B cannot be reached (%s)", str(error).splitlines()[0])
        wandb.teardown()  # discard the run that could not be started
        run = wandb.init(**arguments, mode="offline")
    if run.offline:
        log.info("W&B is offline%s; upload later with: ilt sync", "" if has_key() else " (no API key)")
    else:
        log.info("W&B: %s", run.url)
    return WandbRun(run, notes=options.get("notes"))


def base_url() -> str:
    """Return the URL of the W&B server, set by `WANDB_BASE_URL` or `wandb login`."""
    import wandb

    return os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)


def has_key() -> bool:
    """Return whether there is an API key for the W&B server, in `WANDB_API_KEY` or saved by `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(base_url()).hostname
    try:
        hosts = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return not hosts.keys().isdisjoint(CLOUD if host in CLOUD else {host})


def model_of(run_folder: Path, results: Mapping[str, Any]) -> Artifact:
    """Return a run's weights as an artifact."""
    measured = {name: results[name] for name in MODEL_METRICS if results.get(name) is not None}
    imitation = results.get("imitation", {"by_round": []})  # older runs lack it
    rounds = [each["artifact"] for each in imitation["by_round"][1:]]
    parents = [*filter(None, [results["expert"]]), results["demonstrations"], *rounds]
    files = {name: digest for name, digest in results["files"].items() if name not in TABLES}
    return Artifact(run_folder, {"metrics": measured, "parents": parents, "files": files})


def artifact_name(name: str) -> str:
    """Return an artifact name that W&B allows: at most 128 letters, digits, dashes, underscores and dots."""
    allowed = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
    return name if allowed == name and len(name) <= LONGEST_NAME else f"{allowed[:100]}-{config_hash(name)}"


def _as_wandb(kind: str, artifact: Artifact) -> "wandb.Artifact":
    """Return a W&B artifact with all files of an artifact, and its manifest as metadata.

    Raise UnreadableFileError if a file is not a regular file inside the artifact's folder.
    """
    import wandb

    metadata = {name: value for name, value in artifact.manifest.items() if name != "files"}
    copy = wandb.Artifact(artifact_name(artifact.name), type=kind, metadata=metadata)
    beside = [name for name in (MANIFEST, "config.yaml") if artifact.file(name).exists()]
    for name in dict.fromkeys([*artifact.manifest["files"], *beside]):
        open_regular(artifact.file(name), within=artifact.path).close()
        # upload files in place: they never change, and copies would fill the disk
        copy.add_file(str(artifact.file(name).resolve()), name=name, policy="immutable", skip_cache=True)
    return copy
