"""Safe reading of files that may be untrusted: only regular files, with limits on size and nesting."""

import csv
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import yaml

from ilt.schema import PlainError

if TYPE_CHECKING:
    import numpy as np

MEGABYTE = 2**20
_LARGEST = 32 * MEGABYTE
_DEEPEST = 50
_LONGEST = 10_000  # characters of a YAML scalar, because some kinds of numbers take quadratic time to parse
_MOST_ROWS = 1_000_000
_MOST_COMPRESSION = 100

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C implementation is ten times as fast


class UnreadableFileError(PlainError, ValueError):
    """A file cannot be read or used. The message names the file and the reason."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn any error while a file is read and checked into an UnreadableFileError, except a PlainError."""
    try:
        yield
    except PlainError:
        raise
    except Exception as error:  # a foreign file may fail in any way
        raise UnreadableFileError(f"{path} cannot be used: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:300] or type(error).__name__


def open_regular(path: Path, within: Path | None = None) -> io.BufferedReader:
    """Open a file to read bytes. Raise UnreadableFileError if it does not exist, or is a link, a FIFO or a device.

    Args:
        within: a folder that the path must not lead out of, even through linked folders; None to skip this check.
    """
    with reading(path):
        if path.is_symlink():
            raise ValueError("it is a link")
        if within is not None and not path.parent.resolve().is_relative_to(within.resolve()):
            raise ValueError(f"it leads out of {within}")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a FIFO would wait for a writer
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValueError("it is not a regular file")
        return os.fdopen(descriptor, "rb")


def is_regular(path: Path, within: Path | None = None) -> bool:
    """Return whether `open_regular` can open a file."""
    try:
        open_regular(path, within).close()
    except UnreadableFileError:
        return False
    return True


def read_bytes(path: Path, within: Path | None = None, *, most: int = _LARGEST) -> bytes:
    """Read a regular file of at most `most` bytes. See `open_regular`."""
    with open_regular(path, within) as file, reading(path):
        content = file.read(most + 1)
        if len(content) > most:
            raise ValueError(f"it is larger than {most / MEGABYTE:g} MB")
        return content


def read_text(path: Path, within: Path | None = None, *, most: int = _LARGEST) -> str:
    """Read a regular file in UTF-8. See `read_bytes`."""
    content = read_bytes(path, within, most=most)
    with reading(path):
        return content.decode("utf-8")


def read_json(path: Path, within: Path | None = None, *, finite: bool = True) -> Any:
    """Read JSON of limited size and nesting. Raise UnreadableFileError, with the reason, if it is invalid.

    Args:
        finite: whether to reject NaN and infinities, which configs may contain.
    """
    text = read_text(path, within)
    with reading(path):
        content = json.loads(text)
        _check(content, finite=finite)
        return content


def read_yaml(path: Path, within: Path | None = None) -> Any:
    """Read YAML of limited size and nesting, without running code. Aliases, which can blow up, are rejected.

    Raise UnreadableFileError, with the reason, if it is invalid.
    """
    text = read_text(path, within, most=MEGABYTE)
    with reading(path):
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ValueError("it is nested too deeply")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it contains an alias")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > _LONGEST:
                raise ValueError(f"it contains a value of over {_LONGEST} characters")
        content = _Loader(text).get_single_data()
        _check(content, finite=False)
        return content


def read_csv(path: Path, within: Path | None = None) -> list[dict[str, str]]:
    """Read the rows of a CSV file as text, by column. Missing cells at the end of a row are left out.

    Raise UnreadableFileError if there are too many rows, or if a row has more cells than the header.
    """
    text = read_text(path, within)
    with reading(path):
        rows = list(islice(csv.DictReader(io.StringIO(text, newline="")), _MOST_ROWS + 1))
        if len(rows) > _MOST_ROWS:
            raise ValueError(f"it has more than {_MOST_ROWS} rows")
        if any(None in row for row in rows):  # the key of cells without a column
            raise ValueError("a row has more cells than there are columns")
        return [{name: cell for name, cell in row.items() if cell is not None} for row in rows]


def check_resolved(value: Any) -> None:
    """Raise ValueError if a config contains an interpolation, such as one that reads an environment variable.

    `ilt` writes only resolved configs, so its own have none.
    """
    if isinstance(value, Mapping | list):
        for each in [*value, *value.values()] if isinstance(value, Mapping) else value:
            check_resolved(each)
    elif isinstance(value, str) and "${" in value:
        raise ValueError(f"it contains the interpolation {value!r}")


def check_zip(file: BinaryIO) -> None:
    """Raise ValueError if a zip file would unpack to more than a hundred times its size, plus one megabyte."""
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > _MOST_COMPRESSION * size + MEGABYTE:
        raise ValueError(f"it would unpack to {unpacked / MEGABYTE:,.0f} MB")
    file.seek(0)


def read_npz(path: Path) -> "dict[str, np.ndarray]":
    """Read the arrays of an .npz file, without pickles. Raise any error if it is damaged, foreign or a zip bomb."""
    import numpy as np  # not earlier: commands answer a wrong key before they import it

    with path.open("rb") as opened:
        check_zip(opened)
        with zipfile.ZipFile(opened) as archive:
            _check_sizes(archive)
        opened.seek(0)
        with np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


def _check_sizes(archive: zipfile.ZipFile) -> None:
    """Raise ValueError if a header declares a larger array than its data, since NumPy would allocate that much."""
    import numpy as np

    for info in archive.infolist():
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if not dtype.hasobject and math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
                raise ValueError(f"{info.filename} has data that do not match its header")


def _check(value: Any, *, finite: bool, depth: int = 0) -> None:
    """Raise ValueError unless a value consists of plain values of limited nesting and size."""
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict | list):
        for each in [*value, *value.values()] if isinstance(value, dict) else value:
            _check(each, finite=finite, depth=depth + 1)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"it contains a value of type {type(value).__name__}")
    elif isinstance(value, int) and abs(value) >= 2**64:
        raise ValueError("it contains an integer of more than 64 bits")
    elif isinstance(value, float) and finite and not math.isfinite(value):
        raise ValueError(f"it contains {value}, but numbers must be finite")
