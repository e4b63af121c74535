"""Checkpoints: the previous one survives a kill or a full disk, and damage is detected."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from ilt.tracking.checkpoints import newest_whole, read_checkpoint, save_checkpoint
from ilt.tracking.reading import UnreadableFileError
from ilt.tracking.run_folder import one_before
from ilt.tracking.store import DamagedArtifactError, replacing

CONTENT = {"weights": torch.arange(300.0).view(30, 10), "step": 7, "history": [{"return": 1.5}]}
ADVICE = "begin again"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path where checkpoints of steps 6 and 7 were saved."""
    for step in (6, 7):
        save_checkpoint({**CONTENT, "step": step}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def step_of(path: Path | None) -> int:
    assert path is not None
    return torch.load(path, weights_only=True)["step"]


def test_the_previous_checkpoint_is_kept(path: Path) -> None:
    assert (step_of(path), step_of(one_before(path))) == (7, 6)
    assert sorted(each.name for each in path.parent.iterdir()) == ["last.ckpt", "last.ckpt.before"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_keeps_the_old_checkpoints(
    path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(content: Any, target: Path) -> None:
        target.write_bytes(b"PK half of it")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(type(error)):
        save_checkpoint(CONTENT, path)
    assert sorted(each.name for each in path.parent.iterdir()) == ["last.ckpt", "last.ckpt.before"]
    assert step_of(newest_whole(path, advice=ADVICE)) == 7


@pytest.mark.parametrize("killed_at", [1, 2])
def test_a_kill_between_the_renames_loses_nothing(path: Path, killed_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, calls = os.replace, [0]

    def killed(source: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == killed_at:
            raise SystemExit
        rename(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(SystemExit):
        save_checkpoint({**CONTENT, "step": 8}, path)
    assert step_of(newest_whole(path, advice=ADVICE)) == 7


@pytest.mark.parametrize("damage", ["cut short", "empty", "foreign", "a folder", "a broken link"])
def test_damage_is_detected_and_the_previous_checkpoint_is_used(path: Path, damage: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "a broken link":
        path.symlink_to("nowhere")
    else:
        path.write_bytes({"cut short": content[:-40], "empty": b"", "foreign": b"something else"}[damage])
    assert step_of(newest_whole(path, advice=ADVICE)) == 6
    one_before(path).unlink()
    if path.exists():
        with pytest.raises(DamagedArtifactError, match=f"last.ckpt is damaged, and .* before it; {ADVICE}"):
            newest_whole(path, advice=ADVICE)


def test_a_flipped_bit_is_detected_or_changes_nothing(path: Path) -> None:
    content, rng, noticed = path.read_bytes(), random.Random(0), 0
    for _ in range(200):
        changed, place = bytearray(content), rng.randrange(len(content))
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            found = read_checkpoint(path)
        except UnreadableFileError:
            noticed += 1
        else:
            assert torch.equal(found["weights"], CONTENT["weights"])  # type: ignore[arg-type]
            assert (found["step"], found["history"]) == (7, CONTENT["history"])
    assert noticed > 100


def test_without_checkpoints_none_is_returned(tmp_path: Path) -> None:
    assert newest_whole(tmp_path / "last.ckpt", advice=ADVICE) is None


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("kept")
    (tmp_path / "report.md").symlink_to(tmp_path / "secret")
    with replacing(tmp_path / "report.md") as new:
        new.write_text("report")
    assert (tmp_path / "secret").read_text() == "kept"
    assert not (tmp_path / "report.md").is_symlink()
