"""Schemas of the config group `logger`; loggers without a schema are checked against their constructors."""

from ilt.schema import PROJECT, Rule, component, key

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
    """Weights & Biases. Without an API key the run stays offline."""

    project: str = key("ilt", "The project in which runs are shown together.", rule=PROJECT)
    entity: str | None = key(None, "User or team; null for the key's default.")
    name: str | None = key(None, "The run's name; null for the job's.")
    group: str | None = key(None, "The group of the run; null for the name of the sweep.")
    tags: list[str] = key([], "Besides the swept overrides.")
    notes: str | None = key(None, "A description of the run.")


@component("logger", "csv", "pytorch_lightning.loggers.CSVLogger", refused={"save_dir": _OF_THE_RUN})
class CSV:
    """`metrics.csv`, `hparams.yaml`, tables and figures, in `csv/` of the run's folder, or of `logs/JOB`."""

    name: str = key("", "A folder above `version`.", rule=_ANY_TEXT)
    version: str = key("csv", "The folder.")
    prefix: str = key("", "Of the metrics' names.", rule=_ANY_TEXT)
    flush_logs_every_n_steps: int = key(100, "Steps between writes.", ge=1)


@component("logger", "tensorboard", "pytorch_lightning.loggers.TensorBoardLogger", refused={"save_dir": _OF_THE_RUN})
class TensorBoard:
    """TensorBoard's event files (the extra `tensorboard`). Show all jobs with: tensorboard --logdir outputs."""

    name: str = key("", "A folder above `version`.", rule=_ANY_TEXT)
    version: str = key("tensorboard", "The folder.")
    prefix: str = key("", "Of the metrics' names.", rule=_ANY_TEXT)
    default_hp_metric: bool = key(False, "Log −1 beside the hyperparameters until the final numbers are known.")


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
    """MLflow (the extra `mlflow`), without a server by default: all jobs in one SQLite file, their files beside it.

    Show them with: uvx mlflow ui --backend-store-uri sqlite:///outputs/mlflow.db. For a server, set `tracking_uri`, and
    `artifact_location` to null.
    """

    experiment_name: str = key("ilt", "The experiment in which runs are shown together.")
    tracking_uri: str = key("sqlite:///${outputs}/mlflow.db", "The store, or the server.")
    artifact_location: str | None = key("${outputs}/mlflow", "The folder of the files; null for the server's own.")
    tags: dict[str, str] | None = key(None, "Of the run.")
    prefix: str = key("", "Of the metrics' names.", rule=_ANY_TEXT)
