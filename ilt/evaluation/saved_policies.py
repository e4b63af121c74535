"""Load saved policies by name or path: a run's student, an expert, or the random policy."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ilt.experts.base import make_expert
from ilt.models.spec import ModelSpec
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.recorded import RANDOM, Context, NamedPolicy, random_policy
from ilt.schema import ConfigError, plain
from ilt.tracking.run_folder import RESULTS, read_finished
from ilt.tracking.store import MANIFEST, SHIPPED, Artifact, open_artifact, sha256


def read_policy(
    key: str, where: str, ctx: Context, *, deterministic: bool, trust: Sequence[str] | None = ()
) -> NamedPolicy:
    """Load the policy that a config key names; it may have been trained in a variant of the environment.

    Policies of other people are safe to load: files are checked, and only code of `ilt` and of packages in `trust` is
    run.

    Args:
        key: the config key, for errors.
        where: the folder of a finished run or of an expert, a name in `outputs/runs` or `outputs/experts`, the name of
            an expert that comes with the package, or `random`.

    Raises:
        ConfigError: there is no such policy, or its observations or actions do not fit the environment.
        DamagedArtifactError: a file is missing or differs from the published one.
    """
    root = ctx.store.root
    if where == RANDOM:
        return random_policy(ctx.env)
    for folder in (Path(where), root / "runs" / where, root / "experts" / where, SHIPPED["experts"] / where):
        if (folder / RESULTS).is_file():
            return _student(key, folder, ctx, deterministic=deterministic, trust=trust)
        if (folder / MANIFEST).is_file():
            return _expert(key, open_artifact(folder), ctx, deterministic=deterministic, trust=trust)
    raise ConfigError(
        f"{key} must be the folder of a finished run (with a {RESULTS}) or of an expert (with a {MANIFEST}), a name in "
        f"{root / 'runs'} or {root / 'experts'}, or {RANDOM}, got {where}"
    )


def _student(key: str, folder: Path, ctx: Context, *, deterministic: bool, trust: Sequence[str] | None) -> NamedPolicy:
    """Load a run's reported weights, to act with the context length that they were scored with."""
    run, _ = read_finished(folder, key=key)
    weights = f"weights/{run.evaluation.reported_checkpoint}.safetensors"
    spec, model, head = ModelSpec.load(folder / weights, trust=trust)
    _check_fit(key, run.env, ctx, spec.observation_dim, spec.action_space, privileged=False, trust=trust)
    context_length = run.evaluation.context_length or spec.context_length
    return NamedPolicy(
        policy=SequencePolicy(model, head, context_length=context_length, deterministic=deterministic),
        name=folder.name,
        identity={"weights": sha256(folder / weights), "context_length": context_length},
        deterministic=deterministic,
    )


def _expert(
    key: str, artifact: Artifact, ctx: Context, *, deterministic: bool, trust: Sequence[str] | None
) -> NamedPolicy:
    """Load an expert that was trained in an environment of the same id."""
    config = artifact.manifest.get("expert")
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise ConfigError(f"{key} must be an expert, but {artifact.path} is none")
    values = OmegaConf.create(dict(config))
    made = make_expert(values, trust=trust)
    privileged = bool(values.get("privileged", False))
    _check_fit(key, artifact.manifest["env"], ctx, None, None, privileged=privileged, trust=trust)
    return NamedPolicy(
        policy=made.policy(ctx.env, artifact.path, privileged=privileged, deterministic=deterministic),
        name=artifact.manifest["name"].rpartition("-")[0],
        identity=artifact.manifest["name"],  # not the folder's name: the folder may have been renamed
        deterministic=deterministic,
        parents=(artifact,),
    )


def _check_fit(
    key: str,
    env: Mapping[str, Any],
    ctx: Context,
    observation_dim: int | None,
    action_space: Any,
    *,
    privileged: bool,
    trust: Sequence[str] | None,
) -> None:
    """Raise ConfigError unless `ctx.env` has the id, observations and actions that the policy was trained with.

    Args:
        env: `id` and `wrappers` of the environment in which the policy was trained.
        observation_dim, action_space: of the policy; `observation_dim` None skips the check of both.
    """
    spec = ctx.env
    if env["id"] != spec.id:
        raise ConfigError(f"{key} was trained in {env['id']} and cannot act in env.id={spec.id}")
    shown = spec.observations.shown(privileged=privileged)
    if observation_dim is not None and (observation_dim != len(shown) or action_space != spec.action_space):
        raise ConfigError(
            f"{key} takes observations of {observation_dim} numbers and acts in {action_space}, but env shows it "
            f"{len(shown)} numbers and has {spec.action_space}"
        )
    own = replace(spec, wrappers=plain(env["wrappers"]), trust=None if trust is None else tuple(trust))
    learned = own.observations.shown(privileged=privileged)
    if learned != shown:
        raise ConfigError(f"{key} was trained to see {', '.join(learned)}, but env shows it {', '.join(shown)}")
