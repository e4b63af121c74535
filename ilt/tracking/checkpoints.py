"""Checkpoints of a training, which survive kills and full disks; damage is noticed, and the one before is used."""

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
    """Write tensors and plain containers beside `path`, keep the checkpoint before, and rename."""
    with replacing(path, keep=one_before(path)) as new:
        torch.save(dict(content), new)


def newest_whole(last: Path, *, advice: str) -> Path | None:
    """Return the last checkpoint, or if it is missing or damaged the one before; None if there is none.

    Raise DamagedArtifactError, with advice, if neither can be read.
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
        raise DamagedArtifactError(f"{last} is damaged, and there is no whole one before it; {advice}")
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, without running code. UnreadableFileError if it was cut short or changed.

    torch keeps a CRC-32 of each record, but does not check it.
    """
    with open_regular(path) as file, reading(path):
        with zipfile.ZipFile(file) as archive:
            if (record := archive.testzip()) is not None:
                raise ValueError(f"its record {record} was changed")
        file.seek(0)
        return dict(torch.load(file, weights_only=True, map_location="cpu"))
