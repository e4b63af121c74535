"""Show a run or an artifact, and what to type next: `ilt show run=outputs/runs/NAME`."""

import logging
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ilt.cli.app import app
from ilt.cli.list import FAILED, FINISHED, RUNNING, Entry, find_entry
from ilt.evaluation.tables import print_table, show
from ilt.schema import leaves, printable
from ilt.settings import check_config
from ilt.tracking.reading import read_text, read_yaml, reading
from ilt.tracking.run_folder import COMMAND, ERROR, RESULTS, RunFolder, read_results, shown
from ilt.tracking.store import read_manifest

log = logging.getLogger(__name__)


def about_run(path: Path) -> list[tuple[str, Any]]:
    """Return what a finished run was made from: labels and values for a table."""
    results = read_results(path)
    with reading(path / RESULTS):
        labels = f"{int(results['imitation']['expert_labels']):,} expert labels, {results['imitation']['name']}"
        return [
            ("expert", results["expert"] or "none"),
            ("demonstrations", results["demonstrations"]),
            ("learned from", labels),
            ("model", f"{int(results['n_parameters']):,} parameters, K = {int(results['context_length'])}"),
            ("training seed", results["seed"]),
            *_provenance(results),
        ]


def about_artifact(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield an artifact's environment, inputs, metrics and provenance: labels and values for a table."""
    manifest = read_manifest(path)
    with reading(path):
        env = manifest.get("env") or manifest["config"].get("env") or {}
        yield "environment", env.get("id", "–")
        yield "made from", ", ".join(map(str, manifest["parents"])) or "nothing else"
        measured = {name: value for name, value in leaves(manifest["metrics"]) if value not in (None, [])}
        yield from ((name.replace(".", " ").replace("_", " "), value) for name, value in measured.items())
        yield from _provenance(manifest)
        yield "took", f"{float(manifest['seconds']):.1f} seconds"
        yield "files", ", ".join(map(str, manifest["files"]))


def _provenance(made: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [("made", f"{made['made_at']}, {made['machine']}"), ("commit", made["git_commit"])]


def _print(entry: Entry, rows: Iterable[tuple[str, Any]]) -> None:
    cells = [[name, f"{value:.6g}" if isinstance(value, float) else str(value)] for name, value in rows]
    print_table("", [entry.kind, entry.path.name], cells)


def _next(path: Path) -> str:
    """Return the command that resumes a run, as far as its folder tells."""
    overrides = path / COMMAND / "overrides.yaml"
    if path.absolute().parent.name != "runs" or not os.path.lexists(overrides):
        return "rerun the command that started it"
    with reading(overrides):
        typed = [str(each) for each in read_yaml(overrides, within=path) if not str(each).startswith("resume=")]
    return shlex.join(["ilt", "train", *typed])


def show_unfinished(entry: Entry) -> None:
    """Print the state of a run without results, the error if it failed, and how to resume it."""
    log.info("%s: %s", shown(entry.path), entry.state)
    if entry.state == FAILED:
        log.info("%s", printable(next(iter(read_text(entry.path / ERROR, within=entry.path).splitlines()), "")))
        log.info("the traceback is in %s", shown(entry.path / ERROR))
    run = RunFolder(entry.path, {}, {}, resume=True, started=0.0)
    log.info("still to do: %s", run.next_steps)
    if entry.state != RUNNING:
        log.info("next: %s", printable(_next(entry.path)))


@app("show")
def main(cfg: DictConfig) -> str:
    """Print the contents of a run's or artifact's folder, and return its state."""
    check_config(cfg, "show")
    entry = find_entry(Path(cfg.run))
    if entry.damage:
        log.warning("damaged: %s", entry.damage)
    elif entry.kind != "runs":
        _print(entry, about_artifact(entry.path))
        log.info("everything is in %s", shown(entry.path))
    elif entry.state == FINISHED:
        _print(entry, about_run(entry.path))
        show(entry.path)
    else:
        show_unfinished(entry)
    return entry.state
