"""Find saved policies, and check that they fit an environment. Imports nothing heavy."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any

from ilt.envs.spec import NO_ENV, EnvSpec
from ilt.schema import ConfigError, config_hash, plain
from ilt.tracking.reading import reading
from ilt.tracking.records import setting
from ilt.tracking.run_folder import CONFIG, RESULTS, read_config, read_finished
from ilt.tracking.store import MANIFEST, SHIPPED, open_artifact

log = logging.getLogger(__name__)

RANDOM = "random"
"""Name of the random policy, which every policy is compared with."""


def runs_of(key: str, where: str) -> list[str]:
    """Return the runs that make up a policy: `where` itself, or all run folders that it matches as a pattern.

    A pattern skips folders that were set aside when a run started over (`NAME.1`), and, with a warning, damaged and
    unfinished runs. Raise ConfigError, naming `key`, if it matches no run, or runs that differ in more than their
    training seed.
    """
    if "*" not in where:
        return [where]
    matched = {path.rpartition("/")[0] for path in glob(f"{where}/config.yaml")}
    settings, runs = {}, []
    for path in sorted(path for path in matched if re.sub(r"\.\d+$", "", path) not in matched - {path}):
        try:
            read_finished(Path(path), key=key)
            with reading(Path(path, CONFIG)):
                settings[config_hash(setting(read_config(Path(path), key=key)))] = path
            runs.append(path)
        except ValueError as error:
            log.warning("left out: %s", error)
    if not runs:
        raise ConfigError(f"{key} must match the folder of at least one finished run, got {where}")
    if len(settings) > 1:
        examples = " and ".join(sorted(settings.values()))
        raise ConfigError(f"{key} must match runs that differ only in their seed, but {examples} differ in more")
    return runs


def folder_of(key: str, where: str, root: Path) -> Path:
    """Return the folder of a run or an expert. Raise ConfigError, naming `key`, if there is none.

    Args:
        where: the folder, a name in `runs` or `experts` below `root`, or the name of an expert that comes with the
            package.
        root: usually `outputs/`.
    """
    for folder in (Path(where), root / "runs" / where, root / "experts" / where, SHIPPED["experts"] / where):
        if (folder / RESULTS).is_file() or (folder / MANIFEST).is_file():
            return folder
    raise ConfigError(
        f"{key} must be the folder of a finished run (with a {RESULTS}) or of an expert (with a {MANIFEST}), a name in "
        f"{root / 'runs'} or {root / 'experts'}, or {RANDOM}, got {where}"
    )


def check_policies(env: EnvSpec, policies: Mapping[str, str], root: Path, *, trust: Sequence[str] | None = ()) -> None:
    """Raise ConfigError for a policy that does not exist or does not fit the environment.

    Args:
        policies: a folder, a pattern that matches several runs, or a name, by policy; see `folder_of`.
        root: usually `outputs/`.
        trust: packages besides `ilt` whose code may be run.
    """
    for name, where in policies.items():
        for one in runs_of(key := f"policies.{name}", where) if where != RANDOM else ():
            folder = folder_of(key, one, root)
            if (folder / RESULTS).is_file():
                check_environment_of(key, read_finished(folder, key=key)[0].env, env, privileged=False, trust=trust)
            elif isinstance(expert := (manifest := open_artifact(folder).manifest).get("expert"), Mapping):
                privileged = bool(expert.get("privileged", False))
                check_environment_of(key, manifest["env"], env, privileged=privileged, trust=trust)


def check_environment_of(
    key: str, trained_in: Mapping[str, Any], env: EnvSpec, *, privileged: bool, trust: Sequence[str] | None
) -> None:
    """Raise ConfigError unless an environment has the id and the observations that a policy was trained with.

    A student of recordings without an environment may act in any; its weights say which observations fit.

    Args:
        trained_in: config of the environment that the policy was trained in; `id` and `wrappers` are used.
        privileged: whether the policy also sees what is hidden from the student.
        trust: packages besides `ilt` whose code may be run to make that environment.
    """
    if trained_in["id"] == NO_ENV:
        return
    if trained_in["id"] != env.id:
        raise ConfigError(f"{key} was trained in {trained_in['id']} and cannot act in env.id={env.id}")
    own = replace(env, wrappers=plain(trained_in["wrappers"]), trust=None if trust is None else tuple(trust))
    learned, shown = (spec.observations.shown(privileged=privileged) for spec in (own, env))
    if learned != shown:
        raise ConfigError(f"{key} was trained to see {', '.join(learned)}, but env shows it {', '.join(shown)}")
