"""Artifacts: folders that are found by their config's hash, or made under a lock and published atomically."""

import fnmatch
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ilt.schema import ConfigError, PlainError, config_hash
from ilt.tracking.reading import UnreadableFileError, check_resolved, is_regular, open_regular, reading
from ilt.tracking.reading import read_json as read_json

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SHIPPED = {"experts": Path(__file__).parent.parent / "experts" / "pretrained"}
"""Folders of artifacts that come with the package, by kind; searched after the store's own folder."""

TRAINING = "training"
"""The folder where `make` keeps what it needs to resume; it is not published."""

_ADVICE = "remove the folder to have it made again"
_PACKAGES = ("torch", "pytorch-lightning", "stable-baselines3", "gymnasium", "box2d", "mujoco", "numpy", "hydra-core")
_PLACES = ("outputs", "logger", "hydra", "processes", "n_envs")
"""Keys that say where and how a command runs, not what it makes."""


class DamagedArtifactError(PlainError, ValueError):
    """A file of an artifact is missing or differs from the published one."""


@dataclass(frozen=True)
class Artifact:
    """A published folder.

    Attributes:
        path: the folder.
        manifest: the content of `manifest.json`: `config`, `parents`, `metrics`, `files`, `seconds`, provenance.
    """

    path: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The folder's name, which ends with the hash of the config."""
        return self.path.name

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The metrics that were measured when the artifact was made."""
        return self.manifest["metrics"]

    def file(self, name: str) -> Path:
        """Return the path of a file."""
        return self.path / name


class Store:
    """The artifacts below one folder, `<root>/<kind>/<name>-<hash>/`.

    Args:
        root: usually `outputs/`.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def find(self, kind: str, name: str, config: Mapping[str, Any]) -> Artifact | None:
        """Return the artifact with this config, or None. Raise DamagedArtifactError if it is damaged."""
        folder = f"{name}-{config_hash(config)}"
        for parent in [self.root / kind, *([SHIPPED[kind]] if kind in SHIPPED else [])]:
            if (parent / folder).is_dir():
                return open_artifact(parent / folder)
        return None

    def find_or_make(
        self,
        kind: str,
        name: str,
        config: Mapping[str, Any],
        make: Callable[[Path], Mapping[str, Any]],
        parents: Sequence[Artifact] = (),
        about: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Find the artifact with this config, or make it under a lock.

        Raise DamagedArtifactError if it exists but is damaged.

        Args:
            kind: the parent folder, such as `experts`.
            name: the folder's name without the hash.
            config: everything that determines the content, including input artifacts (by name).
            make: writes files to the given folder, and returns metrics. Only files are published, not folders. If
                `make` fails or is killed, its folder `training` is kept, so that the next attempt with this config can
                resume. Everything else is removed before each attempt.
            parents: the artifacts that `make` reads, for the manifest.
            about: additional entries of the manifest.
        """
        target = self.root / kind / f"{name}-{config_hash(config)}"
        if (found := self.find(kind, name, config)) is not None:
            return found
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{target.name}.lock"):
            if (found := self.find(kind, name, config)) is not None:  # made by another process while we waited
                return found
            partial = target.parent / f".{target.name}.partial"
            _clear(partial)
            started = time.monotonic()
            try:
                measured = make(partial)
            except ConfigError:
                if not (partial / TRAINING).exists():  # nothing to resume from
                    shutil.rmtree(partial)
                raise
            manifest = {
                "name": target.name,
                "config": config,
                **(about or {}),
                "parents": [artifact.name for artifact in parents],
                "metrics": measured,
                "seconds": round(time.monotonic() - started, 2),
                "command": command(),
                **provenance(),
                "files": {path.name: sha256(path) for path in sorted(partial.iterdir()) if is_regular(path)},
            }
            manifest = write_with_digest(partial / MANIFEST, manifest)
            for path in partial.iterdir():
                if path.name not in (MANIFEST, *manifest["files"]):
                    _remove(path)  # only now, because a retry after a kill needs `training`
            os.replace(partial, target)
        return Artifact(target, manifest)


def _clear(partial: Path) -> None:
    """Make the folder for an attempt, or remove everything but `training` from it."""
    if partial.is_symlink():
        partial.unlink()
    partial.mkdir(exist_ok=True)
    for path in partial.iterdir():
        if path.name != TRAINING or path.is_symlink():
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def open_artifact(path: Path) -> Artifact:
    """Read an artifact, and check its manifest and files. Raise DamagedArtifactError, naming the file, on damage."""
    try:
        manifest = read_manifest(path)
        with reading(path / MANIFEST):
            files = dict(manifest["files"])
    except UnreadableFileError as error:
        raise DamagedArtifactError(f"{path / MANIFEST} is damaged ({error}); {_ADVICE}") from error
    check_files(path, files)
    return Artifact(path, manifest)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check the manifest in an artifact's folder. Raise UnreadableFileError if it is damaged."""
    manifest = read_with_digest(path / MANIFEST, finite=False)
    with reading(path / MANIFEST):
        check_resolved(manifest)
    return manifest


def write_with_digest(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write JSON that includes its own digest, and return the content with the digest."""
    whole = {**content, "digest": digest(content)}
    write_json(path, whole)
    return whole


def read_with_digest(path: Path, *, finite: bool = True) -> dict[str, Any]:
    """Read JSON that `write_with_digest` wrote. Raise UnreadableFileError if it was changed; see `read_json`.

    Files of older versions have no digest; the returned content has one.
    """
    content = read_json(path, finite=finite)
    with reading(path):
        if content.get("digest") not in (None, found := digest(content)):
            raise ValueError("it was changed")
        return {**content, "digest": found}


def digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 digest of a mapping's canonical JSON, without its key `digest`, in hexadecimal."""
    as_read = json.loads(json.dumps({**content, "digest": None}))  # JSON keys are text, which changes the order
    del as_read["digest"]
    return hashlib.sha256(json.dumps(as_read, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_files(folder: Path, digests: Mapping[str, str], *, advice: str = _ADVICE) -> None:
    """Compare a folder's files with their SHA-256 digests, by name.

    Raise DamagedArtifactError, naming the file and with advice, if one is missing or was changed.
    """
    for name, digest in digests.items():
        if not os.path.lexists(folder / name):
            raise DamagedArtifactError(f"{folder / name} is missing; {advice}")
        with open_regular(folder / name, within=folder) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise DamagedArtifactError(f"{folder / name} is not the file that its manifest describes; {advice}")


def place_for(folder: Path, instead: Path) -> Path:
    """Make and return a folder to write to: `folder`, or with a warning `instead`, if it is a link or not writable.

    For example, results about a run on a read-only disk go to `instead`. Raise PlainError if neither is writable.
    """
    try:
        if folder.is_symlink():
            raise OSError("it is a link")
        folder.mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        why = error.strerror or error
        try:
            instead.mkdir(parents=True, exist_ok=True)
        except OSError as other:
            raise PlainError(f"neither {folder} ({why}) nor {instead} ({other.strerror}) can be written to") from other
        log.warning("%s cannot be written to (%s); writing to %s", folder, why, instead)
        return instead
    return folder


def provenance() -> dict[str, Any]:
    """Return the provenance of an artifact that is made now: git commit, package versions, machine and time (UTC)."""
    return {
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@contextmanager
def replacing(path: Path, *, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in the same folder to write to; at the end, rename it to `path` atomically.

    Neither a kill nor a full disk leaves half a file. A link at `path` is replaced, not written through. Raise
    PlainError if there is a folder at `path` or `keep`.

    Args:
        keep: where to keep the previous file; None to discard it.
    """
    for place in (path, keep):
        if place is not None and place.is_dir() and not place.is_symlink():
            raise PlainError(f"{place} is a folder, but a file is written there; move it away")
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        yield new
        with new.open("rb") as file:
            os.fsync(file.fileno())
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if keep is not None and path.exists():
        os.replace(path, keep)
    os.replace(new, path)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def command() -> str | None:
    """Return the `ilt` command that this process runs, without the keys that say where; None for other programs."""
    first, *arguments = sys.argv
    if first.startswith("ilt "):  # in a multirun, as in `cli.app`
        arguments = [*first.split()[1:], *arguments]
    elif Path(first).name != "ilt" and Path(first).parts[-2:] != ("ilt", "__main__.py"):
        return None
    kept = [argument for argument in arguments if re.split(r"[.=/]", argument.lstrip("+~"))[0] not in _PLACES]
    return f"ilt {shlex.join(kept)}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of this package's checkout, with `+dirty` for local changes; None outside a checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+dirty" if status.stdout.strip() else "")


def paths_below(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files and folders below a folder whose names match, including links and broken links.

    Other processes may change the folder meanwhile. (`Path.rglob` of Python 3.11 raises FileNotFoundError if a folder
    disappears before it is read.)
    """
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in fnmatch.filter([*folders, *files], pattern))


def file_digests(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of every file that a value of `options` names, by key."""
    paths = {name: Path(value) for name, value in options.items() if isinstance(value, str) and value}
    return {name: sha256(path) for name, path in paths.items() if path.is_file()}


def sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
