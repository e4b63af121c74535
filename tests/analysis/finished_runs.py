"""Synthetic finished runs that are quick to make."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ilt.cli import app  # noqa: F401  (registers the schemas with Hydra)
from ilt.envs.spec import NO_ENV, EnvSpec
from ilt.evaluation.statistics import NOT_SCORED
from ilt.models.spec import ModelSpec
from ilt.registry import load_option
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.run import rollout
from ilt.settings import check_config, run_config
from ilt.tracking.records import RunRecord, read_run
from ilt.tracking.run_folder import read_config
from ilt.tracking.store import sha256
from ilt.training.fit import write_csv

CONF = Path(__file__).parents[2] / "conf"
COLUMNS = ("seed", "student_return", "expert_return", "random_return", "student_steps", "student_terminated")


@cache
def default_config() -> dict[str, Any]:
    """Return the content of `config.yaml` of a default run."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("train", ["run_name=any"])
    check_config(cfg)
    return run_config(cfg)


def finish_run(
    folder: Path,
    *,
    seed: int = 0,
    changes: Mapping[str, Any] | None = None,
    returns: Mapping[int, float] | None = None,
    selection_return: float = 0.0,
    results: Mapping[str, Any] | None = None,
    measure: str = "val/action_accuracy",
) -> Path:
    """Write a finished run that has no weights.

    Args:
        changes: config values by dotted key, in addition to the seed.
        returns: the student's returns by test seed; the expert's are higher by 1, the random policy's lower by 100.
        results: further entries of `results.json`.
        measure: the action metric in the curve.
    """
    config = OmegaConf.create({**default_config(), "seed": seed})
    for key, value in (changes or {}).items():
        OmegaConf.update(config, key, value, merge=False)
    returns = {30_000_000: 10.0, 30_000_001: 20.0, 30_000_002: 60.0} if returns is None else returns
    mean = float(np.mean(list(returns.values())))
    policy = {"return_mean": mean, "crash_rate": 0.0, "return_mean_interval": [mean - 2, mean + 2]}
    content = {
        "return_mean": mean,
        "return_mean_interval": [mean - 2, mean + 2],
        "expert_return_mean": mean + 1,
        "difference_to_expert": {"mean": -1.0, "interval": [-1.5, -0.5]},
        "success_rate": 0.25,
        "crash_rate": 0.5,
        "policies": {"expert": policy, "random": policy},
        "selection_return_mean": selection_return,
        "seed": seed,
        "seconds": {"imports": 8.0, "training": 30.0 + seed, "scoring": 10.0, "total": 50.0 + seed},
        "git_commit": "c0ffee" + "0" * 34,
        "python": "3.11.7",
        "packages": {"torch": "2.13.0"},
        "machine": "a machine",
        "files": {},
        **(results or {}),
    }
    curve = [
        {"step": 50, "train/loss": 1.0},
        {"step": 100, "val/loss": 0.5, measure: 0.7, "rollout/return_mean": selection_return - 50},
        {"step": 200, "val/loss": 0.2, measure: 0.9, "rollout/return_mean": selection_return},
    ]
    episodes = [(test_seed, value, value + 1, value - 100, 70, True) for test_seed, value in returns.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    (folder / "results.json").write_text(json.dumps(content))
    write_csv(folder / "curve.csv", curve)
    write_csv(folder / "episodes.csv", [dict(zip(COLUMNS, row, strict=True)) for row in episodes])
    return folder


def without_env(path: Path, *, loss: float = 0.5, **of_the_run: Any) -> RunRecord:
    """Return a finished run of recordings without an environment."""
    measured = {"selection_return_mean": None, "validation_loss": loss, "action_accuracy": 0.75}
    changes = {**of_the_run.pop("changes", {}), "env.id": NO_ENV}
    return finished(path, changes=changes, results={**NOT_SCORED, **measured}, **of_the_run)


def read(path: Path) -> RunRecord:
    return read_run(path.name, path, read_config(path))


def finished(path: Path, **of_the_run: Any) -> RunRecord:
    return read(finish_run(path, **of_the_run))


def roll_out_run(
    folder: Path,
    spec: EnvSpec,
    n_episodes: int = 5,
    *,
    changes: Mapping[str, Any] | None = None,
    context_length: int = 4,
    model: str = "nano",
) -> Path:
    """Write a finished run of an untrained student with real test episodes; `changes` as in `finish_run`."""
    torch.manual_seed(0)
    sizes = ModelSpec(
        model=load_option("model", model),
        head=load_option("head", "auto"),
        observation_dim=spec.observations.size(privileged=False),
        action_space=spec.action_space,
        context_length=context_length,
    )
    student, head = sizes.build()
    episodes = rollout(spec, SequencePolicy(student.eval(), head), spec.seeds("test", n_episodes))
    weights = folder / "weights" / "last.safetensors"
    weights.parent.mkdir(parents=True)
    sizes.save(student, weights)
    returns = dict(zip(episodes.seeds.tolist(), episodes.returns.tolist(), strict=True))
    files = {"weights/last.safetensors": sha256(weights)}
    return finish_run(folder, changes=changes, returns=returns, results={"files": files})
