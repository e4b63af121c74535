"""Ways in which a file of a foreign run can be damaged or hostile."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SECRET = "a secret of another folder"


def replaced(path: Path, how: str) -> None:
    """Replace a file with a damaged or hostile one."""
    path.unlink()
    REPLACEMENTS[how](path)


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def _link(path: Path) -> None:
    secret = path.parents[1] / "secret.txt"
    secret.write_text(SECRET)
    path.symlink_to(secret)


ANYWHERE: dict[str, Callable[[Path], object]] = {
    "a link": _link,
    "a FIFO": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a broken link": lambda path: path.symlink_to("nowhere"),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "empty": _text(""),
}
JSON = {
    **ANYWHERE,
    "deep JSON": _text("[" * 100_000),
    "JSON nested 100 times": _text('{"return_mean": ' + "[" * 100 + "]" * 100 + "}"),
    "a list": _text("[]"),
    "cut short": _text('{"return_mean": 1.0'),
}
YAML = {
    **ANYWHERE,
    "deep YAML": _text("[" * 100_000),
    "YAML nested 100 times": _text("[" * 100 + "]" * 100),
    "an alias bomb": _text("0: &0 [x, x]\n" + "".join(f"{n + 1}: &{n + 1} [*{n}, *{n}]\n" for n in range(40))),
    "a number of a million digits": _text("a: " + ":".join(["1"] * 500_000)),
    "code": _text("a: !!python/object/apply:os.abort []"),
    "a date": _text("env: {id: 2020-01-01}"),
}
CSV = {
    **ANYWHERE,
    "a field of 131,073 characters": _text("seed,step\n" + "1" * 131_073 + ",1\n"),
    "a row that is too long": _text("seed,step\n1,2,3\n"),
}
REPLACEMENTS = {**JSON, **YAML, **CSV}


def read_only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make a folder and everything below it look like a read-only disk."""
    write = tempfile.TemporaryFile

    def refused(*arguments: Any, dir: Path, **options: Any) -> Any:
        if dir.is_relative_to(folder):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return write(*arguments, dir=dir, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
