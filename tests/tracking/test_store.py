"""Artifacts are found, or made once and published completely."""

import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from ilt.schema import PlainError
from ilt.tracking import store
from ilt.tracking.store import Artifact, DamagedArtifactError, Store, open_artifact, paths_below, read_json, write_json
from tests.tracking.hostile_files import replaced

CONFIG = {"env": {"id": "Toy"}, "steps": 3}
CANONICAL_HASH = hashlib.sha256(b'{"env":{"id":"Toy"},"steps":3}').hexdigest()[:10]
Maker = Callable[[Path], Mapping[str, Any]]


def hello(folder: Path) -> Mapping[str, Any]:
    (folder / "data.txt").write_text("hello")
    return {"length": 5}


def never(folder: Path) -> Mapping[str, Any]:
    raise AssertionError(f"{folder} was made again")


def killed(source: Path, target: Path) -> None:
    raise KeyboardInterrupt


def made(root: Path, make: Maker = hello) -> Artifact:
    return Store(root).find_or_make("things", "toy", CONFIG, make)


def published(root: Path) -> list[str]:
    return [path.name for path in (root / "things").iterdir() if not path.name.startswith(".")]


def test_an_artifact_is_made_once_and_found_for_any_key_order(tmp_path: Path) -> None:
    assert Store(tmp_path).find("things", "toy", CONFIG) is None
    artifact = made(tmp_path)
    assert artifact.file("data.txt").read_text() == "hello"
    assert artifact.path == tmp_path / "things" / f"toy-{CANONICAL_HASH}"
    assert Store(tmp_path).find("things", "toy", CONFIG) == artifact
    assert Store(tmp_path).find_or_make("things", "toy", {"steps": 3, "env": {"id": "Toy"}}, never) == artifact


def test_the_manifest_records_provenance(tmp_path: Path) -> None:
    source = made(tmp_path)
    artifact = Store(tmp_path).find_or_make("things", "next", {"of": source.name}, hello, parents=[source])
    manifest = read_json(artifact.path / "manifest.json")
    assert manifest == artifact.manifest
    assert manifest.items() >= {"name": artifact.name, "config": {"of": source.name}, "parents": [source.name]}.items()
    assert manifest["metrics"] == artifact.metrics == {"length": 5}
    assert manifest["files"] == {"data.txt": hashlib.sha256(b"hello").hexdigest()}
    assert manifest["seconds"] >= 0
    assert {"git_commit", "python", "machine", "made_at"} <= manifest.keys()
    assert {"torch", "numpy", "gymnasium"} <= manifest["packages"].keys()


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (["/opt/venv/bin/ilt", "expert", "expert=a2c", "seed=1"], "ilt expert expert=a2c seed=1"),
        (["/home/me/ilt/__main__.py", "train"], "ilt train"),
        (["ilt expert", "-m", "expert.seed=0,1"], "ilt expert -m expert.seed=0,1"),
        (
            ["/bin/ilt", "collect", "outputs=/tmp/out", "logger=none", "+logger.project=mine", "hydra/launcher=joblib",
             "hydra.job.chdir=true", "processes=2", "n_envs=4", "expert.n_envs=8", "env.id=my lab:A-v0"],
            "ilt collect expert.n_envs=8 'env.id=my lab:A-v0'",
        ),
        (["/usr/bin/pytest", "tests"], None),
        (["/home/me/ilt/train.py", "expert=a2c"], None),
        ([""], None),
        (["-c"], None),
    ],
)  # fmt: skip
def test_the_manifest_has_the_command_without_places(
    line: list[str], command: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", line)
    assert made(tmp_path).manifest["command"] == command


def test_a_failed_maker_publishes_nothing_and_the_next_try_resumes(tmp_path: Path) -> None:
    def try_until_third(folder: Path) -> Mapping[str, Any]:
        assert published(tmp_path) == []  # not visible while it is being made
        (folder / "training").mkdir(exist_ok=True)
        tries = [*(folder / "training").iterdir()]
        (folder / "training" / f"try{len(tries)}").write_text("")
        (folder / f"made{len(tries)}").write_text("")
        if len(tries) < 2:
            raise RuntimeError("killed")
        return {"tries": len(tries) + 1}

    for _ in range(2):
        with pytest.raises(RuntimeError, match="killed"):
            made(tmp_path, try_until_third)
        assert Store(tmp_path).find("things", "toy", CONFIG) is None
    artifact = made(tmp_path, try_until_third)
    assert artifact.metrics == {"tries": 3}
    assert list(artifact.manifest["files"]) == ["made2"]
    assert sorted(path.name for path in artifact.path.iterdir()) == ["made2", "manifest.json"]


def test_a_kill_while_the_manifest_is_written_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path)
    assert published(tmp_path) == []
    made(tmp_path)
    assert made(tmp_path, never).manifest["files"].keys() == {"data.txt"}


def test_a_changed_or_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    artifact = made(tmp_path)
    artifact.file("data.txt").write_text("jello")
    with pytest.raises(DamagedArtifactError, match=r"data\.txt is not the file that its manifest describes; remove"):
        made(tmp_path, never)
    artifact.file("data.txt").unlink()
    with pytest.raises(DamagedArtifactError, match=r"data\.txt is missing; remove the folder"):
        Store(tmp_path).find("things", "toy", CONFIG)


