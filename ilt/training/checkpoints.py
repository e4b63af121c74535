"""Lightning's checkpoints: how they are written, and the callbacks that save the last and the best weights."""

from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from ilt.tracking.checkpoints import save_checkpoint


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints with `ilt.tracking.checkpoints`, next to their target.

    Lightning writes to the temporary folder first. If that is on another file system, it then copies the file into
    place, so a kill or a full disk would destroy the last checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(checkpoint, path)


class _Moveable(ModelCheckpoint):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state even if the folder was moved; Lightning would forget the best score."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath), Path(path).name)) if path else path

        paths = {key: here(value) for key, value in state_dict.items() if key.endswith("_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


class Last(_Moveable):
    """Saves `last.ckpt` at every validation; an interrupted run resumes from it.

    Args:
        dirpath: the folder of checkpoints.
    """

    def __init__(self, *, dirpath: str) -> None:
        super().__init__(dirpath=dirpath, filename="last", enable_version_counter=False)


class Best(_Moveable):
    """Saves `best.ckpt` at each validation that reaches a new highest mean return on selection seeds.

    Args:
        dirpath: the folder of checkpoints.
    """

    def __init__(self, *, dirpath: str) -> None:
        super().__init__(
            dirpath=dirpath, filename="best", monitor="rollout/return_mean", mode="max", enable_version_counter=False
        )
