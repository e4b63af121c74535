"""Lightning's checkpoints: how they are written, and the callbacks that save the last weights and the best ones."""

from pathlib import Path
from typing import Any, ClassVar

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ilt.tracking.checkpoints import save_checkpoint


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints by `ilt.tracking.checkpoints`, beside their target.

    Lightning writes to the temporary folder first. From another file system the file is then copied into place, so a
    kill or a full disk would destroy the last checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(checkpoint, path)


class Last(ModelCheckpoint):
    """Saves `last.ckpt` at every validation; a killed run resumes from it.

    Args:
        dirpath: the folder of checkpoints.
    """

    _filename: ClassVar[str] = "last"
    _monitor: ClassVar[str | None] = None

    def __init__(self, *, dirpath: str) -> None:
        super().__init__(
            dirpath=dirpath, filename=self._filename, monitor=self._monitor, mode="max", enable_version_counter=False
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state also if the folder was moved; Lightning would forget the best score."""
        assert self.dirpath is not None

        def here(path: str) -> str:
            return str(Path(str(self.dirpath), Path(path).name)) if path else path

        paths = {key: here(value) for key, value in state_dict.items() if key.endswith("_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class Best(Last):
    """Saves `best.ckpt` at each validation with a new highest mean return on selection seeds."""

    _filename, _monitor = "best", "rollout/return_mean"
