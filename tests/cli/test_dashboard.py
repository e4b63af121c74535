"""The W&B workspace as code."""

import json
from pathlib import Path
from typing import Any

import pytest

from ilt.cli.dashboard import SWEPT, as_json, build
from tests.cli.commands import run_command


def panels(workspace: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The panels of each section."""
    return {
        section["name"]: section["panels"] for section in workspace["spec"]["section"]["panelBankConfig"]["sections"]
    }


def names(workspace: dict[str, Any], *keys: str) -> set[str]:
    """All that panels name under these keys of their config."""
    found: set[str] = set()
    for panel in (panel for section in panels(workspace).values() for panel in section):
        for key in keys:
            value = panel["config"].get(key) or []
            found |= {value} if isinstance(value, str) else {str(name) for name in value}
    return found


def curves(workspace: dict[str, Any]) -> set[str]:
    """What is drawn over steps, or as bars."""
    return names(workspace, "metrics", "xAxis") - accessors(workspace)


def accessors(workspace: dict[str, Any]) -> set[str]:
    """What is compared between runs: `summary:name` or `config:key.value`."""
    columns = [c for section in panels(workspace).values() for p in section for c in p["config"].get("columns") or []]
    scattered = {name for name in names(workspace, "xAxis", "yAxis") if name.startswith(("summary:", "config:"))}
    return scattered | {column["accessor"] for column in columns}


def tables(workspace: dict[str, Any]) -> set[str]:
    shown = [panel for section in panels(workspace).values() for panel in section if panel["viewType"] == "Weave"]
    exps = [panel["config"]["panel2Config"]["exp"] for panel in shown]
    return {exp["fromOp"]["inputs"]["key"]["val"] for exp in exps}


def test_it_shows_what_one_wants_to_see_of_a_sweep() -> None:
    workspace = as_json(build("us", "ilt"))
    assert (workspace["entity"], workspace["project"]) == ("us", "ilt")
    kinds = {panel["viewType"] for section in panels(workspace).values() for panel in section}
    assert {"Run History Line Plot", "Bar Chart", "Parallel Coordinates Plot", "Parameter Importance"} <= kinds
    assert {"Media Browser", "Weave", "Scatter Plot"} <= kinds


def test_returns_have_bands_over_seeds_and_losses_are_by_group() -> None:
    workspace = panels(as_json(build("us", "ilt")))
    for section, grouped_by in (
        ("Rollouts: mean and range over seeds", "setting.value"),
        ("Learning: by group", "group"),
    ):
        for panel in workspace[section]:
            grouping = [panel["config"][key] for key in ("groupBy", "groupAgg", "groupArea", "aggregate")]
            assert grouping == [grouped_by, "mean", "minmax", True]


def test_parameters_are_laid_beside_returns_that_may_choose() -> None:
    workspace = as_json(build("us", "ilt"))
    assert accessors(workspace) >= {"summary:selection/return_mean"}
    assert "summary:test/return_mean" not in accessors(workspace)
    assert names(workspace, "targetKey") == {"selection/return_mean"}
    assert len(accessors(workspace)) == len(SWEPT) + 1


def test_it_is_written_as_json_where_there_is_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("NETRC", "/dev/null")
    caplog.set_level("INFO")
    run_command("dashboard", f"outputs={tmp_path}", "project=other")
    assert "no W&B API key" in caplog.text
    written = json.loads((tmp_path / "dashboard.json").read_text())
    assert written["project"] == "other"
    assert accessors(written) == accessors(as_json(build("", "other")))
