"""Reading untrusted files: bad ones are refused with their name and the reason."""

import os
from pathlib import Path
from typing import Any

import pytest

from ilt.tracking.reading import (
    UnreadableFileError,
    is_regular,
    open_regular,
    read_bytes,
    read_csv,
    read_json,
    read_text,
    read_yaml,
)
from tests.tracking.hostile_files import ANYWHERE, CSV, JSON, YAML, replaced


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    file = tmp_path / "run" / "file"
    file.write_text("")
    return file


@pytest.mark.parametrize(
    ("read", "text", "content"),
    [
        (read_text, "é", "é"),
        (read_bytes, "é", "é".encode()),
        (read_json, '{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
        (read_yaml, "a: [1, 2.5, null, true, x, .inf]", {"a": [1, 2.5, None, True, "x", float("inf")]}),
        (read_yaml, "", None),
        (read_csv, "a,b\n1,\n2\n", [{"a": "1", "b": ""}, {"a": "2"}]),
        (read_csv, 'a,b\n"1\n2",3\n', [{"a": "1\n2", "b": "3"}]),
    ],
)
def test_valid_files_are_read(read: Any, text: str, content: Any, path: Path) -> None:
    path.write_text(text)
    assert read(path) == content


@pytest.mark.parametrize("how", sorted({*ANYWHERE} - {"empty", "not UTF-8"}))
def test_only_regular_files_are_opened(how: str, path: Path) -> None:
    assert is_regular(path)
    replaced(path, how)
    assert not is_regular(path)
    with pytest.raises(UnreadableFileError, match=rf"^{path} cannot be used: [^\n]+$"):
        open_regular(path)


@pytest.mark.parametrize(
    ("read", "how"),
    [(read, how) for read, table in ((read_json, JSON), (read_yaml, YAML), (read_csv, CSV)) for how in table],
)
def test_damaged_and_hostile_files_are_refused(read: Any, how: str, path: Path) -> None:
    replaced(path, how)
    if (read, how) in {(read_yaml, "empty"), (read_csv, "empty"), (read_json, "a list")}:
        return  # the caller checks their content
    with pytest.raises(UnreadableFileError, match=rf"^{path} cannot be used: [^\n]+$"):
        read(path)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "1" + "0" * 5000, "NaN", "Infinity", "-Infinity", "1e999"])
def test_non_finite_and_oversized_numbers_are_refused(number: str, path: Path) -> None:
    path.write_text(f'{{"a": [{number}]}}')
    with pytest.raises(UnreadableFileError, match="cannot be used: "):
        read_json(path)


def test_a_config_may_contain_infinities(path: Path) -> None:
    path.write_text('{"a": Infinity}')
    assert read_json(path, finite=False) == {"a": float("inf")}


def test_a_large_file_is_refused_before_it_is_read(path: Path) -> None:
    os.truncate(path, 2**40)
    with pytest.raises(UnreadableFileError, match="it is larger than 32 MB"):
        read_json(path)


def test_links_out_of_the_folder_are_not_followed(path: Path, tmp_path: Path) -> None:
    run = path.parent
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret").write_text("secret")
    (run / "probe").symlink_to(tmp_path / "private")
    with pytest.raises(UnreadableFileError, match="it leads out of"):
        read_text(run / "probe" / "secret", within=run)
    with pytest.raises(UnreadableFileError, match="it leads out of"):
        read_text(run / ".." / "private" / "secret", within=run)
    (tmp_path / "outputs").symlink_to(tmp_path)  # the user's own folder may be a link
    assert read_text(tmp_path / "outputs" / "run" / "file", within=tmp_path / "outputs" / "run") == ""
