"""Experts, demonstrations and models as W&B artifacts, so that a dashboard shows what was made from what."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ilt.store import MANIFEST, Artefact

if TYPE_CHECKING:
    from wandb import Artifact, Run

OF_A_MODEL = ("return_mean", "selection_return_mean", "performance", "action_accuracy", "n_parameters", "headline")
"""Which results are shown beside a model."""


def model_of(run_folder: Path, results: Mapping[str, Any]) -> Artefact:
    """A run's weights, as an artefact like those of the store."""
    measured = {name: results[name] for name in OF_A_MODEL}
    imitation = results.get("imitation", {"by_round": []})  # which runs of before do not name
    rounds = [each["made"] for each in imitation["by_round"][1:]]
    made_from = [results["expert"], results["demonstrations"], *rounds]
    return Artefact(run_folder, {"measured": measured, "made_from": made_from, "files": results["files"]})


def makes(run: "Run | None", **artefacts: Artefact) -> None:
    """Note what a run's job makes, and upload it. W&B keeps equal content once, however often it is logged.

    Args:
        run: nothing happens without one.
        artefacts: by W&B's type of the artifact: `expert`, `demonstrations`, `rounds`, `model`.
    """
    if run is None:
        return
    for kind, artefact in artefacts.items():
        run.log_artifact(_as_wandb(kind, artefact))


def uses(run: "Run | None", **artefacts: Artefact) -> None:
    """Note what a run's job works from, and upload what W&B does not have of it yet. See `makes`."""
    if run is None:
        return
    for kind, artefact in artefacts.items():
        artifact = _as_wandb(kind, artefact)
        if run.offline:
            # `use_artifact` refuses to work offline, where it cannot wait for the upload. What it would send is
            # kept instead, and is done when the run is uploaded.
            run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
        else:
            run.use_artifact(artifact)


def _as_wandb(kind: str, artefact: Artefact) -> "Artifact":
    """All files of an artefact, so that a download is the same artefact; its manifest is the metadata."""
    import wandb

    metadata = {name: value for name, value in artefact.manifest.items() if name != "files"}
    artifact = wandb.Artifact(artefact.name, type=kind, metadata=metadata)
    beside = [name for name in (MANIFEST, "config.yaml") if artefact.file(name).exists()]
    for name in [*artefact.manifest["files"], *beside]:
        # read in place when it is uploaded: the files of an artefact do not change, and copies would fill the disk
        artifact.add_file(str(artefact.file(name).resolve()), name=name, policy="immutable", skip_cache=True)
    return artifact
