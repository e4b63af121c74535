"""The W&B workspace that `ilt dashboard` builds."""

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ilt.cli.dashboard import SWEPT, as_json, build
from tests.cli.commands import KEYLESS, run_command


def panels(workspace: dict[str, Any]) -> list[dict[str, Any]]:
    sections = workspace["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def names(workspace: dict[str, Any], *keys: str) -> set[str]:
    """Return every name that panels have under these keys of their config."""
    values = [panel["config"].get(key) or [] for panel in panels(workspace) for key in keys]
    return {str(name) for value in values for name in ([value] if isinstance(value, str) else value)}


def curves(workspace: dict[str, Any]) -> set[str]:
    """Return the metrics drawn over steps or as bars."""
    return names(workspace, "metrics", "xAxis") - accessors(workspace)


def accessors(workspace: dict[str, Any]) -> set[str]:
    """Return the values compared between runs: `summary:name` or `config:key.value`."""
    columns = [column for panel in panels(workspace) for column in panel["config"].get("columns") or []]
    scattered = {name for name in names(workspace, "xAxis", "yAxis") if name.startswith(("summary:", "config:"))}
    return scattered | {column["accessor"] for column in columns}


def tables(workspace: dict[str, Any]) -> set[str]:
    exps = [p["config"]["panel2Config"]["exp"] for p in panels(workspace) if p["viewType"] == "Weave"]
    return {exp["fromOp"]["inputs"]["key"]["val"] for exp in exps}


def test_rollouts_have_bands_over_seeds_and_parameters_are_plotted_against_selection_returns() -> None:
    workspace = as_json(build("us", "ilt"))
    assert (workspace["entity"], workspace["project"]) == ("us", "ilt")
    drawn = [panel["config"] for panel in panels(workspace) if panel["config"].get("groupAgg")]
    assert {(each["groupAgg"], each["groupArea"], each["aggregate"]) for each in drawn} == {("mean", "minmax", True)}
    assert [each["groupBy"] for each in drawn] == ["setting.value"] * 4 + ["group"] * 3
    assert "summary:test/return_mean" not in accessors(workspace)
    assert names(workspace, "targetKey") == {"selection/return_mean"}
    assert len(accessors(workspace) - {"summary:selection/return_mean"}) == len(SWEPT)


def test_the_dashboard_is_written_as_json_without_a_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with patch.dict(os.environ, KEYLESS):
        run_command("dashboard", f"outputs={tmp_path}", "project=other")
    assert "no W&B API key" in caplog.text
    written = json.loads((tmp_path / "dashboard.json").read_text())
    assert written["project"] == "other"
    assert accessors(written) == accessors(as_json(build("", "other")))
