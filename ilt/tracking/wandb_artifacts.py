"""Experts, demonstrations and models as W&B artifacts, so that a dashboard shows what was made from what."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilt.tracking.store import MANIFEST, Artifact

if TYPE_CHECKING:
    import wandb

MODEL_METRICS = (
    "return_mean",
    "selection_return_mean",
    "performance",
    "action_accuracy",
    "action_error",
    "n_parameters",
    "reported_checkpoint",
)
"""Results that are shown beside a model, those that it has."""


def model_of(run_folder: Path, results: Mapping[str, Any]) -> Artifact:
    """A run's weights, as an artifact like those of the store."""
    measured = {name: results[name] for name in MODEL_METRICS if name in results}
    imitation = results.get("imitation", {"by_round": []})  # which runs of before do not name
    rounds = [each["made"] for each in imitation["by_round"][1:]]
    parents = [results["expert"], results["demonstrations"], *rounds]
    return Artifact(run_folder, {"metrics": measured, "parents": parents, "files": results["files"]})


def makes(run: "wandb.Run | None", **artifacts: Artifact) -> None:
    """Note what a run's job makes, and upload it. W&B keeps equal content once, however often it is logged.

    Args:
        run: nothing happens without one.
        artifacts: by W&B's type of the artifact: `expert`, `demonstrations`, `rounds`, `model`.
    """
    if run is None:
        return
    for kind, artifact in artifacts.items():
        run.log_artifact(_as_wandb(kind, artifact))


def uses(run: "wandb.Run | None", **artifacts: Artifact) -> None:
    """Note what a run's job works from, and upload what W&B does not have of it yet. See `makes`."""
    if run is None:
        return
    for kind, artifact in artifacts.items():
        used = _as_wandb(kind, artifact)
        if run.offline:
            # `use_artifact` refuses to work offline, where it cannot wait for the upload. What it would send is
            # kept instead, and is done when the run is uploaded.
            run._log_artifact(used, is_user_created=True, use_after_commit=True)
        else:
            run.use_artifact(used)


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
