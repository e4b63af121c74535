"""What a probe of a run leaves in its folder, and which runs it refuses."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from ilt.analysis.page import probe_figures
from ilt.cli.probe import main
from ilt.envs.spec import EnvSpec
from ilt.models.spec import ModelSpec
from ilt.registry import load_option
from ilt.schema import ConfigError
from ilt.settings import run_config
from ilt.tracking.run_folder import read_config
from ilt.tracking.store import DamagedArtifactError, sha256

CONF = str(Path(__file__).parents[2] / "conf")
PHYSICS = {"_target_": "ilt.envs.lunar_lander.RandomizedPhysics", "gravity": [-11.5, -5.0], "wind_power": [0.0, 20.0]}
QUICK = ["fit_seeds=selection:60", "seeds=test:55", "steps=[0,40,16,5000]", "processes=1"]


def probe(*overrides: str) -> None:
    """What `ilt probe` does."""
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        cfg = compose("probe", list(overrides))
    main(cfg)


def untrained_run(folder: Path, env: EnvSpec, config: dict[str, Any], model: str, context_length: int) -> None:
    """Write a finished run of an untrained student."""
    torch.manual_seed(0)
    spec = ModelSpec(
        model=load_option("model", model),
        head=load_option("head", "auto"),
        observation_dim=env.observations.dim,
        action_space=env.action_space,
        context_length=context_length,
    )
    weights = folder / "weights" / "last.safetensors"
    weights.parent.mkdir(parents=True)
    spec.save(spec.build()[0], weights)
    config = {**config, "env": {**config["env"], "wrappers": dict(env.wrappers)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "results.json").write_text(json.dumps({"files": {"weights/last.safetensors": sha256(weights)}}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of untrained students under hidden physics, one without memory; and one that nothing is hidden from."""
    folder = tmp_path_factory.mktemp("runs")
    with initialize_config_dir(version_base="1.3", config_dir=CONF):
        config = run_config(compose("train", ["run_name=any"]))
    plain = EnvSpec.from_config(config["env"])
    hidden = EnvSpec.from_config({**config["env"], "wrappers": {"physics": PHYSICS}})
    untrained_run(folder / "student", hidden, config, "nano", 4)
    untrained_run(folder / "memoryless", hidden, config, "nano", 1)
    for name in ("gru", "mlp"):
        untrained_run(folder / name, hidden, config, name, 4)
    untrained_run(folder / "plain", plain, config, "nano", 4)
    return folder


@pytest.fixture(scope="module")
def probed(runs: Path) -> Path:
    """What was left in the first run's folder, with the second one beside it."""
    before = (runs / "student" / "results.json").read_text()
    probe(f"run={runs}/student", f"other={runs}/memoryless", *QUICK)
    assert (runs / "student" / "results.json").read_text() == before
    return runs / "student" / "probe"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "probe.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_quantity_is_scored_in_every_place_of_both_students(probed: Path) -> None:
    found = {(row["run"], row["quantity"], row["source"], row["step"]) for row in rows(probed)}
    quantities = {"gravity", "wind_power", "wind_force"}  # what is hidden and varies
    places = {"present observation", "embedding", "layer 1"}
    assert {key[1] for key in found} == quantities
    assert len(found) == 2 * len(quantities) * len(places) * 3
    assert {(row["step"], row["n_fitted"], row["n_scored"]) for row in rows(probed)} >= {("0", "60", "55")}
    assert all(np.isfinite(float(row[name])) for row in rows(probed) for name in ("r2", "error", "shuffled_r2"))


def test_tables_and_figures_are_there_with_their_words(probed: Path) -> None:
    text = (probed / "probe.md").read_text()
    assert text.count("| gravity | layer 1 |") == 2
    told = json.loads((probed / "probe.json").read_text())
    assert told["runs"] == ["student", "memoryless"]
    assert (told["fit_seeds"], told["seeds"]) == ("selection:60", "test:55")
    assert set(told["words"]) == {"probe.png", "attention.png"}
    assert "gravity: " in told["words"]["probe.png"]
    assert "layer 1 looks back" in told["words"]["attention.png"]
    for name, words in told["words"].items():
        assert (probed / name).stat().st_size > 10_000
        assert f"![{words}]({name})" in text


def test_the_same_probe_again_says_the_same(probed: Path, runs: Path, tmp_path: Path) -> None:
    again = shutil.copytree(runs / "student", tmp_path / "student", ignore=shutil.ignore_patterns("probe"))
    probe(f"run={again}", *QUICK)
    ours = [row for row in rows(probed) if row["run"] == "student"]
    assert rows(again / "probe") == ours


@pytest.mark.parametrize(("name", "places"), [("gru", ["embedding", "state"]), ("mlp", ["layer 1", "layer 2"])])
def test_any_model_is_probed_and_only_a_transformer_attends(name: str, places: list[str], runs: Path) -> None:
    probe(f"run={runs}/{name}", *QUICK)
    folder = runs / name / "probe"
    assert list(dict.fromkeys(row["source"] for row in rows(folder))) == ["present observation", *places]
    assert list(json.loads((folder / "probe.json").read_text())["words"]) == ["probe.png"]
    assert not (folder / "attention.png").exists()
    assert [figure.title for figure in probe_figures(runs / name)] == ["What can be read off it"]


def test_a_run_that_nothing_is_hidden_from_is_refused(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"run must be one whose env hides something"):
        probe(f"run={runs}/plain", *QUICK)
    assert not (runs / "plain" / "probe").exists()


@pytest.mark.parametrize("other", ["plain", "student"])
def test_only_another_run_in_the_same_environment_compares(other: str, runs: Path) -> None:
    with pytest.raises(ConfigError, match="other must be another run, in the environment of"):
        probe(f"run={runs}/student", f"other={runs}/{other}", *QUICK)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("fit_seeds=test:50:10", "fit_seeds must be others than seeds=test:55, got test:50:10"),
        ("fit_seeds=mine:5", "fit_seeds must be BLOCK:COUNT"),
        ("seeds=test:1000001", "seeds must stay in env.seed_blocks.test"),
        ("steps=[5000]", "steps must hold one that 50 episodes of both fit_seeds and seeds reach"),
        ("other=nowhere", "other must be the folder of a run"),
        ("checkpoint=best", "run must be a run whose results.json lists weights/best.safetensors"),
    ],
)
def test_what_cannot_be_probed_is_refused_by_its_key(argument: str, message: str, runs: Path) -> None:
    with pytest.raises(ValueError, match=message):
        probe(f"run={runs}/student", *QUICK, argument)


def test_damaged_weights_are_refused(runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "student", tmp_path / "damaged")
    weights = bytearray((run / "weights" / "last.safetensors").read_bytes())
    weights[-1] ^= 1
    (run / "weights" / "last.safetensors").write_bytes(weights)
    with pytest.raises(DamagedArtifactError, match="is not the file that its manifest describes"):
        probe(f"run={run}", *QUICK)


@pytest.mark.parametrize("key", ["model", "env"])
def test_nothing_that_somebody_elses_run_names_is_called(key: str, runs: Path, tmp_path: Path) -> None:
    run = shutil.copytree(runs / "student", tmp_path / "foreign")
    config = read_config(run)
    if key == "env":
        config["env"]["wrappers"]["physics"]["_target_"] = "os.abort"
    config["model"]["_target_"] = "os.abort"  # the weights say how they are built
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    if key == "model":
        probe(f"run={run}", *QUICK)
        return
    with pytest.raises(ConfigError, match=r"os\.abort is no component of ilt"):
        probe(f"run={run}", *QUICK)
