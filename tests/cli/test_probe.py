"""`ilt probe`: the files it writes, and the runs it refuses."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from ilt.analysis.page import probe_figures
from ilt.cli.figures import find_figures
from ilt.envs.spec import EnvSpec
from ilt.schema import ConfigError
from ilt.tracking.run_folder import read_config
from ilt.tracking.store import DamagedArtifactError
from tests.analysis.finished_runs import default_config, roll_out_run
from tests.cli.commands import run_command

PHYSICS = {"_target_": "ilt.envs.lunar_lander.RandomizedPhysics", "gravity": [-11.5, -5.0], "wind_power": [0.0, 20.0]}


def probe(run: Path, *overrides: str) -> None:
    """Probe a run on few episodes."""
    quick = ["fit_seeds=selection:60", "seeds=test:55", "steps=[0,40,16,5000]", "processes=1"]
    run_command("probe", f"run={run}", *quick, *overrides)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return runs of untrained students under hidden physics, one without memory, and one with nothing hidden."""
    folder = tmp_path_factory.mktemp("runs")
    students = {"student": ("nano", 4), "memoryless": ("nano", 1), "gru": ("gru", 4), "mlp": ("mlp", 4)}
    env = default_config()["env"]
    for name, (model, context_length) in {**students, "plain": ("nano", 4)}.items():
        wrappers = {} if name == "plain" else {"physics": PHYSICS}
        spec, changes = EnvSpec.from_config({**env, "wrappers": wrappers}), {"env.wrappers": wrappers}
        roll_out_run(folder / name, spec, 1, changes=changes, context_length=context_length, model=model)
    return folder


@pytest.fixture(scope="module")
def probed(runs: Path) -> Path:
    """Probe the first run with the second for comparison; return the folder with the probe."""
    before = (runs / "student" / "results.json").read_text()
    probe(runs / "student", f"other={runs}/memoryless")
    assert (runs / "student" / "results.json").read_text() == before
    return runs / "student" / "probe"


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """Return a copy of the first run without a probe."""
    return shutil.copytree(runs / "student", tmp_path / "student", ignore=shutil.ignore_patterns("probe"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "probe.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_quantity_is_scored_at_every_source_of_both_students(probed: Path) -> None:
    found = {(row["run"], row["quantity"], row["source"], row["step"]) for row in rows(probed)}
    quantities = {"gravity", "wind_power", "wind_force"}  # hidden and varying
    assert {key[1] for key in found} == quantities
    assert len(found) == 2 * len(quantities) * len(["present observation", "embedding", "layer 1"]) * 3
    assert {(row["step"], row["n_fitted"], row["n_scored"]) for row in rows(probed)} >= {("0", "60", "55")}
    assert all(np.isfinite(float(row[name])) for row in rows(probed) for name in ("r2", "error", "shuffled_r2"))


def test_tables_and_figures_are_written_with_descriptions(probed: Path) -> None:
    text, content = (probed / "probe.md").read_text(), json.loads((probed / "probe.json").read_text())
    assert text.count("| gravity | layer 1 |") == 2
    assert content["runs"] == ["student", "memoryless"]
    assert (content["fit_seeds"], content["seeds"]) == ("selection:60", "test:55")
    assert set(content["words"]) == {"probe.png", "attention.png"}
    assert "gravity: " in content["words"]["probe.png"]
    assert "layer 1 looks back" in content["words"]["attention.png"]
    for name, words in content["words"].items():
        assert (probed / name).stat().st_size > 10_000
        assert f"![{words}]({name})" in text
    assert {"probe", "attention"} <= find_figures(probed.parent).keys()  # `ilt figures` can redraw them


def test_a_repeated_probe_gives_the_same_scores_and_ignores_the_model_in_the_config(probed: Path, copy: Path) -> None:
    config = {**read_config(copy), "model": {"_target_": "os.abort"}}  # the model is built from the weights file
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    probe(copy)
    assert rows(copy / "probe") == [row for row in rows(probed) if row["run"] == "student"]


@pytest.mark.parametrize(("name", "places"), [("gru", ["embedding", "state"]), ("mlp", ["layer 1", "layer 2"])])
def test_any_model_can_be_probed_but_only_transformers_have_attention_maps(
    name: str, places: list[str], runs: Path
) -> None:
    probe(runs / name)
    folder = runs / name / "probe"
    assert list(dict.fromkeys(row["source"] for row in rows(folder))) == ["present observation", *places]
    assert list(json.loads((folder / "probe.json").read_text())["words"]) == ["probe.png"]
    assert not (folder / "attention.png").exists()
    assert [figure.title for figure in probe_figures(runs / name)] == ["What its activations encode"]


def test_a_run_with_nothing_hidden_is_refused(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"run must be a run whose env hides something"):
        probe(runs / "plain")
    assert not (runs / "plain" / "probe").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("other={runs}/plain", "other must be a run whose env hides something"),
        ("other={runs}/student", "other must be another run in the environment of"),
        ("other=nowhere", "other must be the folder of a run"),
        ("fit_seeds=test:50:60", "fit_seeds must not overlap seeds=test:55, got test:50:60"),
        ("fit_seeds=mine:5", "fit_seeds must be BLOCK:COUNT"),
        ("seeds=test:1000001", "seeds must stay in env.seed_blocks.test"),
        ("steps=[5000]", "steps must include one that 50 episodes of both fit_seeds and seeds reach"),
        ("checkpoint=best", "run must be a run whose results.json lists weights/best.safetensors"),
    ],
)
def test_probe_errors_name_the_key(argument: str, message: str, runs: Path) -> None:
    with pytest.raises(ValueError, match=message):
        probe(runs / "student", argument.format(runs=runs))


def test_damaged_weights_are_refused(copy: Path) -> None:
    (copy / "weights" / "last.safetensors").write_bytes(b"other")
    with pytest.raises(DamagedArtifactError, match="is not the file that its manifest describes"):
        probe(copy)


def test_code_named_by_a_foreign_env_is_not_called(copy: Path) -> None:
    config = read_config(copy)
    config["env"]["wrappers"]["physics"]["_target_"] = "os.abort"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"os\.abort is not a component of ilt"):
        probe(copy)
