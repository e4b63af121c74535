"""Finished runs, made up in a moment."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hydra import compose, initialize_config_dir

from ilt.cli import app  # noqa: F401  (which hands the schemas to Hydra)
from ilt.envs.spec import EnvSpec
from ilt.models.spec import ModelSpec
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.run import rollout
from ilt.settings import check_config, run_config
from ilt.tracking.store import sha256
from ilt.training.fit import write_csv

CONF = Path(__file__).parents[2] / "conf"


@cache
def _default_config() -> str:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("train", ["run_name=any"])
    check_config(cfg)
    return yaml.safe_dump(run_config(cfg), sort_keys=False)


def default_config() -> dict[str, Any]:
    """What `config.yaml` of a default run holds."""
    return yaml.safe_load(_default_config())


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
        changes: values of the config by dotted key, beside the seed.
        returns: the student's by test seed; the expert's are higher by 1, the random policy's lower by 100.
        results: what else `results.json` says.
        measure: what the curve says of actions.
    """
    config = {**default_config(), "seed": seed}
    for key, value in (changes or {}).items():
        *groups, last = key.split(".")
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
    returns = {30_000_000: 10.0, 30_000_001: 20.0, 30_000_002: 60.0} if returns is None else returns
    mean = float(np.mean(list(returns.values())))
    policy = {"return_mean": mean, "crash_rate": 0.0}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "results.json").write_text(
        json.dumps(
            {
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
        )
    )
    write_csv(
        folder / "curve.csv",
        [
            {"step": 50, "train/loss": 1.0},
            {"step": 100, "val/loss": 0.5, measure: 0.7, "rollout/return_mean": selection_return - 50},
            {"step": 200, "val/loss": 0.2, measure: 0.9, "rollout/return_mean": selection_return},
        ],
    )
    write_csv(
        folder / "episodes.csv",
        [
            {
                "seed": test_seed,
                "student_return": value,
                "expert_return": value + 1,
                "random_return": value - 100,
                "student_steps": 70,
                "student_terminated": True,
            }
            for test_seed, value in returns.items()
        ],
    )
    return folder


def roll_out_run(
    folder: Path,
    spec: EnvSpec,
    n_episodes: int = 5,
    *,
    changes: Mapping[str, Any] | None = None,
    context_length: int = 4,
) -> Path:
    """Write a finished run of an untrained student with real test episodes; `changes` as in `finish_run`."""
    torch.manual_seed(0)
    kind = {"_target_": "ilt.models.decoder.Decoder", "n_layer": 1, "n_head": 1, "d_model": 8}
    head = {"_target_": "ilt.models.heads.Categorical"}
    sizes = ModelSpec(
        model=kind,
        head=head,
        observation_dim=spec.observations.size(privileged=False),
        action_space=spec.action_space,
        context_length=context_length,
    )
    model, action_head = sizes.build()
    episodes = rollout(spec, SequencePolicy(model.eval(), action_head), spec.seeds("test", n_episodes))
    (folder / "weights").mkdir(parents=True)
    sizes.save(model, folder / "weights" / "last.safetensors")
    finish_run(
        folder,
        changes=changes,
        returns=dict(zip(episodes.seeds.tolist(), episodes.returns.tolist(), strict=True)),
        results={"files": {"weights/last.safetensors": sha256(folder / "weights" / "last.safetensors")}},
    )
    return folder
