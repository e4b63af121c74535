"""Policies that were trained before and are named by where they are: a run's student, an expert, the random policy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ilt.experts.base import make_expert
from ilt.models.spec import ModelSpec
from ilt.rollout.policies import Policy, RandomPolicy, SequencePolicy
from ilt.rollout.recorded import RANDOM, Context
from ilt.schema import ConfigError, plain
from ilt.tracking.run_folder import RESULTS, read_finished
from ilt.tracking.store import MANIFEST, SHIPPED, Artifact, open_artifact, sha256


@dataclass(frozen=True, kw_only=True)
class SavedPolicy:
    """A policy that can act in an environment.

    Attributes:
        policy: what acts.
        name: of the folder that it comes from, without a hash.
        identity: what decides its actions, beside `deterministic`.
        deterministic: whether it takes its most likely action, or a sample.
        parents: the artifacts that it comes from.
    """

    policy: Policy
    name: str
    identity: Any
    deterministic: bool
    parents: tuple[Artifact, ...] = ()


def read_policy(
    key: str, where: str, ctx: Context, *, deterministic: bool, trust: Sequence[str] | None = ()
) -> SavedPolicy:
    """The policy that a config key names, to act in an environment in which it need not have been trained.

    It may be somebody else's: its files are checked, and no code is run but that of `ilt` and of packages in `trust`.

    Args:
        key: the config key, for errors.
        where: the folder of a finished run or of an expert, a name in `outputs/runs` or `outputs/experts`, the name of
            an expert that comes with the package, or `random`.

    Raises:
        ConfigError: there is none, or it does not see what the environment shows it.
        DamagedArtifactError: a file is missing or is not the one that was published.
    """
    root = ctx.store.root
    if where == RANDOM:
        policy = RandomPolicy(ctx.env.action_space)
        return SavedPolicy(policy=policy, name=RANDOM, identity=RANDOM, deterministic=False)
    for folder in (Path(where), root / "runs" / where, root / "experts" / where, SHIPPED["experts"] / where):
        if (folder / RESULTS).is_file():
            return _student(key, folder, ctx, deterministic=deterministic, trust=trust)
        if (folder / MANIFEST).is_file():
            return _expert(key, open_artifact(folder), ctx, deterministic=deterministic, trust=trust)
    raise ConfigError(
        f"{key} must be the folder of a finished run (with a {RESULTS}) or of an expert (with a {MANIFEST}), a name in "
        f"{root / 'runs'} or {root / 'experts'}, or {RANDOM}, got {where}"
    )


def _student(key: str, folder: Path, ctx: Context, *, deterministic: bool, trust: Sequence[str] | None) -> SavedPolicy:
    """A run's reported weights, with the context that they were scored with."""
    run, _ = read_finished(folder, key=key)
    weights = f"weights/{run.evaluation.reported_checkpoint}.safetensors"
    spec, model, head = ModelSpec.load(folder / weights, trust=trust)
    _check_fit(key, run.env, ctx, spec.observation_dim, spec.action_space, privileged=False, trust=trust)
    context_length = run.evaluation.context_length or spec.context_length
    return SavedPolicy(
        policy=SequencePolicy(model, head, context_length=context_length, deterministic=deterministic),
        name=folder.name,
        identity={"weights": sha256(folder / weights), "context_length": context_length},
        deterministic=deterministic,
    )


def _expert(
    key: str, artifact: Artifact, ctx: Context, *, deterministic: bool, trust: Sequence[str] | None
) -> SavedPolicy:
    """An expert, trained in whatever environment of the same id."""
    config = artifact.manifest.get("expert")
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise ConfigError(f"{key} must be an expert, but {artifact.path} is none")
    values = OmegaConf.create(dict(config))
    made = make_expert(values, trust=trust)
    privileged = bool(values.get("privileged", False))
    _check_fit(key, artifact.manifest["env"], ctx, None, None, privileged=privileged, trust=trust)
    return SavedPolicy(
        policy=made.policy(ctx.env, artifact.path, privileged=privileged, deterministic=deterministic),
        name=artifact.manifest["name"].rpartition("-")[0],
        identity=artifact.manifest["name"],  # not its folder's, which may be another one by now
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
    """Raise ConfigError unless a policy that was trained in `env` is shown by `ctx.env` what it was shown there.

    Args:
        env: its `id` and `wrappers`.
        observation_dim, action_space: what the policy takes and gives; None if it does not say.
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
