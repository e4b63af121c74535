"""Untrusted runs and experts run no code, hang nothing, leak no file, and write only below `outputs`."""

import base64
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ilt.tracking.store import sha256, write_with_digest
from tests.faults.running import AGAIN, CARTPOLE, in_parallel, run

pytestmark = pytest.mark.slow

SECRET = "the content of a private file"
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(1)</script>|[x](javascript:alert(1)) `\x1b[2J'
RAN = "ran"
EVIL = f"open({RAN!r}, 'w').close()\ndef __getattr__(name):\n    return print\n"
"""A module in the current folder, which is on the import path: importing it writes a file."""

EVALUATE = ["evaluate", "run=outputs/runs/one", "seeds=selection:0:5", "logger=none", "processes=1"]
COMPARE = [
    "compare",
    *CARTPOLE[:2],
    "+policies.student=outputs/runs/one",
    "seeds=selection:0:5",
    "logger=none",
    "processes=1",
]
PROBE = ["probe", "run=outputs/runs/one", "logger=none", "n_episodes=8", "processes=1"]
REPORT, LIST = ["report", "runs=outputs/runs"], ["list"]
NEW = [*AGAIN, "seed=5", "run_name=new"]


class Runs:
    """An object whose pickle writes a file when it is loaded."""

    def __reduce__(self) -> Any:
        return exec, (EVIL,)


Attack = Callable[[Path], Any]


def in_config(key: str, value: Any) -> Attack:
    """Set a value in a run's config, and update the digest in the results."""

    def attack(run: Path) -> None:
        config = yaml.safe_load((run / "config.yaml").read_text())
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        in_file("config.yaml", yaml.safe_dump(config))(run)

    return attack


def in_file(name: str, content: str | bytes) -> Attack:
    """Replace a file's content, and update the digests of it."""

    def attack(run: Path) -> None:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).unlink(missing_ok=True)
        (run / name).write_bytes(content.encode() if isinstance(content, str) else content)
        results = json.loads((run / "results.json").read_text())
        if name in results["files"]:
            results["files"][name] = sha256(run / name)
            write_with_digest(run / "results.json", results)

    return attack


def in_results(**values: Any) -> Attack:
    def attack(run: Path) -> None:
        results = json.loads((run / "results.json").read_text())
        write_with_digest(run / "results.json", {**results, **values})

    return attack


def in_artifact(pattern: str, name: str, content: bytes | Callable[[], bytes]) -> Attack:
    """Replace a file of an artifact, and update the manifest."""

    def attack(run: Path) -> None:
        (folder,) = (run.parents[1]).glob(pattern)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content())
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = sha256(folder / name)
        write_with_digest(folder / "manifest.json", manifest)

    return attack


def in_manifest(pattern: str, **values: Any) -> Attack:
    def attack(run: Path) -> None:
        (path,) = (run.parents[1]).glob(f"{pattern}/manifest.json")
        write_with_digest(path, {**json.loads(path.read_text()), **values})

    return attack


def link(name: str, target: str = "private/secret.txt") -> Attack:
    """Add a link that leads out of the run's folder."""

    def attack(run: Path) -> None:
        path = run / name
        path.parent.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(run.parents[2] / target)

    return attack


def instead_of(name: str, make: Callable[[Path], Any]) -> Attack:
    """Replace a file with something else."""

    def attack(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        make(run / name)

    return attack


def both(*attacks: Attack) -> Attack:
    return lambda run: [attack(run) for attack in attacks]


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _torch_pickle() -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": Runs()}, file)
    return file.getvalue()


def _zip(size: int, name: str = "observations.npy") -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as entry,
    ):
        for _ in range(size >> 24):
            entry.write(bytes(1 << 24))
    return file.getvalue()


def _unfinished(run: Path) -> None:
    for name in ("results.json", "training.json"):
        (run / name).unlink()
    shutil.rmtree(run / "weights")


TAG = f"!!python/object/apply:os.system ['touch {RAN}']"
PICKLE = pickle.dumps(Runs())
OBJECTS = _npz(observations=np.array([Runs()], dtype=object))
HUGE_HEADER = b"\xff\xff\xff\xff\xff\xff\x00\x00{" + bytes(100)
HUGE_SHAPE = b'{"weight":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}'
HUGE_TENSOR = len(HUGE_SHAPE).to_bytes(8, "little") + HUGE_SHAPE + bytes(4)
PLACES = [
    "model", "head", "expert", "imitation", "optimizer", "dataset", "demos", "trainer", "callbacks.rollout",
    "callbacks.best", "env", "env.wrappers.own", "env.kwargs.own", "logger", "model.own",
]  # fmt: skip

ATTACKS: dict[str, tuple[Attack, list[list[str]]]] = {
    **{
        f"code as {place}._target_": (in_config(f"{place}._target_", "evil.Thing"), [EVALUATE, COMPARE, REPORT])
        for place in PLACES
    },
    "os.system as model": (
        in_config("model", {"_target_": "os.system", "command": f"touch {RAN}"}),
        [EVALUATE, REPORT],
    ),
    "code of ours as model": (in_config("model", {"_target_": "ilt.cli.main.main"}), [EVALUATE]),
    "hydra's instantiate": (in_config("model._target_", "hydra.utils.get_method"), [EVALUATE]),
    "an environment's module": (in_config("env.id", "evil:Task-v0"), [EVALUATE, COMPARE, REPORT]),
    "an entry point": (in_config("env.kwargs.entry_point", "evil:Task"), [EVALUATE]),
    "a heuristic": (in_config("env.heuristic", "evil.heuristic"), [EVALUATE, REPORT]),
    "an interpolation": (in_config("env.id", "${oc.env:HOME}"), [EVALUATE, REPORT]),
    "a resolver": (in_config("env.id", "${oc.decode:${oc.env:SECRET}}"), [EVALUATE, REPORT, LIST]),
    "a YAML tag": (in_file("config.yaml", f"env: {TAG}"), [EVALUATE, REPORT]),
    "an alias bomb": (
        in_file("config.yaml", "a: &0 [x, x]\n" + "".join(f"b{n}: &{n + 1} [*{n}, *{n}]\n" for n in range(40))),
        [EVALUATE, REPORT, LIST],
    ),
    "deep YAML": (in_file("config.yaml", "[" * 100_000), [EVALUATE, REPORT, LIST]),
    "deep JSON": (instead_of("results.json", lambda path: path.write_text("[" * 100_000)), [EVALUATE, REPORT, LIST]),
    "a huge number": (in_results(return_mean=10**400), [REPORT, LIST]),
    "NaN": (in_results(return_mean=float("nan")), [REPORT, LIST]),
    "text instead of numbers": (in_results(return_mean=HOSTILE, seconds=HOSTILE), [REPORT, LIST]),
    "a path as checkpoint": (in_results(reported_checkpoint="../../../../private/secret"), [EVALUATE, REPORT]),
    "weights that are a pickle": (in_file("weights/last.safetensors", PICKLE), [EVALUATE, COMPARE, REPORT]),
    "weights that are torch's": (in_file("weights/last.safetensors", _torch_pickle()), [EVALUATE, COMPARE]),
    "weights with a huge header": (in_file("weights/last.safetensors", HUGE_HEADER), [EVALUATE, COMPARE]),
    "weights with a huge tensor": (in_file("weights/last.safetensors", HUGE_TENSOR), [EVALUATE, COMPARE]),
    "a checkpoint that is a pickle": (
        both(_unfinished, instead_of("checkpoints/last.ckpt", lambda path: path.write_bytes(_torch_pickle()))),
        [AGAIN],
    ),
    "checkpoints that are pickles": (
        both(
            _unfinished,
            lambda run: [path.write_bytes(PICKLE) for path in (run / "checkpoints").iterdir()],
        ),
        [AGAIN],
    ),
    "Hydra's files": (in_file(".hydra/config.yaml", f"a: {TAG}"), [AGAIN, LIST, REPORT]),
    "overrides": (in_file(".hydra/overrides.yaml", f"- {TAG}"), [LIST, REPORT]),
    "demonstrations that are pickles": (in_artifact("demos/a2c-*", "demonstrations.npz", OBJECTS), [NEW]),
    "demonstrations that unpack to gigabytes": (
        in_artifact("demos/a2c-*", "demonstrations.npz", lambda: _zip(2**32)),  # takes seconds to make
        [NEW],
    ),
    "an expert that is a pickle": (in_artifact("experts/a2c-*", "actor.safetensors", PICKLE), [NEW]),
    "an expert of code": (
        in_manifest("experts/a2c-*", config={"_target_": "evil.Thing"}, about={"_target_": "evil.Thing"}),
        [NEW, LIST],
    ),
    "files outside of an artifact": (
        in_manifest("experts/a2c-*", files={"../../../private/secret.txt": "0" * 64}),
        [NEW, LIST],
    ),
    "rollouts that are pickles": (in_artifact("rollouts/a2c-*", "episodes.npz", OBJECTS), [NEW, REPORT]),
    "hostile names in an artifact": (
        in_manifest("demos/a2c-*", parents=[HOSTILE], name=HOSTILE, env=HOSTILE),
        [LIST, REPORT],
    ),
    "hostile values": (both(in_config("expert.name", HOSTILE), in_results(expert=HOSTILE)), [REPORT, LIST, EVALUATE]),
    "a hostile environment": (in_config("env.id", HOSTILE), [REPORT, LIST, EVALUATE]),
    "a hostile folder": (lambda run: run.rename(run.with_name(HOSTILE.replace("/", "_"))), [REPORT, LIST]),
    "a hostile error": (
        both(
            instead_of("results.json", lambda path: None),
            instead_of("error.txt", lambda path: path.write_text(HOSTILE)),
        ),
        [REPORT, LIST],
    ),
    **{
        f"{name} is a link": (link(name), [REPORT, LIST, EVALUATE])
        for name in (
            "config.yaml",
            "results.json",
            "curve.csv",
            "episodes.csv",
            "episode.mp4",
            "learning_curve.png",
            "weights/last.safetensors",
            "probe/probe.png",
            "probe/attention.png",
            "error.txt",
            ".hydra/overrides.yaml",
        )
    },
    "a link to a folder": (link("probe", "private"), [REPORT]),
    "weights in another folder": (link("weights", "private"), [EVALUATE, REPORT]),
    "evaluations elsewhere": (link("evaluations", "private"), [EVALUATE]),
    "the page is a link": (link("../report.html"), [REPORT]),
    "the table is a link": (link("../report.md"), [REPORT]),
    "videos are a link": (link("../report_videos", "private"), [REPORT]),
    "results never end": (instead_of("results.json", os.mkfifo), [REPORT, LIST, EVALUATE]),
    "a device as curve": (instead_of("curve.csv", lambda path: path.symlink_to("/dev/zero")), [REPORT]),
    "a field without end": (in_file("episodes.csv", "seed,student_return\n" + "1" * 200_000), [REPORT]),
    "a W&B run of rubbish": (
        in_file("wandb/offline-run-20260101_000000-a/run-a.wandb", b"\x00" * 1000),
        [LIST, REPORT],
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert (answer := run(folder, *AGAIN)).code == 0, answer.said
    (folder / "private").mkdir()
    (folder / "private" / "secret.txt").write_text(SECRET)
    (folder / "evil.py").write_text(EVIL)
    return folder


def outside(folder: Path) -> dict[Path, bytes]:
    """Return the files in a folder outside `outputs`."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "outputs" not in path.parts]
    return {path.relative_to(folder): path.read_bytes() for path in paths if path.name != ".said"}


def test_foreign_runs_and_experts_do_no_harm(
    finished: Path, tmp_path: Path, survived: Callable[[str, int], None]
) -> None:
    leaks = [SECRET.encode(), base64.b64encode(SECRET.encode())[:30], b"\x1b[2J"]
    markup = [b"<script>alert", b"<img src=x"]

    def fault(name: str) -> str:
        folder = shutil.copytree(finished, tmp_path / str([*ATTACKS].index(name)))
        before = outside(folder)
        attack, commands = ATTACKS[name]
        attack(folder / "outputs" / "runs" / "one")
        there = {path for path in (folder / "outputs").rglob("*") if path.is_file()}
        for arguments in commands:
            answer = run(folder, *arguments, SECRET=SECRET)
            written = [path for path in (folder / "outputs").rglob("*") if path.is_file() and path not in there]
            pages = [*written, folder / ".said", *(folder / "outputs" / "runs").glob("report.*")]
            held = {path: [*leaks, *(markup if path.name != ".said" else [])] for path in pages}
            leaked = [f"{path}: {each!r}" for path in pages for each in held[path] if each in path.read_bytes()]
            if answer.code not in (0, 1) or "Traceback" in answer.said or leaked or outside(folder) != before:
                return f"{name}: {arguments[0]} ended with {answer.code}, {leaked}, {answer.said[-1500:]}"
        shutil.rmtree(folder)
        return ""

    faults = [fault for fault in in_parallel(fault, ATTACKS) if fault]
    assert not faults, "\n\n".join(faults)
    survived("foreign runs and experts", len(ATTACKS))
