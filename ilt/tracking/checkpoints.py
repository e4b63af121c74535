"""Training checkpoints that survive kills and full disks. If the last one is damaged, the previous one is used."""

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ilt.tracking.reading import UnreadableFileError, open_regular, reading
from ilt.tracking.run_folder import one_before
from ilt.tracking.store import DamagedArtifactError, replacing

log = logging.getLogger(__name__)


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain containers to a checkpoint atomically, and keep the previous checkpoint."""
    with replacing(path, keep=one_before(path)) as new:
        torch.save(dict(content), new)


def newest_whole(last: Path, *, advice: str) -> Path | None:
    """Return the last checkpoint, or the previous one if it is missing or damaged; None if there is neither.

    Raise DamagedArtifactError, with advice, if there are checkpoints but none can be read.
    """
    there = [path for path in (last, one_before(last)) if path.exists()]
    for path in there:
        try:
            read_checkpoint(path)
        except UnreadableFileError as error:
            log.warning("%s", error)
        else:
            return path
    if there:
        raise DamagedArtifactError(f"{last} is damaged, and there is no intact one before it; {advice}")
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, without running code. Raise UnreadableFileError if it is truncated or changed.

    torch stores a CRC-32 of each record but does not check it, so it is checked here.
    """
    with open_regular(path) as file, reading(path):
        with zipfile.ZipFile(file) as archive:
            if (record := archive.testzip()) is not None:
                raise ValueError(f"its record {record} was changed")
        file.seek(0)
        return dict(torch.load(file, weights_only=True, map_location="cpu"))