@pytest.mark.parametrize("manifest", [None, "", "{", "{}", '{"files": {', "[]", "null", '{"files": null}'])
def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path: Path, manifest: str | None) -> None:
    artifact = made(tmp_path)
    artifact.file("manifest.json").unlink()
    if manifest is not None:
        artifact.file("manifest.json").write_text(manifest)
    for read in (lambda: Store(tmp_path).find("things", "toy", CONFIG), lambda: open_artifact(artifact.path)):
        with pytest.raises(DamagedArtifactError, match=r"manifest\.json is damaged"):
            read()
    shutil.rmtree(artifact.path)
    assert open_artifact(made(tmp_path).path).metrics == {"length": 5}


def test_any_change_to_a_manifest_is_an_error(tmp_path: Path) -> None:
    def measured(folder: Path) -> Mapping[str, Any]:
        return {**hello(folder), "return_mean": 280.5, "by_number": {10: 1, 9: 2}}

    artifact = Store(tmp_path).find_or_make("things", "toy", CONFIG, measured)
    manifest = read_json(artifact.path / "manifest.json")
    assert open_artifact(artifact.path).manifest == manifest
    changes: list[dict[str, Any]] = [{"files": {}}, {"metrics": {"return_mean": 980.5}}, {"seconds": 0}, {"more": None}]
    for change in changes:
        write_json(artifact.path / "manifest.json", {**manifest, **change})
        with pytest.raises(DamagedArtifactError, match=r"manifest\.json is damaged .*it was changed.*; remove"):
            open_artifact(artifact.path)
    write_json(artifact.path / "manifest.json", {k: v for k, v in manifest.items() if k != "digest"})
    assert open_artifact(artifact.path).manifest == manifest  # written by an older version


@pytest.mark.parametrize("name", ["data.txt", "manifest.json"])
@pytest.mark.parametrize("how", ["a link", "a FIFO", "a device", "a folder", "empty"])
def test_a_hostile_file_is_an_error_that_names_it(name: str, how: str, tmp_path: Path) -> None:
    artifact = made(tmp_path)
    replaced(artifact.file(name), how)
    with pytest.raises(ValueError, match=rf"^{artifact.file(name)} [^\n]+$"):
        open_artifact(artifact.path)


def test_a_manifest_cannot_name_a_file_outside_its_folder(tmp_path: Path) -> None:
    artifact = made(tmp_path)
    (tmp_path / "things" / "secret").write_text("secret")
    for name in ("../secret", str(tmp_path / "things" / "secret")):
        files = {**artifact.manifest, "files": {name: store.sha256(tmp_path / "things" / "secret")}}
        del files["digest"]
        write_json(artifact.path / "manifest.json", {**files, "digest": store.digest(files)})
        with pytest.raises(ValueError, match="it leads out of"):
            open_artifact(artifact.path)


def test_only_files_the_maker_wrote_are_published(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "mine").write_text("mine")
    partial = tmp_path / "things" / f".toy-{CANONICAL_HASH}.partial"
    (partial / "junk" / "deep").mkdir(parents=True)
    (partial / "junk.txt").write_text("junk")
    (partial / "data.txt").symlink_to(private / "mine")
    (partial / "training").symlink_to(private)
    artifact = made(tmp_path)
    assert sorted(path.name for path in artifact.path.iterdir()) == ["data.txt", "manifest.json"]
    assert list(artifact.manifest["files"]) == ["data.txt"]
    shutil.rmtree(artifact.path)
    partial.symlink_to(private)
    assert not made(tmp_path).path.is_symlink()
    assert (private / "mine").read_text() == "mine"


def test_results_are_written_elsewhere_if_a_folder_is_a_link(tmp_path: Path) -> None:
    assert store.place_for(tmp_path / "new", tmp_path / "other") == tmp_path / "new"
    (tmp_path / "link").symlink_to(tmp_path / "new")
    assert store.place_for(tmp_path / "link", tmp_path / "deep" / "other") == tmp_path / "deep" / "other"
    assert (tmp_path / "deep" / "other").is_dir()
    with pytest.raises(PlainError, match=r"neither .*link \(it is a link\) nor /proc/other \(No such file "):
        store.place_for(tmp_path / "link", Path("/proc/other"))


def test_artifacts_shipped_with_the_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = made(tmp_path)
    shipped = made(tmp_path / "package")
    monkeypatch.setitem(store.SHIPPED, "things", tmp_path / "package" / "things")
    assert made(tmp_path, never).path == own.path  # it takes precedence
    shutil.rmtree(own.path)
    assert made(tmp_path, never).path == shipped.path
    assert Store(tmp_path).find("others", "toy", CONFIG) is None


def race(root: Path, barrier: Barrier) -> None:
    def make(folder: Path) -> Mapping[str, Any]:
        with (root / "made.txt").open("a") as file:
            file.write("made\n")
        time.sleep(0.5)
        return hello(folder)

    barrier.wait()
    assert made(root, make).file("data.txt").read_text() == "hello"


def test_two_processes_asking_at_once_make_an_artifact_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=race, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "made.txt").read_text() == "made\n"


def test_json_files_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"a": [1, 2.5, None, "é"], "b": {"c": True}}
    write_json(tmp_path / "a.json", content)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"new": object()})
    monkeypatch.setattr(store.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "a.json", {"new": 2})
    assert read_json(tmp_path / "a.json") == content


def test_files_are_found_while_folders_disappear(tmp_path: Path) -> None:
    for name in ("a.json", "b.json", "here/deep/a.json", "gone/deep/a.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = paths_below(tmp_path, "a.*")
    assert next(found) == tmp_path / "a.json"
    shutil.rmtree(tmp_path / "gone")
    assert list(found) == [tmp_path / "here" / "deep" / "a.json"]


def test_writing_to_the_path_of_a_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(PlainError, match=f"{tmp_path} is a folder"):
        store.write_text(tmp_path, "text")
