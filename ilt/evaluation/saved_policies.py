"""Load saved policies by name or path: a run's student, an expert, or the random policy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ilt.envs.spec import NO_ENV, EnvSpec
from ilt.evaluation.policy_files import check_environment_of, folder_of
from ilt.experts.base import make_expert
from ilt.models.spec import ModelSpec
from ilt.rollout.policies import SequencePolicy
from ilt.rollout.recorded import RANDOM, Context, NamedPolicy, random_policy
from ilt.schema import ConfigError
from ilt.tracking.run_folder import RESULTS, read_finished
from ilt.tracking.store import Artifact, open_artifact, sha256


def read_policy(
    key: str,
    where: str,
    ctx: Context,
    *,
    deterministic: bool,
    target_return: float | None = None,
    trust: Sequence[str] | None = (),
) -> NamedPolicy:
    """Load the policy that a config key names. It may have been trained in a variant of the environment.

    Untrusted policies are safe to load: files are checked, and only code of `ilt` and of packages in `trust` is run.

    Args:
        key: the config key, for error messages.
        where: a folder or a name, as for `folder_of`, or `random`.
        target_return: what a return-conditioned student aims for; None for its own target.

    Raises:
        ConfigError: there is no such policy, it takes no target return, or its observations or actions do not fit the
            environment.
        UnreadableFileError: a file cannot be read.
        DamagedArtifactError: a file is missing or differs from the published one.
    """
    folder = None if where == RANDOM else folder_of(key, where, ctx.store.root)
    if folder is not None and (folder / RESULTS).is_file():
        return _student(key, folder, ctx, deterministic=deterministic, target_return=target_return, trust=trust)
    if target_return is not None:
        raise ConfigError(_NO_RETURNS.format(key=key, where=where, target_return=target_return))
    if folder is None:
        return random_policy(ctx.env)
    return _expert(key, open_artifact(folder), ctx, deterministic=deterministic, trust=trust)


_NO_RETURNS = (
    "target_return must be null unless {key} is a run with dataset.tokens=returns_states_actions, but {where} is not "
    "one, got {target_return}"
)


def _student(
    key: str,
    folder: Path,
    ctx: Context,
    *,
    deterministic: bool,
    target_return: float | None,
    trust: Sequence[str] | None,
) -> NamedPolicy:
    """Load a run's reported weights, with the context length that they were scored with."""
    run, _ = read_finished(folder, key=key)
    weights = f"weights/{run.evaluation.reported_checkpoint}.safetensors"
    spec, model, head = ModelSpec.load(folder / weights, trust=trust)
    if ctx.env.simulated:
        if run.env["id"] in (ctx.env.id, NO_ENV):
            check_fit(key, ctx.env, spec)
        check_environment_of(key, run.env, ctx.env, privileged=False, trust=trust)
    if target_return is not None and not spec.return_conditioned:
        raise ConfigError(_NO_RETURNS.format(key=key, where=folder, target_return=target_return))
    context_length = run.evaluation.context_length or spec.context_length
    identity: dict[str, Any] = {"weights": sha256(folder / weights), "context_length": context_length}
    if target_return is not None:
        identity["target_return"] = target_return
    return NamedPolicy(
        policy=SequencePolicy(
            model, head, context_length=context_length, deterministic=deterministic, target_return=target_return
        ),
        name=folder.name,
        identity=identity,
        deterministic=deterministic,
    )


def _expert(
    key: str, artifact: Artifact, ctx: Context, *, deterministic: bool, trust: Sequence[str] | None
) -> NamedPolicy:
    """Load an expert that was trained in an environment with the same id."""
    config = artifact.manifest.get("expert")
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise ConfigError(f"{key} must be an expert, but {artifact.path} is not one")
    values = OmegaConf.create(dict(config))
    made = make_expert(values, trust=trust)
    privileged = bool(values.get("privileged", False))
    check_environment_of(key, artifact.manifest["env"], ctx.env, privileged=privileged, trust=trust)
    return NamedPolicy(
        policy=made.policy(ctx.env, artifact.path, privileged=privileged, deterministic=deterministic),
        name=artifact.manifest["name"].rpartition("-")[0],
        identity=artifact.manifest["name"],  # not the folder's name, because the folder may have been renamed
        deterministic=deterministic,
        parents=(artifact,),
    )


def check_fit(key: str, env: EnvSpec, spec: ModelSpec) -> None:
    """Raise ConfigError unless an environment has the observations and the actions of a student.

    A student of recordings may know fewer actions than the environment has, because nobody demonstrated the others.
    """
    observation_dim, shown = spec.observation_dim - spec.return_conditioned, env.observations.size(privileged=False)
    if observation_dim != shown or not env.action_space.includes(spec.action_space):
        raise ConfigError(
            f"{key} takes observations of {observation_dim} numbers and acts in {spec.action_space}, but env shows it "
            f"{shown} numbers and has {env.action_space}"
        )
    learned, named = spec.observation_names, env.observations.names
    if learned is not None and tuple(learned) != named:
        raise ConfigError(f"{key} was trained to see {', '.join(learned)}, but env shows it {', '.join(named)}")
