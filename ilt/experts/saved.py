"""Experts that were trained in another variant of the environment, such as the one in which nothing is hidden."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ilt.envs.actions import ActionSpace
from ilt.envs.spec import EnvSpec
from ilt.experts.base import Expert, Report, Score, make_expert
from ilt.rollout.policies import Policy
from ilt.schema import ConfigError
from ilt.tracking.reading import read_json
from ilt.tracking.store import MANIFEST, SHIPPED, Artifact, open_artifact, write_json

_ABOUT = "saved.json"
"""The original's entries of its manifest: environment and expert."""


class SavedExpert(Expert):
    """A trained expert, or a policy of Stable-Baselines3 that `ilt expert` has read, in a variant of its environment.

    It gets the numbers that it was trained to see, in their order. They are found by name among those that the student
    sees and, with `expert.privileged`, those that are hidden from it.

    Args:
        path: the expert's folder, or the name of one that comes with the package. Only code of `ilt` is run.
    """

    def __init__(self, *, path: str) -> None:
        self._path = path

    def identity(self) -> dict[str, Any]:
        return {"path": dict(self._original().manifest["files"])}

    def check(self, env: EnvSpec, *, privileged: bool) -> None:
        self._columns(env, self._original().manifest, privileged=privileged)

    def train(
        self, env: EnvSpec, folder: Path, *, seed: int, privileged: bool, score: Score, report: Report
    ) -> dict[str, Any]:
        original = self._original()
        for name in original.manifest["files"]:
            shutil.copyfile(original.path / name, folder / name)
        write_json(folder / _ABOUT, {key: original.manifest[key] for key in ("env", "expert")})
        return {"from": original.manifest["name"]}

    def policy(self, env: EnvSpec, folder: Path, *, privileged: bool, deterministic: bool) -> Policy:
        about = read_json(folder / _ABOUT, within=folder)
        columns = self._columns(env, about, privileged=privileged)
        values = about["expert"]
        own = make_expert(values, trust=()).policy(
            _trained_in(env, about),
            folder,
            privileged=bool(values.get("privileged", False)),
            deterministic=deterministic,
        )
        return _Selecting(own, columns, env.action_space, privileged=privileged)

    def _original(self) -> Artifact:
        """Open the expert's folder. Raise ConfigError if there is none, and DamagedArtifactError if it is damaged."""
        for folder in (Path(self._path), SHIPPED["experts"] / self._path):
            if (folder / MANIFEST).is_file():
                artifact = open_artifact(folder)
                expert = artifact.manifest.get("expert")
                if isinstance(expert, Mapping) and _ABOUT not in artifact.manifest["files"]:
                    return artifact
        raise ConfigError(
            "expert.path must be the folder of a trained expert, such as outputs/experts/NAME, or the name of one that "
            f"comes with the package, got {self._path}"
        )

    def _columns(self, env: EnvSpec, about: Mapping[str, Any], *, privileged: bool) -> np.ndarray:
        """Return where the expert's observations are in those of the environment.

        Raise ConfigError, naming the key, if it was trained in another environment, or to see something else.
        """
        own = _trained_in(env, about)
        if own.id != env.id or own.action_space != env.action_space:
            raise ConfigError(f"expert.path={self._path} was trained in {own.id} and cannot act in env.id={env.id}")
        learned = own.observations.shown(privileged=bool(about["expert"].get("privileged", False)))
        shown = env.observations.shown(privileged=privileged)
        if absent := [name for name in learned if name not in shown]:
            behind = set(absent) <= set(env.observations.privileged_names)
            raise ConfigError(
                f"expert.privileged must be true, got false: expert.path={self._path} was trained to see "
                f"{', '.join(absent)}, which env hides from students"
                if behind
                else f"expert.path={self._path} was trained to see {', '.join(absent)}, but env shows "
                f"{', '.join(env.observations.shown(privileged=True))}"
            )
        return np.array([shown.index(name) for name in learned])


def _trained_in(env: EnvSpec, about: Mapping[str, Any]) -> EnvSpec:
    trained_in = about["env"]
    return replace(env, id=trained_in["id"], kwargs=trained_in["kwargs"], wrappers=trained_in["wrappers"], trust=())


class _Selecting(Policy):
    """A policy that sees some of the observation's numbers, at these `columns`."""

    def __init__(self, policy: Policy, columns: np.ndarray, action_space: ActionSpace, *, privileged: bool) -> None:
        self._policy, self._columns = policy, columns
        self.action_space: ActionSpace = action_space
        self.privileged = privileged

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> None:
        self._policy.reset(slots, seeds)

    def act(self, slots: np.ndarray, observations: np.ndarray) -> np.ndarray:
        return self._policy.act(slots, observations[:, self._columns])

    def observe_reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        self._policy.observe_reward(slots, rewards)

    def set_deterministic(self, deterministic: bool) -> None:
        self._policy.set_deterministic(deterministic)
