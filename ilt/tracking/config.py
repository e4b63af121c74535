"""Schemas of the config group `logger`; loggers without a schema are checked against their constructors."""

from ilt.rules import PROJECT, Rule
from ilt.schema import component, key

_ANY_TEXT = Rule(lambda v: isinstance(v, str), "text")
_BY_THE_JOB = "the job sets it"
_OF_THE_RUN = "its files are in the run's folder; use outputs and run_name"


@component(
    "logger",
    "wandb",
    "wandb.init",
    refused={
        **dict.fromkeys(("dir", "job_type", "id", "resume", "config", "settings"), _BY_THE_JOB),
        "mode": f"{_BY_THE_JOB}; the environment variable WANDB_MODE does",
    },
)
class Wandb:
    """Weights & Biases. Without an API key, the run stays offline."""

    project: str = key("ilt", "The project that groups the runs.", rule=PROJECT)
    entity: str | None = key(None, "User or team; null for the API key's default.")
    name: str | None = key(None, "The run's name; null for the job's name.")
    group: str | None = key(None, "The run's group; null for the sweep's name.")
    tags: list[str] = key([], "Tags in addition to the swept overrides.")
    notes: str | None = key(None, "A description of the run.")


@component("logger", "csv", "pytorch_lightning.loggers.CSVLogger", refused={"save_dir": _OF_THE_RUN})
class CSV:
    """`metrics.csv`, `hparams.yaml`, tables and figures in the folder `csv/` of the run, or of `logs/JOB`."""

    name: str = key("", "A folder that contains `version`; empty for none.", rule=_ANY_TEXT)
    version: str = key("csv", "The folder to write to.")
    prefix: str = key("", "Prefix of the metric names.", rule=_ANY_TEXT)
    flush_logs_every_n_steps: int = key(100, "Steps between writes.", ge=1)


@component("logger", "tensorboard", "pytorch_lightning.loggers.TensorBoardLogger", refused={"save_dir": _OF_THE_RUN})
class TensorBoard:
    """TensorBoard event files (the extra `tensorboard`). Show all jobs with: tensorboard --logdir outputs."""

    name: str = key("", "A folder that contains `version`; empty for none.", rule=_ANY_TEXT)
    version: str = key("tensorboard", "The folder to write to.")
    prefix: str = key("", "Prefix of the metric names.", rule=_ANY_TEXT)
    default_hp_metric: bool = key(False, "Log −1 with the hyperparameters until the final metrics are known.")


@component(
    "logger",
    "mlflow",
    "pytorch_lightning.loggers.MLFlowLogger",
    refused={
        "save_dir": "use tracking_uri",
        **dict.fromkeys(("run_name", "run_id"), _BY_THE_JOB),
        "log_model": "weights are in the run's folder",
    },
)
class MLflow:
    """MLflow (the extra `mlflow`). By default without a server: one SQLite file for all jobs, and a folder of files.

    Show them with: uvx mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db. To use a server, set `tracking_uri`
    to its URI and `artifact_location` to null.
    """

    experiment_name: str = key("ilt", "The experiment that groups the runs.")
    tracking_uri: str = key("sqlite:///${outputs}/mlflow.db", "URI of the store or the server.")
    artifact_location: str | None = key("${outputs}/mlflow", "Folder for files; null for the server's default.")
    tags: dict[str, str] | None = key(None, "Tags of the run.")
    prefix: str = key("", "Prefix of the metric names.", rule=_ANY_TEXT)
